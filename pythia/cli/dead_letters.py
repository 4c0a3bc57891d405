"""Dead letters as a command sees them: which are meant, how one is shown, how a body is shown."""

from __future__ import annotations

import base64
import json
import re
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from pythia.broker import DeadLetter, DeadLetters
from pythia.cli.failure import CommandError
from pythia.cli.output import stamp

_DEEPEST = 200
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant, beside their ids."""

    reason: str | None
    error_type: str | None
    since: float | None  # epoch seconds

    @classmethod
    def of(cls, args: Namespace) -> Filter:
        return cls(reason=args.reason, error_type=args.error, since=args.since)

    def __bool__(self) -> bool:
        return (self.reason, self.error_type, self.since) != (None, None, None)

    def lets(self, letter: DeadLetter) -> bool:
        """Whether ``letter`` is meant. An error is named by its class alone or with its module."""
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.error_type is not None and not _names(self.error_type, letter.error_type):
            return False
        return self.since is None or (letter.dead_at is not None and letter.dead_at >= self.since)


def _names(wanted: str, error_type: str | None) -> bool:
    return error_type is not None and (error_type == wanted or error_type.endswith(f".{wanted}"))


def moment(text: str) -> float:
    """``--since``: a time (RFC 3339; without a zone UTC) or how long ago (``90s``, ``15m``, ``2h``, ``7d``)."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return (datetime.now(UTC) - timedelta(**{_UNIT[ago[2]]: float(ago[1])})).timestamp()
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


async def selected(letters: DeadLetters, wanted: Filter, limit: int | None) -> tuple[list[DeadLetter], int]:
    """The first ``limit`` that the filter lets through, and how many it lets through in all."""
    if not wanted and limit is not None:
        return list(await letters.list(limit)), await letters.count()
    found: list[DeadLetter] = []
    total = 0
    async for letter in letters.scan():
        if wanted.lets(letter):
            total += 1
            if limit is None or total <= limit:
                found.append(letter)
    return found, total


async def named(letters: DeadLetters, queue: str, ids: list[str]) -> list[DeadLetter]:
    """Those with these ids.

    Raises:
        CommandError: one is not there.
    """
    found = {one: await letters.get(one) for one in ids}
    missing = [one for one, letter in found.items() if letter is None]
    if missing:
        raise CommandError(f"no dead letter {', '.join(missing)} in {queue}", exit_code=1)
    return [letter for letter in found.values() if letter is not None]


def summary(letter: DeadLetter) -> dict[str, Any]:
    """One item of ``dead list --json``; null is what nobody recorded."""
    return {
        "id": letter.id,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "error": {"type": letter.error_type, "message": what_happened(letter)},
        "published_at": stamp(letter.published_at),
        "first_seen_at": stamp(letter.first_seen_at),
        "dead_at": stamp(letter.dead_at),
        "worker": letter.worker,
        "worker_id": letter.worker_id,
        "origin_queue": letter.origin_queue,
        "content_type": letter.envelope.content_type,
        "body_bytes": len(letter.envelope.body),
        "correlation_id": letter.envelope.correlation_id,
    }


def whole(letter: DeadLetter) -> dict[str, Any]:
    """One item of ``dead show --json``, one line of ``dead export``."""
    item = summary(letter)
    item["error"]["traceback"] = letter.traceback
    headers = {name: _json_safe(value) for name, value in letter.envelope.headers.items()}
    return item | {"headers": headers, "body": shown_body(letter.envelope.body, letter.envelope.content_type)}


def what_happened(letter: DeadLetter) -> str | None:
    """The error's text; for a letter without an error (``Reject``), the sentence that was given."""
    return letter.error_message or letter.detail


def shown_body(body: bytes, content_type: str) -> Any:
    """A JSON body as its value, text as text, anything else as ``{"base64": ...}``. Never raises."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.endswith(("/json", "+json")):
        return text
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return value if _shallow(value) else text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _shallow(value: Any) -> bool:
    """Whether it can be written again: a reader in C goes deeper than a writer in Python."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return True
    return False


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _json_safe(value: Any) -> Any:
    """A header of any producer: bytes and times of AMQP have no JSON form."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return shown_body(value, "")
        case dict():
            return {str(name): _json_safe(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_json_safe(inner) for inner in value]
    return str(value)
