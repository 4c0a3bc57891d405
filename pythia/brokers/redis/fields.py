"""Messages as the fields of a stream's entry, and back. A foreign entry is read as leniently as it can be.

Ours: ``body``, the properties under ``pythia-`` names, text headers as plain fields, other headers in ``pythia-headers`` as
JSON. Foreign: the payload is the field ``body``; without one the only field, else all fields as a JSON object.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pythia.brokers.headers import dump_headers, load_headers
from pythia.message import Envelope

Fields = Sequence[bytes]
"""Names and values by turns, as Redis has them."""

Marks = Mapping[bytes, bytes]

BODY = b"body"
ID = b"pythia-id"
CONTENT_TYPE = b"pythia-content-type"
HEADERS = b"pythia-headers"
PUBLISHED_AT = b"pythia-published-at"
PRIORITY = b"pythia-priority"
_TEXTS = {
    b"pythia-content-encoding": "content_encoding",
    b"pythia-correlation-id": "correlation_id",
    b"pythia-reply-to": "reply_to",
    b"pythia-idempotency-key": "idempotency_key",
    b"pythia-ordering-key": "ordering_key",
}
PROPERTIES = frozenset({ID, CONTENT_TYPE, HEADERS, PUBLISHED_AT, PRIORITY, *_TEXTS})

ATTEMPT = b"pythia-attempt"
FIRST_SEEN = b"pythia-first-seen"
DELIVERIES = b"pythia-deliveries"  # hand-outs of earlier copies of the message
IDENTITY = b"pythia-identity"  # of its first copy
RETURNED = b"pythia-returned"  # somebody may have begun it
GROUP = b"pythia-group"  # the one group of a stream for which a copy is meant
MARKS = frozenset({ATTEMPT, FIRST_SEEN, DELIVERIES, IDENTITY, RETURNED, GROUP})

MAGIC = b"\x00pythia\x01"  # the last byte is the version
_PACKED = b"pythia-packed"
_MOST_WORDS = 2000  # in one command of a Lua script, whose stack is small
_MOST_PLAIN_HEADERS = 100
_MOST_COUNTED = 1 << 31  # a larger attempt, or count of hand-outs, is nobody's
_OWN = PROPERTIES | MARKS
_PLAIN_NAMES = frozenset(name.decode() for name in (_OWN | {BODY, _PACKED}))
_TRACE = ("traceparent", "tracestate")
_LENGTH = struct.Struct(">I")
_BODY_PACKED = _LENGTH.pack(len(BODY)) + BODY
_SAID_BY_NEARLY_ALL = frozenset({BODY, ID, PUBLISHED_AT})  # of Pythia's own: a first copy, without headers
_NO_MARKS: Marks = MappingProxyType({})
_EMPTY: Mapping[str, Any] = MappingProxyType({})


def fields_of(envelope: Envelope) -> list[bytes]:
    """The fields that say what ``envelope`` says.

    Raises:
        TypeError, ValueError, RecursionError: a header or property that cannot be written down.
    """
    fields = [BODY, envelope.body, ID, envelope.id.encode()]
    if envelope.content_type != "application/json":
        fields += (CONTENT_TYPE, envelope.content_type.encode())
    if envelope.timestamp is not None:
        fields += (PUBLISHED_AT, _number(envelope.timestamp))
    if envelope.priority is not None:
        fields += (PRIORITY, b"%d" % envelope.priority)
    for name, attribute in _TEXTS.items():
        value = getattr(envelope, attribute)
        if value is not None:
            fields += (name, value.encode())
    return fields + _header_fields(envelope.headers) if envelope.headers else fields


def _header_fields(headers: Mapping[str, Any]) -> list[bytes]:
    plain = headers if len(headers) <= _MOST_PLAIN_HEADERS else {}
    fields: list[bytes] = []
    rest: dict[str, Any] = {}
    for name, value in headers.items():
        if name in plain and type(value) is str and name not in _PLAIN_NAMES:
            fields += (name.encode(), value.encode())
        else:
            rest[name] = value
    return [*fields, HEADERS, dump_headers(rest).encode()] if rest else fields


def envelope_of(fields: Fields) -> tuple[Envelope, Marks]:
    """What the fields say, and the marks that earlier owners left."""
    if len(fields) == 2 and fields[0] == BODY:  # a foreign one, as most are
        return Envelope(fields[1], id=_digest_of_body(fields[1])), _NO_MARKS
    found = dict(pairs(fields))
    if found.keys() <= _SAID_BY_NEARLY_ALL and BODY in found and found.get(ID):
        return Envelope(
            found[BODY], id=_text(found[ID]), timestamp=_lenient(found.get(PUBLISHED_AT), _finite)
        ), _NO_MARKS
    own = {name: found.pop(name) for name in found.keys() & _OWN}
    body = found.pop(BODY, None)
    headers = {_text(name): _text_or_bytes(value) for name, value in found.items()} if found else {}
    if body is None:
        body, headers = _foreign_payload(list(found.values()), headers)
    return _envelope(body, headers, own, fields), own


def _envelope(body: bytes, headers: dict[str, Any], own: Marks, fields: Fields) -> Envelope:
    key = own.get(ID)
    envelope = Envelope(
        body,
        id=_text(key) if key else _digest(fields),
        headers=_all_headers(headers, own.get(HEADERS)),
        content_type=_content_type(own, headers),
        timestamp=_lenient(own.get(PUBLISHED_AT), _finite),
        priority=_lenient(own.get(PRIORITY), int),
    )
    for name in own.keys() & _TEXTS.keys():
        setattr(envelope, _TEXTS[name], _text(own[name]))
    return envelope


def _foreign_payload(values: Sequence[bytes], headers: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    if len(values) <= 1:
        return (values[0] if values else b""), {}
    whole = {
        name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for name, value in headers.items()
    }
    traces = {name: headers[name] for name in _TRACE if name in headers}
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode(), traces


def _all_headers(headers: dict[str, Any], written: bytes | None) -> Mapping[str, Any]:
    if written is not None:
        try:
            headers = {**headers, **load_headers(written)}
        except (ValueError, TypeError, AttributeError, RecursionError):
            headers[_text(HEADERS)] = _text_or_bytes(written)
    return MappingProxyType(headers) if headers else _EMPTY


def _content_type(own: Marks, headers: Mapping[str, Any]) -> str:
    if CONTENT_TYPE in own:
        return _text(own[CONTENT_TYPE])
    said = None if ID in own else headers.get("content-type", headers.get("content_type"))
    return said if isinstance(said, str) and said else "application/json"


def _digest(fields: Fields) -> str:
    """The id of a message whose producer gave it none: the same for every copy of it."""
    said = [word for name, value in pairs(fields) if name not in MARKS for word in (name, value)]
    return _digest_of(*said)


def _digest_of(*said: bytes) -> str:
    return hashlib.blake2b(pack(said), digest_size=16).hexdigest()


def _digest_of_body(body: bytes) -> str:
    """The same for one that has nothing but its body."""
    return hashlib.blake2b(_BODY_PACKED + _LENGTH.pack(len(body)) + body, digest_size=16).hexdigest()


def marked(fields: Fields, marks: Marks) -> list[bytes]:
    """A copy that says what ``fields`` say, byte for byte, with these marks and no others."""
    copy = [word for name, value in pairs(fields) if name not in MARKS and name not in marks for word in (name, value)]
    return copy + [word for mark in marks.items() for word in mark]


def pairs(fields: Fields) -> Iterator[tuple[bytes, bytes]]:
    """Names with their values."""
    return zip(fields[::2], fields[1::2], strict=False)


def pack(fields: Fields) -> bytes:
    """Fields as one string: the length of each in four bytes, the highest first, and the word itself."""
    return b"".join([part for word in fields for part in (_LENGTH.pack(len(word)), word)])


def unpack(packed: bytes) -> list[bytes]:
    """The fields of ``pack``.

    Raises:
        ValueError: it is no such string.
    """
    fields, at = [], 0
    while at < len(packed):
        if at + 4 > len(packed):
            raise ValueError("cut off within a length")
        (length,) = _LENGTH.unpack_from(packed, at)
        at += 4 + length
        if at > len(packed):
            raise ValueError("cut off within a word")
        fields.append(packed[at - length : at])
    if len(fields) % 2:
        raise ValueError("a name without a value")
    return fields


def wrap(fields: Fields) -> bytes:
    """A payload of a list that says what ``fields`` say."""
    return MAGIC + pack(fields)


def unwrap(payload: bytes) -> list[bytes]:
    """The fields of a payload; a foreign one is the body, also where it only begins like ours."""
    if payload.startswith(MAGIC):
        try:
            return unpack(payload[len(MAGIC) :])
        except ValueError:
            pass
    return [BODY, payload]


def bounded(fields: Fields) -> Fields:
    """The same fields, in one if they are too many for a script."""
    return fields if len(fields) <= _MOST_WORDS else [_PACKED, pack(fields)]


def unbounded(fields: Fields) -> Fields:
    """The fields that ``bounded`` was given."""
    if len(fields) == 2 and fields[0] == _PACKED:
        try:
            return unpack(fields[1])
        except ValueError:
            return fields
    return fields


def attempt_of(marks: Marks) -> int:
    """1 unless a plausible one is written there: a forged one can only shorten its message's life."""
    attempt = _lenient(marks.get(ATTEMPT), int)
    return attempt if attempt is not None and 1 <= attempt < _MOST_COUNTED else 1


def deliveries_of(marks: Marks) -> int:
    """How often earlier copies were handed out."""
    return min(_MOST_COUNTED, max(0, _lenient(marks.get(DELIVERIES), int) or 0))


def first_seen_of(marks: Marks, stored_at: float, now: float) -> float:
    """When the message could first be handed out; never in the future."""
    written = _lenient(marks.get(FIRST_SEEN), _finite)
    return min(now, stored_at if written is None else written)


def identity_of(marks: Marks) -> str | None:
    """The name of the message's first copy, where there were copies."""
    return _text(marks[IDENTITY]) if IDENTITY in marks else None


def number_of(value: bytes | None) -> float | None:
    """A number that somebody wrote, if it is one."""
    number: float | None = _lenient(value, _finite)
    return number


def text_of(value: bytes | None) -> str | None:
    """What somebody wrote, as text."""
    return None if value is None else _text(value)


def marks_of(*, attempt: int, first_seen: float, deliveries: int | None, identity: str | None) -> Marks:
    """The marks of a copy that is to be delivered as attempt ``attempt``. Without a count of ``deliveries`` there was one."""
    marks = {ATTEMPT: b"%d" % attempt, FIRST_SEEN: _number(first_seen)}
    if identity is not None:
        marks[IDENTITY] = identity.encode()
    return marks | ({RETURNED: b"1"} if deliveries is None else {DELIVERIES: b"%d" % deliveries})


def born(words: Fields, first_seen: float) -> Fields:
    """Fields that carry what a list cannot tell: when the message came, and which one it is."""
    found = set(words[::2])
    fresh = {} if FIRST_SEEN in found else {FIRST_SEEN: _number(first_seen)}
    fresh |= {} if IDENTITY in found else {IDENTITY: os.urandom(8).hex().encode()}
    return [*words, *(word for mark in fresh.items() for word in mark)]


def _number(value: float) -> bytes:
    return repr(float(value)).encode()


def _finite(value: bytes) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number


def _lenient(value: bytes | None, read: Callable[[bytes], Any]) -> Any:
    try:
        return None if value is None else read(value)
    except (ValueError, OverflowError):
        return None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
