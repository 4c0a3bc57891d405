"""Redis pub/sub: who is not there when something is said misses it. At most once, and nothing here makes more of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from pythia.broker import (
    Capabilities,
    ConsumeOptions,
    DeadLetter,
    Published,
    QueueDepth,
    Settled,
    Settlement,
    Survey,
)
from pythia.brokers.redis import fields
from pythia.brokers.redis.driver import ResponseError, again
from pythia.brokers.redis.ear import Ear
from pythia.brokers.redis.script import Command
from pythia.brokers.redis.server import Server
from pythia.brokers.redis.settings import RedisSettings
from pythia.brokers.redis.survey import survey
from pythia.brokers.redis.writes import said
from pythia.errors import BrokerError, BrokerUnavailable, Unsupported
from pythia.message import Delivery, Envelope

_MOST_LATER = 1000  # retries that wait in memory


class PubSubConsumer:
    """One subscription. What is held, what waits for its retry, and up to ``prefetch`` messages ahead live in this process."""

    linger = 0.0

    def __init__(self, server: Server, ear: Ear, queue: str, options: ConsumeOptions) -> None:
        self._server = server
        self._ear = ear
        self._queue = queue
        self._prefetch = options.prefetch
        self._most_later = max(_MOST_LATER, options.prefetch)
        self._waiting: deque[Delivery] = deque()
        self._held: dict[int, Delivery] = {}
        self._later: set[asyncio.TimerHandle] = set()
        self._news = asyncio.Event()
        self._failed = asyncio.Event()
        self._draining = False
        self._gone: BrokerError | None = None
        self._numbers = itertools.count()
        self._listening = asyncio.create_task(self._listen(), name=f"redis listen {queue}")  # ended by leave()
        self.dropped = 0

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the contract says; cancelling it takes nothing."""
        while not self._draining:
            self._raise_if_gone()
            room = min(limit, self._prefetch - len(self._held), len(self._waiting))
            if batch := [self._waiting.popleft() for _ in range(room)]:
                self._held.update((id(delivery), delivery) for delivery in batch)
                return batch
            self._news.clear()
            await self._news.wait()
        return ()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """As the contract says. Only outputs reach the server; they are said before anything is forgotten."""
        self._raise_if_gone()
        return [await self._settle(settlement) for settlement in batch]

    async def _settle(self, settlement: Settlement) -> Settled:
        delivery = settlement.delivery
        if self._held.get(id(delivery)) is not delivery:
            return Settled.STALE
        for output in settlement.outputs:
            await self._server.link.call(*_saying(output.queue, output.envelope), key=output.queue)
        del self._held[id(delivery)]
        match settlement.kind:
            case "retry" | "defer" as kind:
                self._later_again(self._next_of(delivery, delivery.attempt + (kind == "retry")), settlement.delay)
            case "release":
                self._waiting.appendleft(self._next_of(delivery, delivery.attempt))
            case "dead_letter":
                self.dropped += 1
        self._news.set()
        return Settled.DONE

    def _next_of(self, old: Delivery, attempt: int) -> Delivery:
        return Delivery(
            old.envelope,
            queue=old.queue,
            token=next(self._numbers),
            attempt=attempt,
            redelivered=True,
            first_seen=old.first_seen,
        )

    def _later_again(self, delivery: Delivery, delay: float) -> None:
        """Hand it out after ``delay``, by this process and for as long as it lives."""

        def come_back() -> None:
            self._later.discard(timer)
            self._waiting.append(delivery)
            self._news.set()

        if len(self._later) >= self._most_later:
            self.dropped += 1
            return
        timer = asyncio.get_running_loop().call_later(max(0.0, delay), come_back)
        self._later.add(timer)

    async def _listen(self) -> None:
        try:
            while True:
                payload = await self._ear.hear()
                if len(self._waiting) < self._prefetch:
                    self._waiting.append(self._delivery_of(payload))
                    self._news.set()
                else:
                    self.dropped += 1
        except BrokerError as error:
            self._fail(error)

    def _delivery_of(self, payload: bytes) -> Delivery:
        envelope, marks = fields.envelope_of(fields.unwrap(payload))
        now = time.time()
        return Delivery(
            envelope,
            queue=self._queue,
            token=next(self._numbers),
            attempt=fields.attempt_of(marks),
            first_seen=fields.first_seen_of(marks, now, now),
        )

    def _fail(self, error: BrokerError) -> None:
        self._gone = self._gone or error
        self._failed.set()
        self._news.set()

    def _raise_if_gone(self) -> None:
        if self._gone is not None:
            raise again(self._gone)

    async def drain(self) -> None:
        """Nothing more is taken; what was heard and not begun is gone with the consumer."""
        self._draining = True
        self._news.set()

    async def watch(self) -> None:
        """As the contract says: the ear notices by itself."""
        await self._failed.wait()
        self._raise_if_gone()

    async def leave(self, reason: BrokerError) -> None:
        """Let go: what was held, heard or waiting for its retry is gone, and counted. Idempotent."""
        self._fail(reason)
        self.dropped += len(self._held) + len(self._waiting) + len(self._later)
        for timer in self._later:
            timer.cancel()
        self._later.clear()
        self._held.clear()
        self._waiting.clear()
        self._listening.cancel()
        await asyncio.wait({self._listening})
        await self._ear.drop()


class NoDeadLetters:
    """There are none: a channel keeps nothing."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def count(self) -> int:
        return len(await self.list())

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:  # noqa: ARG002 - as the contract says
        await self._server.link.call("PING")
        return ()

    async def scan(self) -> AsyncIterator[DeadLetter]:
        for letter in await self.list():
            yield letter

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002, ARG002 - the API's word, as the contract says
        await self.list()
        return None

    async def replay(self, ids: Sequence[str], to: str | None = None) -> int:  # noqa: ARG002 - as the contract says
        return await self.count()

    async def purge(self, ids: Sequence[str]) -> int:  # noqa: ARG002 - as the contract says
        return await self.count()


class RedisPubSubBroker:
    """``redis://…?mode=pubsub``: the queue's name is the channel's."""

    def __init__(self, url: str, settings: RedisSettings) -> None:
        self.server = Server(url, settings, "pubsub")
        self._consumers: list[PubSubConsumer] = []
        self._dropped = 0
        self._dropping: list[asyncio.Future[None]] = []
        self._unheard: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="redis-pubsub",
            guarantee="at-most-once",
            durable=False,
            keeps=False,
            delay=False,
            dead_letters=False,
            lists_queues=False,
            server_version=self.server.version,
            detail=f"{self.server.address.where}, at most once: what nobody hears is gone",
        )

    async def connect(self) -> None:
        await self.server.connect()

    async def close(self) -> None:
        """Let go of every connection; what consumers held is gone. Idempotent."""
        reason = BrokerUnavailable(f"{self.server.address.where} is not connected: call connect() first")
        for consumer in tuple(self._consumers):
            await consumer.leave(reason)
        await asyncio.gather(*self._dropping)
        await self.server.close()

    def abandon(self) -> None:
        """For tests: what ``kill -9`` does."""
        reason = BrokerUnavailable("this broker was abandoned")
        dropping = [consumer.leave(reason) for consumer in self._consumers] + [self.server.abandon()]
        self._dropping = [asyncio.ensure_future(each) for each in dropping]  # close() waits for them

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[PubSubConsumer]:
        return self._consuming(queue, options)

    @contextlib.asynccontextmanager
    async def _consuming(self, queue: str, options: ConsumeOptions) -> AsyncIterator[PubSubConsumer]:
        _ = self.server.link  # raises when there is none
        consumer = PubSubConsumer(self.server, await Ear.open(self.server.address, queue), queue, options)
        self._consumers.append(consumer)
        try:
            yield consumer
        finally:
            await consumer.leave(BrokerUnavailable(f"the consumer of {queue!r} has left"))
            self._consumers.remove(consumer)
            self._dropped += consumer.dropped

    async def prepare(self, queue: str) -> None:  # noqa: ARG002 - a channel needs no making
        """As the contract says: the server answers."""
        await self.ping()

    async def publish(
        self,
        queue: str,
        messages: Sequence[Envelope],
        *,
        delay: float = 0.0,
        exchange: str = "",  # noqa: ARG002 - there are none here, as the capabilities say
    ) -> Sequence[Published]:
        """As the contract says; REFUSED when nobody listens.

        Raises:
            PublishError: a value that cannot be written down. Unsupported: a delay.
        """
        _ = self.server.link  # raises when there is none
        if delay > 0:
            raise Unsupported("Redis pub/sub cannot delay a message: use ?mode=stream or ?mode=list")
        if not messages:
            return []
        answers = await self.server.carry([_saying(queue, envelope) for envelope in messages])
        if answers is None:
            return [Published.UNKNOWN] * len(messages)
        return [self._published(queue, answer) for answer in answers]

    def _published(self, queue: str, heard: Any) -> Published:
        if isinstance(heard, ResponseError):
            raise self.server.address.refused(heard, queue)
        self._unheard = None if heard else f"nobody listens on channel {queue!r}"
        return Published.CONFIRMED if heard else Published.REFUSED

    async def depth(self, queue: str) -> QueueDepth:
        """A channel holds nothing; only who listens can be told."""
        _, listeners = await self.server.link.call("PUBSUB", "NUMSUB", queue, key=queue)
        return QueueDepth(
            queue=queue, ready=0, in_flight=None, delayed=0, dead=0, consumers=int(listeners), durable=None
        )

    async def queues(self) -> Sequence[str]:
        """Channels are not kept anywhere."""
        await self.server.link.call("PING")
        return ()

    def dead_letters(self, queue: str) -> NoDeadLetters:  # noqa: ARG002 - of no queue
        return NoDeadLetters(self.server)

    def idempotency(self) -> None:
        """None: what is at most once needs no store."""
        return

    async def ping(self) -> None:
        await self.server.link.call("PING")

    async def survey(self, queues: Sequence[str]) -> Survey:
        """What the version offers. That it delivers at most once the capabilities say, and what is on no disk is no risk here."""
        return Survey(offers=(await survey(self.server, queues)).offers)

    def stats(self) -> Mapping[str, Any]:
        """``dropped``: messages that found no room, or were held when their consumer ended. ``trouble``: who does not listen."""
        return {
            "dropped": self._dropped + sum(consumer.dropped for consumer in self._consumers),
            "trouble": self._unheard,
        }


def _saying(queue: str, envelope: Envelope) -> Command:
    return ("PUBLISH", queue, fields.wrap(said(queue, envelope)))
