"""A message as it came, from whichever way it was read; its properties and its route are decoded when somebody asks."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.decode import embedded_value
from pamqp.header import ContentHeader

from pythia.brokers.rabbitmq.sockets import mended

_HEADER = 2
_HEADER_PREFIX = bytes(12)  # class, weight and size of the body, in front of the properties
_FRAME_END = b"\xce"
_LATEST_SECONDS = 0xFFFFFFFF  # beyond it a timestamp is one of milliseconds, to the driver

_flags = struct.Struct(">H").unpack_from
_unsigned = struct.Struct(">I").unpack_from
_moment = struct.Struct(">Q").unpack_from
_STRING = ord("S")
_FIXED = {ord(kind): struct.Struct(f">{code}") for kind, code in {"I": "i", "l": "q", "d": "d", "t": "?"}.items()}

_NAMES = tuple(Basic.Properties.attributes())
_FLAGS = tuple((1 << (15 - place), name) for place, name in enumerate(_NAMES))
_SHORT = frozenset(
    (
        *("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id"),
        *("message_type", "user_id", "app_id", "cluster_id"),
    )
)


# Of the driver's type; what is not set costs nothing (its own constructor takes longer than all that is done here).
_Properties = type("_Properties", (Basic.Properties,), dict.fromkeys(_NAMES) | {"cluster_id": ""})


class Received:
    """``tag`` settles it, on its channel. ``at`` is when it came (monotonic)."""

    __slots__ = ("_properties", "_raw", "_route", "at", "body", "redelivered", "tag")

    def __init__(self, tag: int, *, redelivered: bool, route: bytes, raw: bytes = b"", body: bytes = b"") -> None:
        self.tag = tag
        self.redelivered = redelivered
        self.body = body
        self.at = 0.0
        self._route = route  # exchange and routing key, as short strings
        self._raw = raw
        self._properties: Basic.Properties | None = None

    @classmethod
    def of(cls, message: DeliveredMessage, at: float) -> Received:
        """What the driver has read."""
        route = b"".join(short(text or "") for text in (message.exchange, message.routing_key))
        redelivered = bool(getattr(message.delivery, "redelivered", False))
        made = cls(int(message.delivery_tag or 0), redelivered=redelivered, route=route)
        made.body, made.at, made._properties = message.body, at, message.header.properties
        return made

    def describe(self, raw: bytes) -> None:
        """Its properties, as they came: flags and values."""
        self._raw = raw

    @property
    def properties(self) -> Basic.Properties:
        if self._properties is None:
            self._properties = properties_in(self._raw)
        return self._properties

    @property
    def route(self) -> bytes:
        """Exchange and routing key, as short strings."""
        return self._route

    @property
    def exchange(self) -> str:
        return self._route[1 : 1 + self._route[0]].decode("utf-8", "replace")

    @property
    def routing_key(self) -> str:
        at = 1 + self._route[0]
        return self._route[at + 1 : at + 1 + self._route[at]].decode("utf-8", "replace")


def short(text: str) -> bytes:
    """A short string of AMQP: 255 bytes at most."""
    raw = text.encode()[:255]
    return bytes((len(raw),)) + raw


def properties_in(raw: bytes) -> Basic.Properties:
    """What the driver would decode; where it could not, what can be read. Never raises."""
    try:
        return _decoded(raw)
    except Exception:  # noqa: BLE001 - anybody may have written anything
        return _mended(raw)


def _mended(raw: bytes) -> Basic.Properties:
    """As the driver does, without what is malformed; nothing, if all of it is."""
    with suppress(Exception):
        return _by_the_driver(raw)
    return Basic.Properties()


def _by_the_driver(raw: bytes) -> Basic.Properties:
    header = ContentHeader()
    header.unmarshal(mended(_HEADER, _HEADER_PREFIX + raw + _FRAME_END)[:-1])
    return header.properties


def _decoded(raw: bytes) -> Basic.Properties:
    made: Any = object.__new__(_Properties)
    (flags,) = _flags(raw)
    if flags & 1:
        raise ValueError("more flags than there are properties")
    said, at = made.__dict__, 2
    for name in _set_in(flags):
        if name in _SHORT:
            end = at + 1 + raw[at]
            said[name] = raw[at + 1 : end].decode()
            at = end
        elif name == "headers":
            said[name], at = _table(raw, at)
        elif name == "timestamp":
            said[name], at = _timestamp(raw, at), at + 8
        else:
            said[name] = raw[at]
            at += 1
    if at > len(raw):
        raise ValueError("cut short")
    return made  # type: ignore[no-any-return]


@lru_cache(1024)  # producers use a few; an attacker, all
def _set_in(flags: int) -> tuple[str, ...]:
    return tuple(name for bit, name in _FLAGS if flags & bit)


def _timestamp(raw: bytes, at: int) -> datetime:
    (value,) = _moment(raw, at)
    return datetime.fromtimestamp(value if value <= _LATEST_SECONDS else value / 1000.0, UTC)


def _table(raw: bytes, at: int) -> tuple[dict[str, Any], int]:
    (size,) = _unsigned(raw, at)
    at += 4
    end = at + size
    if end > len(raw):
        raise ValueError("cut short")
    table: dict[str, Any] = {}
    while at < end:
        start = at + 1
        at = start + raw[at]
        name = raw[start:at].decode()
        table[name], at = _value(raw, at)
    if at != end:
        raise ValueError("a value goes beyond its table")
    return table, end


def _value(raw: bytes, at: int) -> tuple[Any, int]:
    """The types that clients use for most headers; the others as the driver decodes them."""
    kind = raw[at]
    if kind == _STRING:
        start = at + 5
        end = start + _unsigned(raw, at + 1)[0]
        piece = raw[start:end]
        try:
            return piece.decode(), end
        except UnicodeDecodeError:
            return piece, end
    if (fixed := _FIXED.get(kind)) is not None:
        return fixed.unpack_from(raw, at + 1)[0], at + 1 + fixed.size
    used, value = embedded_value(raw[at:])
    return value, at + used
