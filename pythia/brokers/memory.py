"""The memory broker: the semantics of the durable ones inside one process, for tests, simulation and trying things out.

It is a verified fake: the conformance suite that holds SQLite holds it too. Time comes from the clock it is given, so that
delays, leases and time limits can be advanced through. What a kill, a cut connection or a full disk would do is asked for
by ``crash``, ``cut`` and ``Faults``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from pythia.broker import (
    Capabilities,
    Claim,
    ConsumeOptions,
    DeadLetter,
    Published,
    QueueDepth,
    Settled,
    Settlement,
    Survey,
)
from pythia.brokers.memory_store import Holder, MemoryStore
from pythia.clock import Clock, SystemClock
from pythia.errors import BrokerUnavailable
from pythia.message import Delivery, Envelope

_CAPABILITIES = Capabilities(
    name="memory",
    durable=False,
    shared=False,
    leased=True,
    priority=True,
    ordering_keys=True,
    counts_deliveries=True,
    transactional=True,
    idempotency=True,
    detail="in this process only: gone when it ends",
)

_NAMED: dict[str, MemoryStore] = {}


def named_store(name: str) -> MemoryStore:
    """The one store of this process that ``memory://name`` stands for."""
    return _NAMED.setdefault(name, MemoryStore())


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong, asked before (or after) the thing is done; assignable at any time. A hook may raise ``BrokerUnavailable``.

    ``publish`` and ``settle`` answer for one item: None lets it happen, REFUSED and STALE leave everything as it was, UNKNOWN
    lets it happen but does not say so. ``settled`` is asked after a batch was carried out: raising there loses the answer.
    """

    connect: Callable[[], None] | None = None
    publish: Callable[[str, Envelope], Published | None] | None = None
    receive: Callable[[str], None] | None = None
    settle: Callable[[Settlement], Settled | None] | None = None
    settled: Callable[[Sequence[Settlement]], None] | None = None


class MemoryConsumer:
    """One subscription to one queue of a memory store."""

    linger = 0.0

    def __init__(self, broker: MemoryBroker, queue: str, options: ConsumeOptions) -> None:
        self._broker = broker
        self._store = broker.store
        self._clock = broker.clock
        self._prefetch = options.prefetch
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._rearm = asyncio.Event()
        self._draining = False
        self._failure: str | None = None
        self._failed = asyncio.Event()
        self.holder = Holder(
            queue=queue,
            lease=options.lease,
            max_hold=options.max_hold,
            wake=self._signal(self._wake),
            rearm=self._signal(self._rearm),
            on_lost=options.on_lost,
        )

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the contract says; cancelling it takes nothing."""
        while True:
            self._wake.clear()
            if self._failure is not None:
                raise BrokerUnavailable(self._failure)
            if self._draining:
                return ()
            if self._broker.faults.receive is not None:
                self._broker.faults.receive(self.holder.queue)
            if batch := self._take(limit):
                return batch
            await self._wake.wait()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """As the contract says; cancelling it does not undo it."""
        await asyncio.sleep(0)
        if self._failure is not None:
            return [Settled.STALE] * len(batch)
        with self._store.lock:
            answers = [self._settle(settlement) for settlement in batch]
        self._wake.set()  # there is room below the prefetch again
        if self._broker.faults.settled is not None:
            self._broker.faults.settled(batch)
        return answers

    async def drain(self) -> None:
        """Nothing is fetched ahead here, so there is nothing to give back."""
        self._draining = True
        self._wake.set()

    async def watch(self) -> None:
        """As the contract says."""
        await self._failed.wait()
        raise BrokerUnavailable(self._failure)

    def crash(self, *, at_once: bool = True) -> None:
        """What killing the process does: nobody is told, and what was held comes back at once or when its lease is over."""
        self._leave("this consumer was crashed by its test", at_once=at_once)

    def stop_renewing(self) -> None:
        """Let the leases run out while the consumer goes on, as a process that is stopped for too long would."""
        with self._store.lock:
            self._store.stop_renewing(self.holder, self._clock.time())

    def cut(self, reason: str) -> None:
        """What losing the connection does: what was held goes back at once, and its owner is told."""
        held = tuple(self.holder.held.values())
        self._leave(reason, at_once=True)
        if held:
            self.holder.on_lost(held, reason)

    async def keep_time(self) -> None:
        """Wake the store at every moment at which something happens by itself, for as long as the consumer lives."""
        while True:
            self._rearm.clear()
            with self._store.lock:
                self._store.advance(self._clock.time())
                moment = self._store.next_moment()
            await self._nap(None if moment is None else moment - self._clock.time())

    def close(self) -> None:
        """Give back, uncounted, whatever is unsettled."""
        self._leave("the consumer is closed", at_once=True)

    async def _nap(self, seconds: float | None) -> None:
        if seconds is None:
            await self._rearm.wait()
            return
        alarm = asyncio.ensure_future(self._clock.sleep(seconds))
        # One that is cancelled wakes nobody: it would wake the next nap, whose alarm is then cancelled, and so for ever.
        alarm.add_done_callback(lambda over: None if over.cancelled() else self._rearm.set())
        try:
            await self._rearm.wait()
        finally:
            alarm.cancel()

    def _take(self, limit: int) -> Sequence[Delivery]:
        with self._store.lock:
            room = min(limit, self._prefetch - len(self.holder.held))
            return self._store.take(self.holder, room, self._clock.time()) if room > 0 else ()

    def _settle(self, settlement: Settlement) -> Settled:
        hook = self._broker.faults.settle
        answer = None if hook is None else hook(settlement)
        return self._store.settle(settlement, self._clock.time()) if answer is None else answer

    def _leave(self, failure: str, *, at_once: bool) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        self._signal(self._failed)()
        with self._store.lock:
            if self.holder in self._store.holders:
                self._store.holders.remove(self.holder)
            self._store.release(self.holder, self._clock.time(), at_once=at_once)
        self._wake.set()

    def _signal(self, event: asyncio.Event) -> Callable[[], None]:
        """Sets ``event`` from whatever thread it is called in."""

        def set_event() -> None:
            if _running_loop() is self._loop:
                event.set()
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(event.set)

        return set_event


class MemoryDeadLetters:
    """The dead letters of one queue of a memory store."""

    def __init__(self, broker: MemoryBroker, queue: str) -> None:
        self._broker = broker
        self._queue = queue

    async def count(self) -> int:
        return len(self._open().lane(self._queue).dead)

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        """Oldest first, from the one behind ``after``.

        Raises:
            BrokerError: there is no such dead letter any more.
        """
        with self._open().lock:
            return self._broker.store.list_dead(self._queue, limit, after)

    async def scan(self) -> AsyncIterator[DeadLetter]:
        """Oldest first, those that are there now."""
        for letter in list(self._open().lane(self._queue).dead.values()):
            yield letter

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - the API's word
        return self._open().lane(self._queue).dead.get(id)

    async def replay(self, ids: Sequence[str], to: str | None = None) -> int:
        """Back as attempt 1, published now, with the id, body and headers that it had."""
        with self._open().lock:
            return self._broker.store.replay(self._queue, ids, to or self._queue, self._broker.clock.time())

    async def purge(self, ids: Sequence[str]) -> int:
        with self._open().lock:
            return self._broker.store.purge(self._queue, ids)

    def _open(self) -> MemoryStore:
        return self._broker.reached()


class MemoryEffects:
    """The idempotency store of a memory store."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def claim(self, key: str, owner: str, ttl: float) -> Claim:
        with self._broker.reached().lock:
            return self._broker.store.claim_effect(key, owner, ttl, self._broker.clock.time())

    async def done(self, key: str, owner: str, ttl: float) -> bool:
        with self._broker.reached().lock:
            return self._broker.store.effect_done(key, owner, ttl, self._broker.clock.time())

    async def release(self, key: str, owner: str) -> None:
        with self._broker.reached().lock:
            self._broker.store.release_effect(key, owner, self._broker.clock.time())


class MemoryBroker:
    """A broker in this process. Built directly it is private; ``store`` shares the messages of another one."""

    def __init__(
        self, *, clock: Clock | None = None, store: MemoryStore | None = None, faults: Faults | None = None
    ) -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self.store = MemoryStore() if store is None else store
        self.faults = Faults() if faults is None else faults
        self._consumers: list[MemoryConsumer] = []
        self._connected = False

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    async def connect(self) -> None:
        """Idempotent; after ``close`` or ``cut`` it connects again, to the same messages."""
        if self.faults.connect is not None:
            self.faults.connect()
        self._connected = True

    async def close(self) -> None:
        """Gives back what every consumer of this broker holds. The messages stay as long as the store does."""
        self._connected = False
        for consumer in tuple(self._consumers):
            consumer.close()

    def crash(self, *, at_once: bool = True) -> None:
        """What killing the process does: nobody is told; what its consumers held comes back at once, or with its leases."""
        self._connected = False
        for consumer in tuple(self._consumers):
            consumer.crash(at_once=at_once)

    def cut(self, reason: str = "the connection was cut") -> None:
        """What losing the connection does: consumers fail, what they held goes back, its owners are told."""
        self._connected = False
        for consumer in tuple(self._consumers):
            consumer.cut(reason)

    def reached(self) -> MemoryStore:
        """The store, if there is a connection to it."""
        if not self._connected:
            raise BrokerUnavailable("the memory broker is not connected: call connect() first")
        return self.store

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[MemoryConsumer]:
        return self._consuming(queue, options)

    @contextlib.asynccontextmanager
    async def _consuming(self, queue: str, options: ConsumeOptions) -> AsyncIterator[MemoryConsumer]:
        store = self.reached()
        consumer = MemoryConsumer(self, queue, options)
        with store.lock:
            store.lane(queue)
            store.holders.append(consumer.holder)
        self._consumers.append(consumer)
        keeper = asyncio.create_task(consumer.keep_time(), name=f"memory keeper of {queue}")
        try:
            yield consumer
        finally:
            self._consumers.remove(consumer)
            consumer.close()
            keeper.cancel()
            await asyncio.wait((keeper,))

    async def prepare(self, queue: str) -> None:  # noqa: ARG002 - queues need no making here
        """As the contract says: it is connected."""
        self.reached()

    async def publish(
        self,
        queue: str,
        messages: Sequence[Envelope],
        *,
        delay: float = 0.0,
        exchange: str = "",  # noqa: ARG002 - there are none here, as the capabilities say
    ) -> Sequence[Published]:
        """As the contract says; the whole flight becomes visible at once."""
        store = self.reached()
        await asyncio.sleep(0)
        now = self.clock.time()
        with store.lock:
            store.lane(queue)
            return [self._publish(queue, envelope, now, delay) for envelope in messages]

    def _publish(self, queue: str, envelope: Envelope, now: float, delay: float) -> Published:
        hook = self.faults.publish
        answer = None if hook is None else hook(queue, envelope)
        if answer is not Published.REFUSED:
            self.store.put(queue, envelope, now, delay)
        return Published.CONFIRMED if answer is None else answer

    async def depth(self, queue: str) -> QueueDepth:
        with self.reached().lock:
            return self.store.depth(queue, self.clock.time())

    async def queues(self) -> Sequence[str]:
        with self.reached().lock:
            return self.store.queues()

    def dead_letters(self, queue: str) -> MemoryDeadLetters:
        return MemoryDeadLetters(self, queue)

    def idempotency(self) -> MemoryEffects:
        return MemoryEffects(self)

    async def ping(self) -> None:
        self.reached()

    async def survey(self, queues: Sequence[str]) -> Survey:  # noqa: ARG002 - they end with the process
        """Nothing beyond what the capabilities say."""
        return Survey()

    def stats(self) -> Mapping[str, Any]:
        return {"leases_lost": self.store.lost}


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
