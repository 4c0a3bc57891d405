"""A broker of one test's own on a server that others use too: every queue that it names is another one on the server.

Names get a prefix going in and lose it coming out, so that a test says ``"q"`` on every broker. Nothing else changes; a
delivery is the broker's own in all but its queue.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from pythia.broker import (
    Broker,
    Capabilities,
    Claim,
    ConsumeOptions,
    Consumer,
    DeadLetter,
    DeadLetters,
    IdempotencyStore,
    Published,
    QueueDepth,
    Settled,
    Settlement,
    Survey,
)
from pythia.message import Delivery, Envelope


@dataclass(slots=True, kw_only=True)
class Scope:
    """The names of one test. ``declares``: a message to a queue that nobody made is refused there, so it is made first."""

    prefix: str
    declares: bool
    made: set[str] = field(default_factory=set)

    def inside(self, queue: str) -> str:
        """The name on the server."""
        return self.prefix + queue

    def outside(self, queue: str) -> str:
        """The name in the test."""
        return queue.removeprefix(self.prefix)


class Scoped:
    """``inner`` within ``scope``; several brokers of one test share one."""

    def __init__(self, inner: Broker, scope: Scope) -> None:
        self.inner = inner
        self.scope = scope

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def connect(self) -> None:
        await self.inner.connect()

    async def close(self) -> None:
        await self.inner.close()

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[ScopedConsumer]:
        return self._consuming(queue, options)

    @contextlib.asynccontextmanager
    async def _consuming(self, queue: str, options: ConsumeOptions) -> AsyncIterator[ScopedConsumer]:
        given: dict[int, Delivery] = {}

        def on_lost(deliveries: Sequence[Delivery], reason: str) -> None:
            options.on_lost([given[id(delivery)] for delivery in deliveries], reason)

        async with self.inner.consume(self.scope.inside(queue), replace(options, on_lost=on_lost)) as consumer:
            self.scope.made.add(queue)
            yield ScopedConsumer(self, consumer, given)

    async def publish(
        self, queue: str, messages: Sequence[Envelope], *, delay: float = 0.0, exchange: str = ""
    ) -> Sequence[Published]:
        await self.declare(queue)
        return await self.inner.publish(self.scope.inside(queue), messages, delay=delay, exchange=exchange)

    async def declare(self, queue: str) -> None:
        """Make the queue unless this test did before. On most brokers there is nothing to make."""
        if queue in self.scope.made:
            return
        if self.scope.declares:
            options = ConsumeOptions(prefetch=1, lease=30.0, max_hold=None, consumer="declares")
            async with self.inner.consume(self.scope.inside(queue), options):
                pass
        self.scope.made.add(queue)

    async def prepare(self, queue: str) -> None:
        await self.inner.prepare(self.scope.inside(queue))

    async def depth(self, queue: str) -> QueueDepth:
        return replace(await self.inner.depth(self.scope.inside(queue)), queue=queue)

    async def queues(self) -> Sequence[str]:
        known = await self.inner.queues()
        return [self.scope.outside(queue) for queue in known if queue.startswith(self.scope.prefix)]

    def dead_letters(self, queue: str) -> ScopedDeadLetters:
        return ScopedDeadLetters(self, self.inner.dead_letters(self.scope.inside(queue)))

    def idempotency(self) -> ScopedEffects | None:
        store = self.inner.idempotency()
        return None if store is None else ScopedEffects(store, self.scope)

    async def ping(self) -> None:
        await self.inner.ping()

    async def survey(self, queues: Sequence[str]) -> Survey:
        return await self.inner.survey([self.scope.inside(queue) for queue in queues])

    def stats(self) -> Mapping[str, Any]:
        return self.inner.stats()


class ScopedConsumer:
    """Deliveries whose token is the broker's own delivery; ``given`` finds ours by the id() of that."""

    def __init__(self, broker: Scoped, inner: Consumer, given: dict[int, Delivery]) -> None:
        self._broker = broker
        self._inner = inner
        self._given = given
        self.linger = inner.linger

    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = await self._inner.receive(limit)
        return [self._given.setdefault(id(delivery), self._outside(delivery)) for delivery in deliveries]

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        for settlement in batch:
            for output in settlement.outputs:
                await self._broker.declare(output.queue)
        return await self._inner.settle([self._inside(settlement) for settlement in batch])

    async def drain(self) -> None:
        await self._inner.drain()

    async def watch(self) -> None:
        await self._inner.watch()

    def _outside(self, delivery: Delivery) -> Delivery:
        return Delivery(
            delivery.envelope,
            queue=self._broker.scope.outside(delivery.queue),
            token=delivery,
            attempt=delivery.attempt,
            deliveries=delivery.deliveries,
            redelivered=delivery.redelivered,
            first_seen=delivery.first_seen,
            identity=delivery.identity,
        )

    def _inside(self, settlement: Settlement) -> Settlement:
        outputs = [replace(output, queue=self._broker.scope.inside(output.queue)) for output in settlement.outputs]
        return replace(settlement, delivery=settlement.delivery.token, outputs=outputs)


class ScopedDeadLetters:
    """Dead letters whose origin is named as the test names it."""

    def __init__(self, broker: Scoped, inner: DeadLetters) -> None:
        self._broker = broker
        self._inner = inner

    async def count(self) -> int:
        return await self._inner.count()

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        return [self._outside(letter) for letter in await self._inner.list(limit, after)]

    async def scan(self) -> AsyncIterator[DeadLetter]:
        async for letter in self._inner.scan():
            yield self._outside(letter)

    async def get(self, id: str) -> DeadLetter | None:
        letter = await self._inner.get(id)
        return None if letter is None else self._outside(letter)

    async def replay(self, ids: Sequence[str], to: str | None = None) -> int:
        if to is None:
            return await self._inner.replay(ids)
        await self._broker.declare(to)
        return await self._inner.replay(ids, self._broker.scope.inside(to))

    async def purge(self, ids: Sequence[str]) -> int:
        return await self._inner.purge(ids)

    def _outside(self, letter: DeadLetter) -> DeadLetter:
        origin = letter.origin_queue
        return letter if origin is None else replace(letter, origin_queue=self._broker.scope.outside(origin))


class ScopedEffects:
    """Keys of effects are names too."""

    def __init__(self, inner: IdempotencyStore, scope: Scope) -> None:
        self._inner = inner
        self._scope = scope

    async def claim(self, key: str, owner: str, ttl: float) -> Claim:
        return await self._inner.claim(self._scope.inside(key), owner, ttl)

    async def done(self, key: str, owner: str, ttl: float) -> bool:
        return await self._inner.done(self._scope.inside(key), owner, ttl)

    async def release(self, key: str, owner: str) -> None:
        await self._inner.release(self._scope.inside(key), owner)
