"""Headers as JSON in which bytes survive: ``{"$bytes": base64}``; a dict of the user's with a first key like that is wrapped."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_BYTES = "$bytes"
_DICT = "$dict"


def dump_headers(headers: Mapping[str, Any]) -> str:
    """Headers as JSON text; sequences come back as lists.

    Raises:
        TypeError: a value that is not str, int, float, bool, None, bytes, or a list or dict of such.
    """
    return json.dumps({_name(key): _plain(value) for key, value in headers.items()}, separators=(",", ":"))


def load_headers(text: str | bytes) -> Mapping[str, Any]:
    """The headers of ``dump_headers``, read-only."""
    return MappingProxyType({key: _restored(value) for key, value in json.loads(text).items()})


def _plain(value: Any) -> Any:
    match value:
        case bytes() | bytearray() | memoryview():
            return {_BYTES: base64.b64encode(value).decode("ascii")}
        case dict():
            inner = {_name(key): _plain(item) for key, item in value.items()}
            return {_DICT: inner} if inner.keys() & {_BYTES, _DICT} else inner
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a header's key must be a string, not {key!r}")
    return key


def _restored(value: Any) -> Any:
    match value:
        case dict() if value.keys() == {_BYTES}:
            return base64.b64decode(value[_BYTES])
        case dict() if value.keys() == {_DICT}:
            return {key: _restored(item) for key, item in value[_DICT].items()}
        case dict():
            return {key: _restored(item) for key, item in value.items()}
        case list():
            return [_restored(item) for item in value]
    return value
