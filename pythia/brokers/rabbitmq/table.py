"""Header tables as AMQP 0-9-1 encodes them, without loss: a float is a double here, which the driver makes a single."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import Any

_INT32 = range(-(1 << 31), 1 << 31)
_INT64 = range(-(1 << 63), 1 << 63)
_LONGEST_NAME = 255


def encode_table(table: Mapping[str, Any]) -> bytes:
    """A header table with its length.

    Raises:
        ValueError, TypeError: a name or a value that AMQP cannot carry; the text names it.
    """
    try:
        return _sized(b"".join([_entry(name, value) for name, value in table.items()]))
    except RecursionError:
        raise ValueError("a header is nested too deep") from None


def _entry(name: Any, value: Any) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a string, not {name!r}")
    raw = name.encode()
    if len(raw) > _LONGEST_NAME:
        raise ValueError(f"the name of header {name[:40]!r}… is longer than {_LONGEST_NAME} bytes")
    try:
        return bytes((len(raw),)) + raw + _value(value)
    except (ValueError, TypeError, struct.error, OverflowError) as error:
        raise type(error)(f"header {name!r}: {error}") from None


def _value(value: Any) -> bytes:  # noqa: C901, PLR0911 - one case a type of AMQP, each a line
    if type(value) is str:  # most are
        raw = value.encode()
        return b"S" + len(raw).to_bytes(4) + raw
    match value:
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            return _integer(value)
        case float():
            return _double(value)
        case str():
            return b"S" + _sized(value.encode())
        case bytes() | bytearray() | memoryview():
            return b"x" + _sized(bytes(value))
        case Decimal():
            return _decimal(value)
        case datetime():
            return struct.pack(">cQ", b"T", int(value.timestamp()))
        case Mapping():
            return b"F" + encode_table(value)
        case list() | tuple():
            return b"A" + _array(value)
    raise TypeError(f"AMQP has no type for {type(value).__name__}")


def _array(values: Iterable[Any]) -> bytes:
    return _sized(b"".join(map(_value, values)))


def _double(value: float) -> bytes:
    if not isfinite(value):
        raise ValueError(f"{value} cannot be sent: RabbitMQ closes the connection over it")
    return struct.pack(">cd", b"d", value)


def _integer(value: int) -> bytes:
    if value in _INT32:
        return struct.pack(">ci", b"I", value)
    if value in _INT64:
        return struct.pack(">cq", b"l", value)
    raise ValueError("an integer of more than 64 bits does not fit AMQP")


def _decimal(value: Decimal) -> bytes:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{value} does not fit AMQP's decimal")  # noqa: TRY004 - the type is right: it is NaN or infinite
    places = max(0, -exponent)
    unscaled = int(value.scaleb(places))
    if places > _LONGEST_NAME or unscaled not in _INT32:
        raise ValueError(f"{value} does not fit AMQP's decimal of 32 bits")
    return struct.pack(">cBi", b"D", places, unscaled)


def _sized(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw
