"""One consumer's dealings with one list: what it takes lies in a list of its own until it is settled, which is the fence."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any

from pythia.broker import ConsumerCancelled, Settled
from pythia.brokers.redis import fields, keys
from pythia.brokers.redis.consumer import BLOCK_SECONDS
from pythia.brokers.redis.driver import ResponseError, error_in, is_full
from pythia.brokers.redis.holder import Held
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.script import Command, millis, script
from pythia.brokers.redis.server import Server
from pythia.brokers.redis.writes import Write, described
from pythia.errors import BrokerError
from pythia.message import Delivery

FULL_WAIT_SECONDS = 0.5  # between reads of a server that is out of memory

_JOIN = script("list_join", "clock", "registered")
_TAKE = script("list_take")
_ACK = script("list_ack")
_MOVE = script("list_move", "clock", "writes", "returned")
_RELEASE = script("list_release", "returned")
_LEAVE = script("list_leave", "returned")


class Token:
    """One hand-out: equal to no other, also where two payloads are alike."""

    __slots__ = ("number", "payload")

    def __init__(self, number: int, payload: bytes) -> None:
        self.number = number
        self.payload = payload


class ListSource:
    """``consumer`` is the name of one incarnation of ours, and of its list."""

    marks: fields.Marks = MappingProxyType({})
    vanished = 0

    def __init__(self, server: Server, queue: str, consumer: str, lease: float) -> None:
        self._server = server
        self._queue = queue
        self._lease_ms = millis(lease)
        self._numbers = itertools.count()
        self.consumer = consumer
        self.consumers = keys.consumers(queue)
        self.processing = keys.processing(queue, consumer)

    async def join(self) -> None:
        """Be known as alive, so that nobody takes what this one takes."""
        await self._run(_JOIN([self.consumers], self.consumer, self._lease_ms))

    async def read(self, reader: Link, room: int, lease: float, is_over: Callable[[], bool]) -> list[Held[Token]]:  # noqa: ARG002 - the lease stands with the registration
        """Up to ``room`` payloads, the oldest first, or none within a second."""
        if taken := await self._take(room):
            return self._all_held(taken)
        if is_over():
            return []
        (first,) = await reader.ask(("BLMOVE", self._queue, self.processing, "RIGHT", "LEFT", f"{BLOCK_SECONDS:g}"))
        if is_full(first):  # the script still takes
            await asyncio.sleep(FULL_WAIT_SECONDS)
            return []
        if isinstance(first, ResponseError):
            raise self._refused(first)
        if first is None:
            return []
        return self._all_held([first, *await self._take(room - 1)])

    def look_again(self) -> None:
        """What is given back is in the queue, where every read looks."""

    @staticmethod
    def order(held: Held[Token]) -> int:
        """The youngest goes back first: the oldest is then the next to be taken."""
        return -held.token.number

    def acking(self, held: Sequence[Held[Token]]) -> Command:
        """Takes payloads out, each answered by 1 or 0."""
        return _ACK([self.processing], *(one.token.payload for one in held))

    def releasing(self, held: Sequence[Held[Token]]) -> Command:
        """Gives payloads back in this order, each answered by 1, 0 or an error."""
        return _RELEASE([self.processing, self._queue], *(one.token.payload for one in held))

    def moving(self, held: Held[Token], writes: Sequence[Write], *, back: bool) -> Command:
        """Writes, then takes the payload out, or gives it ``back``; answered by 1, 0 or an error."""
        names = [self.processing, self._queue, *(write.key for write in writes)]
        return _MOVE(names, "release" if back else "ack", held.token.payload, *described(writes, 2))

    def answered(self, answer: Any, keys: Sequence[object]) -> Settled:
        """What the answer to one item of these means, in which ``keys`` were touched.

        Raises:
            BrokerUnavailable, BrokerRefused: as the server says.
        """
        if isinstance(answer, int):
            return Settled.DONE if answer else Settled.STALE
        error = error_in(answer)
        if is_full(error):
            return Settled.REFUSED
        raise self._refused(error, " or ".join(map(str, keys)))

    async def leave(self, consumer: str) -> None:
        """Give back everything that an incarnation of ours holds, seen or not, and forget it."""
        names = [self.consumers, self._queue, keys.processing(self._queue, consumer)]
        answer = error_in(await self._run(_LEAVE(names, consumer)))
        if isinstance(answer, ResponseError):
            raise self._refused(answer)

    async def check(self) -> None:
        """Raise when this one was taken for dead, or the server was emptied, or the connection is gone."""
        expires = await self._run(("ZSCORE", self.consumers, self.consumer))
        if expires is None or float(expires) < 0:
            raise self._cancelled()

    async def _take(self, room: int) -> Sequence[bytes]:
        taken = await self._run(_TAKE([self.consumers, self._queue, self.processing], self.consumer, room))
        if taken is None:
            raise self._cancelled()
        payloads: Sequence[bytes] = taken
        return payloads

    def _all_held(self, payloads: Iterable[bytes]) -> list[Held[Token]]:
        now = time.time()
        return [self._held(payload, now) for payload in payloads]

    def _held(self, payload: bytes, now: float) -> Held[Token]:
        words = fields.unwrap(payload)
        envelope, marks = fields.envelope_of(words)
        attempt = fields.attempt_of(marks)
        token = Token(next(self._numbers), payload)
        delivery = Delivery(
            envelope,
            queue=self._queue,
            token=token,
            attempt=attempt,
            redelivered=attempt > 1 or fields.RETURNED in marks,
            first_seen=fields.first_seen_of(marks, now, now),
            identity=fields.identity_of(marks),
        )
        return Held(token, delivery, words)

    async def _run(self, command: Command) -> Any:
        return await self._server.link.call(*command, key=self._queue)

    def _refused(self, error: BaseException, key: str = "") -> BrokerError:
        return self._server.address.refused(error, key or self._queue)

    def _cancelled(self) -> ConsumerCancelled:
        self._server.forget(self._queue)
        return ConsumerCancelled(
            f"consumer {self.consumer!r} of list {self._queue!r} is not registered any more: it was silent for longer than its"
            " lease, or the server was emptied"
        )
