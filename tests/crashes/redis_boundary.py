"""Redis: every command that is sent and every answer that is read, seen at the driver's connections, the keeper's among them.

What is asked again and again (is there something? is the lease still ours?) counts when it first is, and its answer when it
brings a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import redis.asyncio.connection
import redis.connection

from pythia.brokers.redis import lists, script, streams  # noqa: F401 - whose scripts are known by then
from tests.crashes.points import Points

# Carry no message: getting connected and known, the watch over the consumer, looks at how much there is, names of queues.
SILENT = frozenset(
    {"AUTH", "CLIENT", "CONFIG", "HELLO", "INFO", "PING", "SADD", "SELECT", "SETRANGE", "XGROUP", "XINFO", "ZSCORE"}
    | {"list_depth", "list_join", "stream_depth", "stream_sweep"}
)


@dataclass(frozen=True, slots=True)
class Asking:
    """A question that is asked with or without a message: ``brings`` says whether the answer has one, ``about`` whether the
    question is about one; ``later``: not before a copy waits; ``renews``: only while a message is in hand."""

    name: str
    brings: Callable[[Any], bool] = lambda _answer: False
    about: Callable[[Sequence[bytes]], bool] = lambda _command: True
    later: bool = False
    renews: bool = False


ASKED_AGAIN = {
    "XREADGROUP": Asking("read of what is new", brings=lambda answer: bool(answer and answer[0][1])),
    "BLMOVE": Asking("move into our list, waiting", brings=bool),
    "list_take": Asking("move into our list", brings=bool),
    "stream_take": Asking("take-over of what was given back or ran out", brings=lambda answer: bool(answer[0])),
    "list_janitor": Asking("janitor", brings=bool, about=lambda _command: False),
    "delayed_move": Asking("mover of what is due", brings=lambda answer: answer[0] > 0, later=True),
    "stream_renew": Asking("renewal of the lease", about=lambda command: len(command) > 6, renews=True),
    "list_beat": Asking("renewal of the lease", renews=True),
}
SAID_ONCE = {
    "stream_ack": "ack",
    "list_ack": "ack",
    "stream_move": "write and take out, in one script",
    "list_move": "write and take out, in one script",
    "stream_release": "release",
    "list_release": "release",
    "stream_leave": "leave, giving back the rest",
    "list_leave": "leave, giving back the rest",
    "XADD": "publish of the message",
    "LPUSH": "publish of the message",
}


class Asked(NamedTuple):
    """A command whose answer is outstanding."""

    word: str
    name: str | None  # None: it carries no message
    asking: Asking | None
    delays: bool  # it makes a copy wait


def instrument(points: Points) -> None:
    """Watch every connection of this process, of its loop and of its threads."""
    watch = _Watch(points)
    _instrument_loop(watch)
    _instrument_threads(watch)


def _instrument_loop(watch: _Watch) -> None:
    kind = redis.asyncio.connection.AbstractConnection
    send, read = kind.send_packed_command, kind.read_response

    async def sent(connection: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        asked = watch.asked(command)
        watch.before(asked)
        await send(connection, command, *args, **kwargs)
        watch.after(connection, asked)

    async def answered(connection: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = await read(connection, *args, **kwargs)
        except redis.ResponseError as error:
            watch.answered(connection, error)
            raise
        watch.answered(connection, answer)
        return answer

    kind.send_packed_command, kind.read_response = sent, answered


def _instrument_threads(watch: _Watch) -> None:
    kind = redis.connection.AbstractConnection
    send, read = kind.send_packed_command, kind.read_response

    def sent(connection: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        asked = watch.asked(command)
        watch.before(asked)
        send(connection, command, *args, **kwargs)
        watch.after(connection, asked)

    def answered(connection: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = read(connection, *args, **kwargs)
        except redis.ResponseError as error:
            watch.answered(connection, error)
            raise
        watch.answered(connection, answer)
        return answer

    kind.send_packed_command, kind.read_response = sent, answered


class _Watch:
    def __init__(self, points: Points) -> None:
        self._points = points
        self._outstanding: WeakKeyDictionary[Any, deque[Asked]] = WeakKeyDictionary()
        self._in_hand = False
        self._copy_waits = False

    def asked(self, packed: bytes | Iterable[bytes]) -> list[Asked]:
        data = packed if isinstance(packed, bytes) else b"".join(packed)
        return [self._named(command) for command in _commands(data)]

    def before(self, batch: Sequence[Asked]) -> None:
        self._pass(batch, "before it is sent")

    def after(self, connection: Any, batch: Sequence[Asked]) -> None:
        self._outstanding.setdefault(connection, deque()).extend(batch)
        self._pass(batch, "sent")

    def answered(self, connection: Any, answer: Any) -> None:
        asked = self._outstanding[connection].popleft()
        if isinstance(answer, redis.ResponseError):
            if asked.name is not None:
                self._points.passing(f"redis: {asked.name}: refused ({str(answer).split(' ')[0]})")
        elif asked.asking is not None:
            self._told(asked, asked.asking, answer)
        elif asked.name is not None:
            self._in_hand = False
            self._copy_waits = self._copy_waits or asked.delays
            self._points.passing(f"redis: {asked.name}: answered")

    def _told(self, asked: Asked, asking: Asking, answer: Any) -> None:
        if asking.renews and asked.name is not None:
            self._points.passing_first(f"redis: {asking.name}: answered")
        elif asking.brings(answer):
            self._in_hand = self._in_hand or asked.word not in {"list_janitor", "delayed_move"}
            self._points.passing(f"redis: {asking.name}: answered with the message")

    def _pass(self, batch: Sequence[Asked], where: str) -> None:
        for asked in batch:
            if asked.name is None:
                continue
            passing = self._points.passing if asked.asking is None else self._points.passing_first
            passing(f"redis: {asked.name}: {where}")

    def _named(self, command: Sequence[bytes]) -> Asked:
        word = _word(command)
        if word in ASKED_AGAIN:
            asking = ASKED_AGAIN[word]
            counts = asking.about(command) and not (asking.later and not self._copy_waits)
            counts = counts and not (asking.renews and not self._in_hand)
            return Asked(word, asking.name if counts else None, asking, delays=False)
        name = None if word in SILENT else SAID_ONCE.get(word, word)
        return Asked(word, name, None, delays=b"delayed" in command)


def _word(command: Sequence[bytes]) -> str:
    """What a command is called: a script by its file."""
    word = command[0].decode().upper()
    if word == "EVALSHA":
        known = script._KNOWN.get(command[1].decode())
        return word if known is None else known.name
    if word == "EVAL":
        return next((known.name for known in script._KNOWN.values() if known.source.encode() == command[1]), word)
    return word


def _commands(data: bytes) -> list[list[bytes]]:
    """What RESP says: arrays of bulk strings."""
    commands: list[list[bytes]] = []
    at = 0

    def number() -> int:
        nonlocal at
        end = data.index(b"\r\n", at)
        found, at = int(data[at + 1 : end]), end + 2
        return found

    while at < len(data):
        words: list[bytes] = []
        for _ in range(number()):
            size = number()
            words.append(data[at : at + size])
            at += size + 2
        commands.append(words)
    return commands
