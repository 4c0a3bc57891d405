"""A target for atheris, which is led by the branches that an input takes: ``python -m tests.fuzz.atheris_bodies -max_total_time=60``.

It is no dependency of the project; where it can be installed, the soak runs it.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from pythia.brokers.redis import fields
    from tests.fuzz.test_bodies_fuzz import DECODERS, ENCODINGS, KINDS, decoded


def one_input(data: bytes) -> None:
    """Some bytes as a body, and as the payload of a list."""
    provider = atheris.FuzzedDataProvider(data)
    decoder = DECODERS[provider.ConsumeIntInRange(0, len(DECODERS) - 1)]
    kind = KINDS[provider.ConsumeIntInRange(0, len(KINDS) - 1)]
    encoding = ENCODINGS[provider.ConsumeIntInRange(0, len(ENCODINGS) - 1)]
    raw = provider.ConsumeBytes(provider.remaining_bytes())
    decoded(decoder, raw, kind, encoding)
    envelope, marks = fields.envelope_of(fields.unwrap(raw))
    if not fields.attempt_of(marks) >= 1 or not isinstance(envelope.id, str):
        raise AssertionError(raw)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
