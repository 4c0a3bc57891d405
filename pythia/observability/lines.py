"""One log line: its keys in order, nothing secret and nothing endless in it, as JSON or for a terminal.

What a producer, a broker or a user's error puts into a value can neither break a line nor drive a terminal: control
characters, line breaks and marks that turn the direction of text around are written as escapes.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pythia.config.urls import redact_url
from pythia.errors import BrokerError

Fields = dict[str, Any]
Render = Callable[[Fields], str]

LEADING = (
    "timestamp",
    "level",
    "event",
    "worker",
    "worker_id",
    "queue",
    "message_id",
    "attempt",
    "correlation_id",
    "trace_id",
)
_IDS = frozenset(LEADING) - {"event"}
ID_CHARACTERS, TEXT_CHARACTERS, STACK_CHARACTERS = 200, 2000, 8192
_ITEMS, _DEPTH = 100, 4

_TOKEN_WITH_URL = re.compile(r"[^\s\"'<>]*://[^\s\"'<>]*")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[^\s\"'=\\]+\Z")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def arrange(fields: Mapping[str, Any]) -> Fields:
    """``fields`` in the order of a line: the leading keys, the event's own, the sentence; each value fit to be shown."""
    fields = _with_errors(fields)
    line: Fields = {key: _shown(key, fields[key]) for key in LEADING if fields.get(key) is not None}
    for key, value in fields.items():
        if key not in line and key not in _IDS and key != "message":
            line[_cut(str(key), ID_CHARACTERS)] = _shown(key, value)
    if fields.get("message") is not None:
        line["message"] = _shown("message", fields["message"])
    return line


def json_line(fields: Fields) -> str:
    """One JSON object; what a terminal would obey is escaped, so that ``cat`` is safe too."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", _encode(fields))


def console_line(fields: Fields, *, colours: bool) -> str:
    """For people: local time, level, the sentence, the event, what else is known; a traceback on lines of its own."""
    paint = _paint if colours else _plain
    level, event = str(fields.get("level", "info")), _escaped(str(fields.get("event", "")))
    sentence = fields.get("message")
    words = [
        paint(_local_time(fields.get("timestamp")), "dim"),
        paint(f"{level:<8}", level),
        paint(event if sentence is None else _escaped(str(sentence)), "bold"),
    ]
    if sentence is not None:
        words.append(paint(f"[{event}]", "dim"))
    words += [
        f"{paint(_escaped(key), 'key')}={_console_value(value)}"
        for key, value in fields.items()
        if key not in _ELSEWHERE and value is not None and not _is_said(key, value, sentence)
    ]
    return " ".join(words) + _indented(fields.get("error.stack"))


def _is_said(key: str, value: object, sentence: object) -> bool:
    """Whether the sentence for people has a field's text already."""
    return key == "detail" and str(value) in str(sentence)


def _with_errors(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """``exc_info``, and ``error`` where it is an exception, as ``error.type``, ``error.message``, ``error.stack``."""
    raised = _raised(fields.get("exc_info"))
    error = fields.get("error")
    if isinstance(error, BaseException):
        raised = error
    if raised is None and "exc_info" not in fields:
        return fields
    rest = {key: value for key, value in fields.items() if key != "exc_info" and value is not raised}
    return rest if raised is None else {**rest, **_error_fields(raised)}


def _raised(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        exc_info = exc_info[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _error_fields(error: BaseException) -> Fields:
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    fields = {"error.type": name, "error.message": _text_of(error)}
    if isinstance(error, BrokerError):  # its sentence is the whole story; the stack is our own
        return fields
    return {**fields, "error.stack": _stack_of(error)}


def _stack_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:  # noqa: BLE001 - a user's error may break its own formatting in any way
        return ""


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's __str__ or __repr__ may raise anything
        return f"<{type(value).__name__}: its text cannot be had>"


def _shown(key: str, value: object) -> Any:
    if key == "error.stack":
        return _cut_middle(_redacted(_text_of(value)), STACK_CHARACTERS)
    return _simple(value, ID_CHARACTERS if key in _IDS else TEXT_CHARACTERS, _DEPTH)


def _simple(value: object, size: int, depth: int) -> Any:  # noqa: PLR0911 - one return for each kind of value
    """``value`` as what JSON knows, so that no line fails for what somebody put into it."""
    match value:
        case None | bool():
            return value
        case Enum():
            return _simple(value.value, size, depth)
        case str():
            return _cut(_redacted(value), size)
        case int():
            return int(value) if value.bit_length() <= 64 else _cut(hex(value), size)
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case Mapping() if depth:
            return {_cut(_text_of(k), size): _simple(v, size, depth - 1) for k, v in list(value.items())[:_ITEMS]}
        case list() | tuple() | set() | frozenset() if depth:
            return [_simple(item, min(size, ID_CHARACTERS), depth - 1) for item in list(value)[:_ITEMS]]
        case datetime() | date() | timedelta() | Decimal() | UUID() | PurePath() | BaseException():
            return _cut(_redacted(_text_of(value)), size)
    return _cut(_redacted(_repr_of(value)), size)


def _repr_of(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{type(value).__name__}: its text cannot be had>"


def _redacted(text: str) -> str:
    if "://" not in text:
        return text
    return _TOKEN_WITH_URL.sub(lambda match: redact_url(match[0]), text)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[:size]}… ({len(text) - size} more)"


def _cut_middle(text: str, size: int) -> str:
    """The beginning and, mostly, the end: a traceback says at its end what went wrong and where."""
    if len(text) <= size:
        return text
    head, tail = size // 4, size - size // 4
    return f"{text[:head]}\n… ({len(text) - size} characters)\n{text[-tail:]}"


# For a terminal

_ELSEWHERE = frozenset({"timestamp", "level", "event", "message", "worker_id", "error.stack"})
_STYLES: Mapping[str, Sequence[int]] = {
    "dim": (2,),
    "bold": (1,),
    "key": (36,),
    "debug": (34,),
    "info": (32,),
    "warning": (33,),
    "error": (31,),
    "critical": (1, 31),
}


def _paint(text: str, style: str) -> str:
    codes = ";".join(str(code) for code in _STYLES.get(style, ()))
    return f"\x1b[{codes}m{text}\x1b[0m" if codes else text


def _plain(text: str, _style: str) -> str:
    return text


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def _console_value(value: object) -> str:
    if isinstance(value, str):
        return value if _PLAIN.match(value) and not _UNSAFE.search(value) else _escaped(_encode(value))
    return _escaped(_encode(value))


def _local_time(timestamp: object) -> str:
    if not isinstance(timestamp, str):
        return ""
    return datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _indented(stack: object) -> str:
    return "".join(f"\n    {_escaped(line)}" for line in stack.split("\n")) if isinstance(stack, str) else ""
