"""Messages that somebody may send who wishes us ill, or does not know better, and what must become of each.

Two kinds: those that any broker carries (a body, what it claims to be, properties), and marks: what our own adapters write
beside a message, forged. What only one broker can carry is in ``strangers``. A message is known by its body: no two are alike.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BODY_BYTES, DECOMPRESSED_BYTES, DEPTH = 100_000, 400_000, 128
"""The limits that the worker under fire has."""

HANDLED = frozenset({"rejected"})
"""It reached its handler, was retried, and reached it again: there it was rejected."""

UNDECODABLE = frozenset({"undecodable"})
TOO_LARGE = frozenset({"too_large"})
EXPIRED = frozenset({"expired"})
EXHAUSTED = frozenset({"attempts_exhausted"})

JSON = "application/json"
HUGE = "9" * 4300  # the longest number that Python reads
JUNK = ("abc", "", "-5", "0", "1.5", "1e400", "NaN", "inf", "0x10", "1_0", " 7 ", "٣", HUGE, HUGE + "9", "\x00", "☃")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One message. ``marks`` are written where the broker's adapter would look for its own."""

    name: str
    body: bytes
    content_type: str = JSON
    content_encoding: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)  # of an Envelope
    marks: Mapping[str, str] = field(default_factory=dict)
    ends: frozenset[str] = HANDLED  # the reasons that its dead letter may have


def corpus() -> list[Hostile]:
    """All that every broker carries."""
    return [*_texts(), *_numbers(), *_shapes(), *_compressed(), *_types(), *_properties(), *_headers(), *_forged()]


def _body(name: str) -> bytes:
    return json.dumps({"case": name}).encode()


# ── bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _texts() -> Iterator[Hostile]:
    said = '{"text": "größe ☃"}'
    broken = {
        "empty": b"",
        "space": b" \r\n\t",
        "nul": b"\x00",
        "nul-after": b'{"n": 1}\x00',
        "nul-inside": b'{"n": "\x00"}',
        "not-utf8": b'{"n": "\xff\xfe"}',
        "latin-1": '{"n": "größe"}'.encode("latin-1"),
        "utf8-bom": b"\xef\xbb\xbf" + said.encode(),
        "utf16": said.encode("utf-16"),
        "utf16-le": said.encode("utf-16-le"),
        "utf16-be": said.encode("utf-16-be"),
        "utf32": said.encode("utf-32"),
        "overlong-slash": b'{"n": "\xc0\xaf"}',
        "overlong-nul": b'{"n": "\xc0\x80"}',
        "raw-surrogate": b'{"n": "\xed\xa0\x80"}',
        "beyond-unicode": b'{"n": "\xf4\x90\x80\x80"}',
        "cut-character": b'{"n": "\xe2\x98',
        "escaped-surrogate": b'{"n": "\\ud800"}',
        "surrogates-swapped": b'{"n": "\\udc00\\ud800"}',
        "surrogate-name": b'{"\\udfff": 1}',
        "control": b'{"n": "\x1b[31m"}',
        "bad-escape": b'{"n": "\\x41"}',
        "cut-escape": b'{"n": "\\u12',
        "shell": b"$(reboot)",
        "xml": b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>",
        "yaml": b"a: &a [*b, *b]\nb: !!python/object/apply:os.system [id]",
        "pickle": b"cos\nsystem\n(S'id'\ntR.",
        "pickle-4": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
        "gzip-unsaid": gzip.compress(b'{"n": "unsaid"}', mtime=0),
    }
    yield from (Hostile(name=name, body=body, ends=UNDECODABLE) for name, body in broken.items())
    fine = {
        "escapes": b'{"n": "\\u0000\\u001b[2J\\r\\nSet-Cookie: x\\u2028\\u202e"}',
        "astral": b'{"n": "\\ud83d\\ude00"}',
        "html": b'{"n": "<script>alert(1)</script>"}',
        "format": b'{"n": "%s %n {0.__class__} ${jndi:ldap://x}"}',
        "noncharacter": '{"n": "\ufffe\uffff"}'.encode(),
        "combining": ('{"n": "a' + "\u0301" * 5000 + '"}').encode(),
    }
    yield from (Hostile(name=name, body=body) for name, body in fine.items())


def _numbers() -> Iterator[Hostile]:
    broken = {
        "nan": b'{"n": NaN}',
        "infinity": b"[Infinity]",
        "minus-infinity": b"[-Infinity]",
        "digits": b"[" + b"7" * 5000 + b"]",
        "minus-digits": b"[-" + b"7" * 5000 + b"]",
        "leading-zero": b"[01]",
        "plus": b"[+1]",
        "hexadecimal": b"[0x1]",
        "point": b"[1.]",
        "minus": b"[-]",
    }
    yield from (Hostile(name=f"number-{name}", body=body, ends=UNDECODABLE) for name, body in broken.items())
    fine = {
        "overflow": b"[1e400]",  # infinite, as it is to Python's own reader; NaN and Infinity by name are no JSON
        "minus-overflow": b"[-1e400]",
        "exponent": b"[1e99999999999999999999]",
        "underflow": b"[1e-400]",
        "minus-zero": b"[-0.0]",
        "beyond-64-bits": b"[18446744073709551616]",
        "beyond-double": b"[9007199254740993]",
        "fraction": b"[0." + b"3" * 20_000 + b"]",
        "long": b"[" + b"8" * 4000 + b"]",
    }
    yield from (Hostile(name=f"number-{name}", body=body) for name, body in fine.items())


def _shapes() -> Iterator[Hostile]:
    large = {
        "deep-lists": b"[" * 100_000,
        "deep-closed": b"[" * 40_000 + b"]" * 40_000,
        "deep-objects": b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
        "just-too-deep": b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1),
        "deep-later": b"[" + b"[]," * 1000 + b"[" * 5000,
        "body-bytes": b'"' + b"x" * BODY_BYTES + b'"',
    }
    yield from (Hostile(name=name, body=body, ends=TOO_LARGE) for name, body in large.items())
    broken = {
        "cut": b'{"n": 1',
        "two": b"{} {}",
        "comma": b"[1,]",
        "comment": b"[1] // no",
        "single-quotes": b"{'n': 1}",
        "no-name": b"{1: 2}",
        "unclosed-string": b'["' + b"\\" * 20_001,
        "undefined": b"undefined",
        "true-capital": b"True",
    }
    yield from (Hostile(name=name, body=body, ends=UNDECODABLE) for name, body in broken.items())
    fine = {
        "as-deep-as-allowed": b"[" * DEPTH + b"]" * DEPTH,
        "brackets-in-text": json.dumps("[{" * 10_000).encode(),
        "duplicate-names": b'{"a": 1, "a": 2, "a": {"b": 1, "b": 2}}',
        "proto": b'{"__proto__": {"admin": true}, "constructor": {"prototype": {}}, "__class__": "os.system"}',
        "py-object": b'{"py/object": "os.system", "$type": "System.Object", "@type": "java.lang.Runtime"}',
        "giant-name": b'{"' + b"k" * 60_000 + b'": 1}',
        "many-names": json.dumps({str(n): n for n in range(6000)}).encode(),
        "empty-name": b'{"": {"": [""]}}',
        "null": b"null",
        "true": b"true",
        "text": b'"text"',
        "number": b"7",
        "list": b"[]",
        "object": b"{}",
        "wide": b"[" + b"0," * 40_000 + b"0]",
        "spaces": b" " * 90_000 + b"1",
    }
    yield from (Hostile(name=name, body=body) for name, body in fine.items())


def _compressed() -> Iterator[Hostile]:
    small = b'{"n": "compressed"}'
    zipped, deflated = gzip.compress(small, mtime=0), zlib.compress(small)
    damaged = bytearray(zipped)
    damaged[-8] ^= 0xFF  # the checksum
    flags = bytearray(zipped)
    flags[3] = 0xFF
    broken = {
        "truncated": ("gzip", zipped[:-9]),
        "no-trailer": ("gzip", zipped[:-8]),
        "header-only": ("gzip", zipped[:10]),
        "magic-only": ("gzip", b"\x1f\x8b"),
        "nothing": ("gzip", b"\r"),
        "checksum": ("gzip", bytes(damaged)),
        "all-flags": ("gzip", bytes(flags)),
        "members": ("gzip", zipped + gzip.compress(b"{}", mtime=1)),
        "tail": ("gzip", zipped + b"tail"),
        "nested": ("gzip", gzip.compress(zipped, mtime=0)),
        "not-gzip": ("gzip", b'{"n": "not gzip"}'),
        "gzip-as-deflate": ("deflate", gzip.compress(b"[1]", mtime=2)),
        "deflate-as-gzip": ("gzip", deflated),
        "raw-deflate": ("deflate", deflated[2:-4]),
        "truncated-deflate": ("deflate", deflated[:-1]),
        "dictionary": ("deflate", b"\x78\xbb" + deflated[2:]),
        "brotli": ("br", b'{"n": "br"}'),
        "zstd": ("zstd", b'{"n": "zstd"}'),
        "list": ("gzip, gzip", b'{"n": "gzip, gzip"}'),
        "hex": ("hex", b"7b7d"),
        "rot13": ("rot13", b'{"n": "rot13"}'),
        "bz2": ("bz2", b'{"n": "bz2"}'),
        "unicode-escape": ("unicode_escape", b'{"n": "escape"}'),
        "punycode": ("punycode", b"[" + b"a" * 5000 + b"]"),
        "path": ("../../etc/passwd", b'{"n": "path"}'),
        "import": ("os.system", b'{"n": "import"}'),
        "utf-16-odd": ("utf-16", b"[1]"),
        "utf-8-in-utf-32": ("utf-32", b"[1, 2]"),
    }
    for name, (encoding, body) in broken.items():
        yield Hostile(name=f"encoding-{name}", body=body, content_encoding=encoding, ends=UNDECODABLE)
    bombs = {
        "bomb": ("gzip", gzip.compress(bytes(20_000_000), 9, mtime=0)),
        "bomb-deflate": ("deflate", zlib.compress(bytes(20_000_000), 9)),
        "bomb-spaces": ("gzip", gzip.compress(b" " * 5_000_000, 9, mtime=0)),
        "just-over": ("gzip", gzip.compress(b" " * DECOMPRESSED_BYTES + b"1", 9, mtime=0)),
        "deep": ("gzip", gzip.compress(b"[" * 300_000, 9, mtime=0)),
    }
    for name, (encoding, body) in bombs.items():
        yield Hostile(name=f"encoding-{name}", body=body, content_encoding=encoding, ends=TOO_LARGE)
    fine = {
        "gzip": ("gzip", zipped),
        "gzip-shouted": (" GZIP ", gzip.compress(b"[2]", mtime=2)),
        "gzip-named": ("gzip", _gzip_named(b"[3]", "../../etc/passwd")),
        "deflate": ("deflate", zlib.compress(b"[4]")),
        "many-blocks": ("deflate", _many_blocks(b"[" + b"1," * 3000 + b"1]")),
        "as-large-as-allowed": ("gzip", gzip.compress(b" " * (DECOMPRESSED_BYTES - 1) + b"1", 9, mtime=0)),
        "identity": ("identity", b'{"n": "identity"}'),
        "charset": ("latin-1", '{"n": "größe, latin-1"}'.encode("latin-1")),
        "charset-utf-16": ("utf-16", '{"n": "größe, utf-16"}'.encode("utf-16")),
        "charset-spelled": ("WINDOWS-1252", b'{"n": "\x80"}'),
    }
    for name, (encoding, body) in fine.items():
        yield Hostile(name=f"encoding-{name}", body=body, content_encoding=encoding)


def _gzip_named(data: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def _many_blocks(data: bytes) -> bytes:
    deflate = zlib.compressobj()
    blocks = [deflate.compress(bytes([byte])) + deflate.flush(zlib.Z_FULL_FLUSH) for byte in data]
    return b"".join(blocks) + deflate.flush()


def _types() -> Iterator[Hostile]:
    refused = {
        "msgpack": ("application/msgpack", b"\x81\xa1n\x01"),
        "msgpack-ext": ("application/x-msgpack", b"\xc9\xff\xff\xff\xff\x01"),
        "msgpack-length": ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
        "text-not-utf8": ("text/plain; charset=utf-8", b"\xff"),
        "json-shouted": ("APPLICATION/JSON", b"{'shouted'}"),
        "json-suffix": ("application/vnd.shop+json", b"{'suffix'}"),
        "json-with-charset": ("application/json; charset=utf-16", '{"n": "utf-16 said"}'.encode("utf-16")),
    }
    for name, (kind, body) in refused.items():
        yield Hostile(name=f"type-{name}", body=body, content_type=kind, ends=UNDECODABLE)
    taken = {
        "pickle": ("application/x-python-serialize", b"\x80\x04cos\nsystem\n."),
        "java": ("application/x-java-serialized-object", b"\xac\xed\x00\x05sr"),
        "yaml": ("application/x-yaml", b"!!python/object/apply:os.system ['id']"),
        "image": ("image/png", b"\x89PNG\r\n\x1a\n"),
        "nonsense": ("no type at all", b"\x01 nonsense"),
        "control": ("text/plain\r\nX-Evil: 1", b"text of a type with a line break"),
        "ansi": ("\x1b[31m", b"\x01 red"),
        "slashes": ("/" * 200, b"\x01 slashes"),
        "semicolons": (";" * 200, b'{"n": "semicolons"}'),
        "charset-twice": ("text/plain; charset=x; charset=y", b"two charsets"),
    }
    for name, (kind, body) in taken.items():
        yield Hostile(name=f"type-{name}", body=body, content_type=kind)


# ── what stands beside the body ───────────────────────────────────────────────────────────────────────────────────────

NAMES = {
    "line-break": "a\r\nevent: worker.stopped",
    "ansi": "\x1b[2J\x1b[31mred",
    "path": "../../../../etc/passwd",
    "nul": "a\x00b",
    "quote": "'; DROP TABLE messages; --",
    "json": '{"id": 1}',
    "direction": "\u202eevil\u2066",
    "spaces": "  ",
    "template": "{0.__class__} %(x)s ${x}",
    "long": "i" * 255,
    "snowman": "☃" * 80,
    "tilde": "a~b~0-1",
    "option": "--json",
}
"""Names that a message may have, and what else it is called by."""


def _properties() -> Iterator[Hostile]:
    for name, said in NAMES.items():
        for what in ("id", "correlation_id", "reply_to", "idempotency_key", "ordering_key"):
            case = f"{what}-{name}"
            yield Hostile(name=case, body=_body(case), properties={what: said})
    for number in (0, 255):
        case = f"priority-{number}"
        yield Hostile(name=case, body=_body(case), properties={"priority": number})
    for case, stamp in {"future": 253_402_300_799.0, "year-1970": 1.0, "fraction": 1e9 + 0.123456789}.items():
        said = {"timestamp": stamp}  # from which RabbitMQ's adapter, for want of anything better, counts the age
        yield Hostile(
            name=f"timestamp-{case}", body=_body(f"timestamp-{case}"), properties=said, ends=HANDLED | EXPIRED
        )


def _headers() -> Iterator[Hostile]:
    said: dict[str, Mapping[str, Any]] = {
        "many": {f"h{n}": str(n) for n in range(1000)},
        "large": {"h": "v" * 60_000},
        "long-name": {"n" * 255: "v"},
        "empty-name": {"": ""},
        "nested": {"h": {"a": [{"b": [{"c": {}}]}]}},
        "deep": {"h": _nested(40)},
        "numbers": {"h": [0, -1, 2**62, -(2**62), 1.5, True, None]},
        "bytes": {"h": b"\xff\x00\xfe"},
        "bytes-marker": {"h": {"$bytes": "no base64"}, "i": {"$dict": {"$bytes": 5}}},
        "proto": {"__proto__": "x", "__class__": "x", "constructor": "x"},
        "line-break": {"a\r\nb": "c\r\nd"},
        "control": {"\x1b[31m": "\x00"},
        "traceparent": {"traceparent": "garbage"},
        "traceparent-long": {"traceparent": "00-" + "a" * 30_000},
        "traceparent-zero": {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-00"},
        "traceparent-list": {"traceparent": ["00", "01"], "tracestate": {"a": 1}},
        "traceparent-bytes": {"traceparent": b"\xff", "tracestate": 7},
        "traceparent-lines": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y"},
        "content-type": {"content-type": "application/x-python-serialize", "content_type": ["x"]},
        "celery": {"task": "os.system", "lang": "py", "argsrepr": "('id',)", "retries": -1},
        "count": {"x-delivery-count": "9" * 400},
        "count-negative": {"x-delivery-count": -5},
        "acquired": {"x-acquired-count": 1e308},
        "delay": {"x-delay": -1, "x-retry": "abc"},
    }
    yield from (
        Hostile(name=f"header-{n}", body=_body(f"header-{n}"), properties={"headers": h}) for n, h in said.items()
    )


def _nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"a": [value]}
    return value


def _forged() -> Iterator[Hostile]:
    """Our own marks. An attempt beyond the last makes the first failure the last; nothing gives a message more attempts."""
    for at, junk in enumerate(JUNK):
        case = f"forged-attempt-{at}"
        ends = EXHAUSTED if junk == HUGE else HANDLED | EXHAUSTED
        yield Hostile(name=case, body=_body(case), marks={"pythia-attempt": junk}, ends=ends | HANDLED)
    for at, attempt in enumerate(("3", "16", "1000000000000", str(2**31), str(2**63), "4.0", "1e3")):
        case = f"forged-late-{at}"
        yield Hostile(name=case, body=_body(case), marks={"pythia-attempt": attempt}, ends=EXHAUSTED | HANDLED)
    for name in ("first-seen", "deliveries", "identity", "returned", "published-at", "priority", "due", "to", "group"):
        for at, junk in enumerate(JUNK):
            case = f"forged-{name}-{at}"
            yield Hostile(name=case, body=_body(case), marks={f"pythia-{name}": junk}, ends=HANDLED | EXPIRED)
    deaths = ("reason", "detail", "error-type", "error", "traceback", "worker", "worker-id", "origin-queue", "dead-at")
    for name in (*deaths, "death", "attempts", "origin-exchange", "origin-routing-key", "origin-cc", "packed"):
        case = f"forged-{name}"
        yield Hostile(name=case, body=_body(case), marks={f"pythia-{name}": "no\x1b[31m\r\nsuch ☃ thing"})
    moments = {
        "future": "99999999999",
        "past": "-99999999999",
        "edge": "253402300800",
        "double": "1.7e308",
        "year-1": "-62135596800",
    }
    for case, moment in moments.items():
        for name in ("first-seen", "published-at"):
            yield Hostile(
                name=f"forged-{name}-{case}",
                body=_body(f"forged-{name}-{case}"),
                marks={f"pythia-{name}": moment},
                ends=HANDLED | EXPIRED,
            )
