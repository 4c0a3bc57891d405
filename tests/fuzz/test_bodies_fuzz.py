"""Bodies of any bytes, and mutations of the hostile ones, under every codec: a value or a DecodeError within the limits."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.core.codecs import Decoder
from pythia.errors import DecodeError
from pythia.message import Envelope
from tests.fuzz.corpus import corpus

LIMITS = {"body_bytes": 100_000, "decompressed_bytes": 50_000, "depth": 64}
CODECS = ("json", "text", "bytes", "msgpack")
SEED = 20_260_101
LONGEST_SHOWN = 300


class Order(pydantic.BaseModel):
    sku: str
    amount: float = 1.0
    more: list[Any] = []


class Parcel(msgspec.Struct):
    weight: float
    labels: list[str] = []


DECODERS = [Decoder(CODECS, declared, **LIMITS) for declared in (None, Order, Parcel, dict[str, int], bytes)]
KINDS = [
    "application/json",
    "text/plain",
    "application/msgpack",
    "image/png",
    "",
    "application/x+json; charset=x",
    "\x00",
]
ENCODINGS = [
    None,
    "",
    "gzip",
    "deflate",
    "utf-16",
    "latin-1",
    "br",
    "hex",
    "utf-7",
    "utf-8-sig",
    "cp037",
    "shift_jis",
    "hz",
]


def decoded(decoder: Decoder, body: bytes, kind: str, encoding: str | None) -> Any:
    try:
        return decoder.decode(Envelope(body, id="i", content_type=kind, content_encoding=encoding))
    except DecodeError as error:
        assert error.reason in ("undecodable", "invalid", "too_large")
        assert len(str(error)) < LONGEST_SHOWN
        return error


def mutations(seed: int, count: int) -> Iterator[tuple[bytes, str, str | None]]:
    """Hostile bodies with some bytes changed, cut, doubled or put together, each with some type and encoding."""
    chance = random.Random(seed)
    seeds = [one.body[:4000] for one in corpus()]
    for _ in range(count):
        body = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(body) + 1)
            match chance.randrange(4):
                case 0:
                    body[at:at] = chance.randbytes(chance.randrange(1, 5))
                case 1:
                    del body[at : at + chance.randrange(1, 9)]
                case 2:
                    body[at : at + 1] = bytes([chance.randrange(256)])
                case _:
                    body[at:at] = chance.choice(seeds)[: chance.randrange(1, 200)]
        yield bytes(body), chance.choice(KINDS), chance.choice(ENCODINGS)


def check_mutations(seed: int, count: int) -> None:
    for number, (body, kind, encoding) in enumerate(mutations(seed, count)):
        decoded(DECODERS[number % len(DECODERS)], body, kind, encoding)


def test_no_mutation_of_a_hostile_body_is_more_than_a_decode_error() -> None:
    check_mutations(SEED, 4000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_mutation_of_a_million_is_more_than_a_decode_error() -> None:
    check_mutations(SEED + 1, 1_000_000)


@given(st.binary(max_size=300), st.sampled_from(KINDS), st.sampled_from(ENCODINGS), st.integers(0, len(DECODERS) - 1))
def test_any_bytes_are_a_value_or_a_decode_error(body: bytes, kind: str, encoding: str | None, which: int) -> None:
    decoded(DECODERS[which], body, kind, encoding)


@given(st.binary(max_size=200), st.integers(0, 200_000), st.sampled_from(["gzip", "deflate"]), st.integers(0, 9))
def test_what_is_inflated_is_within_its_limit_and_whole(head: bytes, zeros: int, encoding: str, level: int) -> None:
    plain = head + bytes(zeros)
    packed = gzip.compress(plain, level) if encoding == "gzip" else zlib.compress(plain, level)
    result = decoded(DECODERS[0], packed, "image/png", encoding)
    if len(packed) <= LIMITS["body_bytes"] and len(plain) <= LIMITS["decompressed_bytes"]:
        assert result == plain
        assert isinstance(decoded(DECODERS[0], packed[:-1], "image/png", encoding), DecodeError)
    else:
        assert isinstance(result, DecodeError)
        assert result.reason == "too_large"


@pytest.mark.parametrize("seconds", [300])
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_atheris_finds_no_body_that_is_more_than_a_decode_error(seconds: int) -> None:
    """In a process of its own: libFuzzer ends the one that it runs in."""
    pytest.importorskip("atheris")
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "tests.fuzz.atheris_bodies",
        f"-max_total_time={seconds}",
        "-timeout=5",
        "-rss_limit_mb=1024",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
