"""The dead letters of one queue: the messages of ``<queue>.dead``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from pythia.broker import DeadLetter, Published, no_such_letter
from pythia.brokers.rabbitmq import wire
from pythia.brokers.rabbitmq.confirms import Parcel
from pythia.brokers.rabbitmq.link import Link
from pythia.brokers.rabbitmq.look import Look
from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.speaker import Speaker
from pythia.brokers.rabbitmq.topology import Topology, dead_queue
from pythia.errors import PublishError

AT_ONCE = 200  # letters that are replayed or purged together


@dataclass(frozen=True, slots=True)
class _Found:
    """A letter's name and its message."""

    name: str
    message: Received

    @property
    def names(self) -> tuple[str, str, str]:
        """What it may be called by, the most exact first: of two letters with one id it depends on who comes first which of them
        has the id for a name, and that may have changed since somebody looked."""
        key = wire.envelope_of(self.message).id
        return f"{key}~{_death(self.message)}", self.name, key


class _Names:
    """The names of letters: their message ids; the second of one id is told apart by what names its death."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def found(self, message: Received) -> _Found:
        name = wire.envelope_of(message).id
        if name in self._taken:
            name = f"{name}~{_death(message)}"
        self._taken.add(name)
        return _Found(name, message)


class RabbitDeadLetters:
    """Oldest first. ``links`` gives the connection to look through and the way to publish, both of the moment."""

    def __init__(self, links: Callable[[], Coroutine[Any, Any, tuple[Link, Speaker, Topology]]], queue: str) -> None:
        self._links = links
        self._queue = queue
        self._dead = dead_queue(queue)

    async def count(self) -> int:
        _, _, topology = await self._links()
        counts = await topology.counts(self._dead)
        return 0 if counts is None else counts[0]

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        """Oldest first, from the one behind ``after``.

        Raises:
            BrokerError: there is no such dead letter any more.
        """
        page: list[DeadLetter] = []
        seen = after is None
        async for found in self._all():
            if seen and len(page) < limit:
                page.append(_letter(found, self._queue))
            seen = seen or found.name == after
        if not seen:
            raise no_such_letter(after, self._queue)
        return page

    async def scan(self) -> AsyncIterator[DeadLetter]:
        """All of them, in one pass; they are out of sight for others until it ends."""
        async with contextlib.aclosing(self._all()) as letters:
            async for found in letters:
                yield _letter(found, self._queue)

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - the API's word
        hit: DeadLetter | None = None
        async for found in self._all():
            if hit is None and id in found.names[:2]:
                hit = _letter(found, self._queue)
        return hit

    async def replay(self, ids: Sequence[str], to: str | None = None) -> int:
        """Back as attempt 1, published now, with the id, body and headers that it had. Confirmed before it leaves here.

        Raises:
            PublishError: the queue does not take one; it stays here, with those after it.
        """
        link, speaker, _ = await self._links()
        queue = to or self._queue

        async def revive(found: Sequence[_Found]) -> None:
            parcels = [_revived(one.message, queue, link.frame_max) for one in found]
            answers = await asyncio.gather(*map(speaker.send, parcels))
            for one, answer in zip(found, answers, strict=True):
                if answer is not Published.CONFIRMED:
                    raise PublishError(
                        f"dead letter {one.name} was not taken by queue {queue!r}: it stays",
                        queue=queue,
                        id=wire.envelope_of(one.message).id,
                        in_doubt=answer is Published.UNKNOWN,
                    )

        return await self._end(ids, revive)

    async def purge(self, ids: Sequence[str]) -> int:
        async def forget(_found: Sequence[_Found]) -> None:
            return

        return await self._end(ids, forget)

    async def _all(self) -> AsyncGenerator[_Found]:
        link, _, topology = await self._links()
        names = _Names()
        async with topology.looking_alone(self._dead):
            if await topology.counts(self._dead) is None:
                return
            async with Look(link, topology, self._dead) as look:
                async for message in look.rest():
                    yield names.found(message)

    async def _end(self, ids: Sequence[str], act: Callable[[Sequence[_Found]], Awaitable[None]]) -> int:
        """Act on those of ``ids`` that are there and take them away; how many there were. As long as all that is taken is
        wanted, no more is taken; else everything is, so that what goes back stands in its order."""
        link, _, topology = await self._links()
        wanted, ended, names = set(ids), 0, _Names()
        async with topology.looking_alone(self._dead):
            if not wanted or await topology.counts(self._dead) is None:
                return 0
            async with Look(link, topology, self._dead) as look:
                while wanted and (taken := await look.take(min(len(wanted), AT_ONCE))):
                    hits = _hits([names.found(message) for message in taken], wanted)
                    ended += await _ended(look, hits, act)
                    if len(hits) < len(taken):
                        rest = [names.found(message) async for message in look.rest()]
                        return ended + await _ended(look, _hits(rest, wanted), act)
        return ended


def _hits(found: Sequence[_Found], wanted: set[str]) -> list[_Found]:
    """Those that are wanted; they are not wanted twice."""
    hits = []
    for one in found:
        name = next((name for name in one.names if name in wanted), None)
        if name is not None:
            wanted.remove(name)
            hits.append(one)
    return hits


async def _ended(look: Look, hits: Sequence[_Found], act: Callable[[Sequence[_Found]], Awaitable[None]]) -> int:
    for start in range(0, len(hits), AT_ONCE):
        some = hits[start : start + AT_ONCE]
        await act(some)
        for found in some:
            await look.remove(found.message)
    return len(hits)


def _death(message: Received) -> str:
    """What tells this letter from another of the same message id; a foreign letter has only its place."""
    death = wire.text((message.properties.headers or {}).get(wire.DEATH))
    return (death or f"{message.tag:x}")[-12:]


def _letter(found: _Found, queue: str) -> DeadLetter:
    headers = found.message.properties.headers or {}
    envelope = wire.envelope_of(found.message, wire.OF_A_DEATH)
    seen = wire.number(headers.get(wire.FIRST_SEEN))
    origin = wire.text(headers.get(wire.ORIGIN_QUEUE)) or wire.text(headers.get("x-first-death-queue"))
    return DeadLetter(
        id=found.name,
        envelope=envelope,
        reason=wire.text(headers.get(wire.REASON)),
        detail=wire.text(headers.get(wire.DETAIL)),
        attempts=wire.attempts_of(found.message),
        error_type=wire.text(headers.get(wire.ERROR_TYPE)),
        error_message=wire.text(headers.get(wire.ERROR)),
        traceback=wire.text(headers.get(wire.TRACEBACK)),
        published_at=seen if envelope.timestamp is None else envelope.timestamp,
        first_seen_at=seen,
        dead_at=wire.number(headers.get(wire.DEAD_AT)),
        worker=wire.text(headers.get(wire.WORKER)),
        worker_id=wire.text(headers.get(wire.WORKER_ID)),
        origin_queue=origin or queue,
    )


def _revived(message: Received, queue: str, frame_max: int) -> Parcel:
    """A dead letter as a message that was published just now."""
    now = time.time()
    gone = wire.OF_A_DEATH | {wire.TO, wire.DUE, wire.ATTEMPT}
    marks = dict.fromkeys(gone) | {wire.FIRST_SEEN: now, wire.PUBLISHED_AT: now}
    name = wire.envelope_of(message).id
    properties = wire.copy_of(message, marks, frame_max, id=name, timestamp=wire.moment(now))
    return Parcel(routing_key=queue, body=message.body, properties=properties)
