"""What brokers on streams and on lists have in common: connecting, publishing, the keeper, dead letters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol, TypeVar

from pythia.broker import Capabilities, ConsumeOptions, Consumer, Published, QueueDepth, Survey
from pythia.brokers.redis.consumer import BLOCK_SECONDS, RedisConsumer, Source
from pythia.brokers.redis.dead import RedisDeadLetters
from pythia.brokers.redis.delayed import Mover
from pythia.brokers.redis.driver import ResponseError, error_in, is_full
from pythia.brokers.redis.holder import Holder
from pythia.brokers.redis.idempotency import RedisEffects
from pythia.brokers.redis.keeper import Duty, Keeper
from pythia.brokers.redis.keys import DEAD
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.server import Server
from pythia.brokers.redis.settings import Mode, RedisSettings
from pythia.brokers.redis.survey import survey
from pythia.brokers.redis.writes import Putting, put, said
from pythia.errors import BrokerError, BrokerUnavailable
from pythia.message import Envelope

T = TypeVar("T", bound=Hashable)

_TRIAL_LEASE = 30.0  # of a consumer that takes nothing


class Subscriber(Consumer, Protocol):
    """A consumer as its broker sees it."""

    @property
    def incarnation(self) -> str: ...  # its name on the server, which no other ever has

    @property
    def duties(self) -> Sequence[Duty]: ...  # of the keeper, for as long as it lives

    async def leave(self, reason: BrokerError) -> bool:
        """Give back whatever is unsettled, let its connection go; False when the server could not be reached."""
        ...

    async def abandon(self) -> None: ...  # what killing the process does to it
    async def look_again(self) -> None: ...  # something was given back to its queue

    def counts(self) -> Mapping[str, int]: ...  # what ``stats`` adds up over every consumer that there ever was


class RedisBroker:
    """One server in one mode. Not for use on both sides of a fork: the child connects again."""

    counts_deliveries: ClassVar[bool]

    def __init__(self, url: str, settings: RedisSettings, mode: Mode, putting: Putting) -> None:
        self.server = Server(url, settings, mode)
        self._putting = putting
        self._keeper: Keeper | None = None
        self._consumers: dict[Subscriber, str] = {}
        self._counted: dict[str, int] = {}  # by consumers that have left
        self._orphans: dict[str, set[str]] = {}
        self._dropping: list[asyncio.Future[None]] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name=f"redis-{self.server.mode}",
            leased=True,
            dead_queue=DEAD,
            counts_deliveries=self.counts_deliveries,
            transactional=True,
            idempotency=True,
            server_version=self.server.version,
            detail=f"{self.server.address.where}, {self.server.persistence}",
        )

    async def connect(self) -> None:
        """As the contract says. A connection that was lost is replaced; consumers that live are not disturbed."""
        await self.server.connect()

    async def close(self) -> None:
        """Give back what consumers hold, end the keeper, let go of every connection. Idempotent."""
        reason = BrokerUnavailable(f"{self.server.address.where} is not connected: call connect() first")
        for consumer in tuple(self._consumers):
            await self._leave(consumer, reason)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stop()
            await asyncio.to_thread(keeper.join)
        await asyncio.gather(*self._dropping)
        await self.server.close()

    def abandon(self) -> None:
        """For tests: what ``kill -9`` does. Renewing stops, sockets are dropped, nothing is given back."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stop()
        dropping = [consumer.abandon() for consumer in self._consumers] + [self.server.abandon()]
        self._dropping = [asyncio.ensure_future(each) for each in dropping]  # close() waits for them

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[Consumer]:
        return self._consuming(queue, options)

    @contextlib.asynccontextmanager
    async def _consuming(self, queue: str, options: ConsumeOptions) -> AsyncIterator[Consumer]:
        consumer = await self.subscribe(queue, options)
        self._consumers[consumer] = queue
        duties = consumer.duties
        try:
            self._keep(duties)
            yield consumer
        finally:
            if self._keeper is not None:
                self._keeper.remove(duties)
            try:
                await self._leave(consumer, BrokerUnavailable(f"the consumer of {queue!r} has left"))
            finally:
                del self._consumers[consumer]
                self._count(consumer.counts())

    async def _leave(self, consumer: Subscriber, reason: BrokerError) -> None:
        if not await consumer.leave(reason):
            self._orphans.setdefault(self._consumers[consumer], set()).add(consumer.incarnation)

    async def _reader(self, queue: str, source: Source[T]) -> Link:
        """Has ``source`` join, and what earlier incarnations of this process lost with their connection go back first; the
        connection that its consumer will read from."""
        link = await self.server.open("reader", patience=BLOCK_SECONDS)
        try:
            await source.join()
            await self.server.remember(queue)
            orphans = self._orphans.get(queue, set())
            while orphans:
                orphan = next(iter(orphans))
                await source.leave(orphan)
                orphans.discard(orphan)
        except BaseException:
            await link.drop()
            raise
        return link

    async def consumer(self, queue: str, source: Source[T], holder: Holder[T], leases: Duty) -> RedisConsumer[T]:
        """What ``subscribe`` returns, once ``source`` has joined."""
        reader = await self._reader(queue, source)
        return RedisConsumer(
            self.server,
            source,
            holder,
            reader,
            queue=queue,
            putting=self._putting,
            duties=(leases, Mover(queue, self.server.mode)),
            released=lambda: self._look_again(queue),
        )

    async def subscribe(self, queue: str, options: ConsumeOptions) -> Subscriber:
        """A consumer on a connection of its own.

        Raises:
            BrokerUnavailable, BrokerRefused: there cannot be one. ConsumerCancelled: what it needs is not there.
        """
        raise NotImplementedError

    async def prepare(self, queue: str) -> None:
        """As the contract says: a consumer that comes, reads nothing, and leaves."""
        async with self.consume(queue, ConsumeOptions(prefetch=1, lease=_TRIAL_LEASE, max_hold=None, consumer="trial")):
            pass

    async def depth(self, queue: str) -> QueueDepth:
        raise NotImplementedError

    def _keep(self, duties: Sequence[Duty]) -> None:
        if self._keeper is None:
            self._keeper = Keeper(self.server.address)
        self._keeper.add(duties)

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self._counted[name] = self._counted.get(name, 0) + count

    async def _look_again(self, queue: str) -> None:
        """Something went back: consumers of this process that wait look for it."""
        for consumer, its_queue in tuple(self._consumers.items()):
            if its_queue == queue:
                await consumer.look_again()

    async def publish(
        self,
        queue: str,
        messages: Sequence[Envelope],
        *,
        delay: float = 0.0,
        exchange: str = "",  # noqa: ARG002 - there are none here, as the capabilities say
    ) -> Sequence[Published]:
        """As the contract says; in one round trip. Cancelled: they may be there.

        Raises:
            PublishError: a value that cannot be written down. BrokerRefused: the key is of another type, or not permitted.
        """
        _ = self.server.link  # raises when there is none
        if not messages:
            return []
        commands = [put(self._putting(queue, said(queue, envelope), delay)) for envelope in messages]
        answers = await self.server.carry([*commands, *self.server.remembering(queue)])
        if answers is None:
            return [Published.UNKNOWN] * len(messages)
        self.server.note(answers[: len(messages)])
        return [self._published(queue, answer) for answer in answers[: len(messages)]]

    def _published(self, queue: str, answer: Any) -> Published:
        answer = error_in(answer)
        if not isinstance(answer, ResponseError):
            return Published.CONFIRMED
        if is_full(answer):
            return Published.REFUSED
        raise self.server.address.refused(answer, queue)

    async def queues(self) -> Sequence[str]:
        return await self.server.queues()

    def dead_letters(self, queue: str) -> RedisDeadLetters:
        return RedisDeadLetters(self.server, queue, self._putting)

    def idempotency(self) -> RedisEffects:
        return RedisEffects(self.server)

    async def ping(self) -> None:
        """Whether the server would take a message.

        Raises:
            BrokerUnavailable: it is away, or takes no writes. BrokerRefused: it does not want us.
        """
        await self.server.ping()

    async def survey(self, queues: Sequence[str]) -> Survey:
        return await survey(self.server, queues)

    def stats(self) -> Mapping[str, Any]:
        """``lease_renewals``, ``leases_lost``, ``vanished`` (entries that somebody deleted before they were settled);
        ``trouble``: why the server takes no writes just now."""
        total = {"lease_renewals": 0, "leases_lost": 0, "vanished": 0} | self._counted
        for consumer in self._consumers:
            for name, count in consumer.counts().items():
                total[name] = total.get(name, 0) + count
        keeper = None if self._keeper is None else self._keeper.trouble
        return {**total, "trouble": self.server.trouble or keeper}
