"""The real engine under a microscope: a worker on a memory broker in virtual time, every delivery and settlement recorded.

``Seam`` stands between core and broker, where the invariants can be seen from outside: what was handed out, what was
settled and how it was answered, how much was held at once. It can also hold things up, as a thread or a network would.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from pythia.broker import ConsumeOptions, Consumer, DeadLetter, Settled, Settlement
from pythia.brokers.memory import Faults, MemoryBroker
from pythia.brokers.memory_store import MemoryStore
from pythia.clock import VirtualClock, settle_loop
from pythia.config import WorkerConfig
from pythia.core.events import Event
from pythia.core.publishing import make_envelope
from pythia.core.worker import Worker
from pythia.errors import BrokerUnavailable
from pythia.message import Delivery, Envelope
from pythia.service import RunOptions, life_of, serve

DEADLINE_SECONDS = 10.0
QUIET = RunOptions(http=False, signals=False)


def config_of(cls: type[WorkerConfig] = WorkerConfig, **overrides: Any) -> WorkerConfig:
    """A configuration made of these overrides alone; keys are dotted with ``__``."""
    plain = {name.replace("__", "."): value for name, value in overrides.items()}
    return cls.load(os.devnull, **{"http.enabled": False, "log.level": "critical", **plain})


async def until(holds: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> None:
    """Let the loop turn until ``holds()``; fails after the deadline."""
    deadline, turns = time.monotonic() + seconds, 0
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        turns += 1
        await asyncio.sleep(0 if turns < 100 else 0.001)


async def soon(work: Awaitable[Any], seconds: float = DEADLINE_SECONDS) -> Any:
    return await asyncio.wait_for(work, seconds)


class Seam(MemoryBroker):
    """A memory broker that records what passes the contract."""

    def __init__(self, clock: VirtualClock, store: MemoryStore, faults: Faults | None = None) -> None:
        super().__init__(clock=clock, store=store, faults=faults)
        self.received: list[Delivery] = []
        self.settlements: list[tuple[Settlement, Settled]] = []
        self.asked: list[Settlement] = []  # before it was answered
        self.outstanding: set[int] = set()  # id() of deliveries that were handed out and are not settled
        self.most_held = 0
        self.consumers: list[Consumer] = []
        self.options: list[ConsumeOptions] = []
        self.connects = 0
        self.receive_gate = asyncio.Event()  # cleared: what was received is held up on its way to the engine
        self.receive_gate.set()
        self.settle_gate = asyncio.Event()
        self.settle_gate.set()
        self.settle_error: BaseException | None = None
        self.drain_error: BaseException | None = None
        self.consume_error: BaseException | None = None
        self.watches: list[asyncio.Future[None]] = []
        self.on_seen: Callable[[], None] = lambda: None

    async def connect(self) -> None:
        self.connects += 1
        await super().connect()

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[Any]:
        return self._watched(queue, options)

    @asynccontextmanager
    async def _watched(self, queue: str, options: ConsumeOptions) -> AsyncIterator[Any]:
        if self.consume_error is not None:
            raise self.consume_error
        async with super().consume(queue, options) as consumer:
            self.options.append(options)
            self.consumers.append(consumer)
            yield _Watched(self, consumer)

    def kinds(self, one: str) -> list[str]:
        """What was carried out for this message, in order."""
        return [s.kind for s, answer in self.settlements if s.delivery.envelope.id == one and answer is Settled.DONE]


class _Watched:
    linger = 0.0

    def __init__(self, seam: Seam, consumer: Consumer) -> None:
        self._seam = seam
        self._consumer = consumer

    async def receive(self, limit: int) -> Sequence[Delivery]:
        batch = await self._consumer.receive(limit)
        self._seam.received += batch
        self._seam.outstanding |= {id(delivery) for delivery in batch}
        self._seam.most_held = max(self._seam.most_held, len(self._seam.outstanding))
        await self._seam.receive_gate.wait()
        self._seam.on_seen()
        return batch

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        self._seam.asked += batch
        await self._seam.settle_gate.wait()
        if self._seam.settle_error is not None:
            raise self._seam.settle_error
        answers = await self._consumer.settle(batch)
        self._seam.settlements += zip(batch, answers, strict=True)
        self._seam.outstanding -= {
            id(s.delivery) for s, answer in zip(batch, answers, strict=True) if answer is not Settled.REFUSED
        }
        self._seam.on_seen()
        return answers

    async def drain(self) -> None:
        if self._seam.drain_error is not None:
            raise self._seam.drain_error
        await self._consumer.drain()

    async def watch(self) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seam.watches.append(ended)
        cut = asyncio.ensure_future(self._consumer.watch())
        try:
            done, _ = await asyncio.wait({ended, cut}, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            cut.cancel()
            if ended in self._seam.watches:
                self._seam.watches.remove(ended)


class Kit:
    """One worker, its seam to the broker, and the test's own connection to the same messages."""

    def __init__(self, worker: Worker | type[Worker], **overrides: Any) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore()
        self.faults = Faults()
        self.seam = Seam(self.clock, self.store, self.faults)
        self.outside = MemoryBroker(clock=self.clock, store=self.store)
        self.worker: Any = worker(config_of(**overrides)) if isinstance(worker, type) else worker
        self.overrides = overrides
        self.events: list[Event] = []
        self.residuals: set[int] = set()
        life = life_of(self.worker)
        self.life = life
        life.clock = self.clock
        life.open_broker = lambda _config: self.seam
        life.open_store = lambda _config: self.outside
        life.emit.add(self._saw)
        self.seam.on_seen = self._look
        self.running = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def _saw(self, event: Event) -> None:
        self.events.append(event)
        self._look()

    def _look(self) -> None:
        self.residuals.add(self.life.tally.outcomes()["residual"])

    # Its life.

    async def start(self, options: RunOptions = QUIET) -> None:
        """RUNNING when this returns; raises what kept it from that."""
        self.launch(options)
        await self.until_running()

    def launch(self, options: RunOptions = QUIET) -> asyncio.Task[None]:
        self.running.clear()
        self.life.on_running = self.running.set
        self.task = asyncio.create_task(serve(self.worker, options), name="under test")
        return self.task

    async def until_running(self) -> None:
        assert self.task is not None
        await until(lambda: self.running.is_set() or self.task.done())
        if self.task.done():
            await self.task
            raise AssertionError("it ended before it was running")

    def configure(self, **overrides: Any) -> None:
        """Assign a configuration with these changes to the running worker."""
        self.overrides |= overrides
        self.worker.config = config_of(**self.overrides)

    async def stop(self, timeout: float | None = None) -> None:
        """STOPPED when this returns; the clock moves on if a handler does not end."""
        self.worker.stop(timeout=timeout)
        await self.ended()

    async def ended(self) -> None:
        """Its task is over; raises what it raised."""
        assert self.task is not None
        turns = 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.task.done():
            assert time.monotonic() < deadline, f"it does not end: {self.worker.state}"
            turns += 1
            await asyncio.sleep(0 if turns < 100 else 0.002)
            if turns > 120:
                await self.clock.advance(0.25)
        await self.task

    async def end_consumers(self, error: BaseException) -> None:
        """What a server does that ends consumers on a connection that lives: whoever watches them hears of it."""
        await until(lambda: len(self.seam.watches) == len(self.worker.config.queue_names))
        for watch in self.seam.watches:
            watch.set_exception(error)
        self.seam.watches.clear()

    # Messages.

    async def publish(self, body: Any = None, queue: str | None = None, *, delay: float = 0.0, **options: Any) -> str:
        envelope = make_envelope({} if body is None else body, **options)
        return await self.put(envelope, queue, delay=delay)

    async def put(self, envelope: Envelope, queue: str | None = None, *, delay: float = 0.0) -> str:
        await self.outside.connect()
        await self.outside.publish(queue or self.worker.config.queue_names[0], [envelope], delay=delay)
        return envelope.id

    def kinds(self, one: str) -> list[str]:
        return self.seam.kinds(one)

    async def settled(self, one: str, times: int = 1) -> list[str]:
        """Wait until this message was settled so often; every kind, in order."""
        await until(lambda: len(self.kinds(one)) >= times)
        return self.kinds(one)

    async def final(self, one: str, seconds: float = 100_000) -> list[str]:
        """Advance through the retries until it is gone or dead."""
        for _ in range(1000):
            await settle_loop()
            if {"ack", "dead_letter", "drop"} & set(self.kinds(one)):
                return self.kinds(one)
            wait = self.clock.next_wake()
            if wait is None:
                await asyncio.sleep(0.001)
            else:
                await self.clock.advance(min(max(wait, 0.001), seconds))
        raise AssertionError(f"not final: {self.kinds(one)}")

    async def dead(self, queue: str | None = None) -> Sequence[DeadLetter]:
        await self.outside.connect()
        return await self.outside.dead_letters(queue or self.worker.config.queue_names[0]).list()

    async def depth(self, queue: str | None = None) -> Any:
        await self.outside.connect()
        return await self.outside.depth(queue or self.worker.config.queue_names[0])

    def counts(self) -> dict[str, int]:
        return self.life.tally.outcomes()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def holders(self) -> list[Any]:
        return [c.holder for c in self.seam.consumers if c.holder in self.store.holders]


@asynccontextmanager
async def ended(kit: Kit) -> AsyncIterator[None]:
    """A worker that was started is stopped at the end, holds nothing, and has accounted for every message."""
    try:
        yield
    finally:
        if kit.task is not None and not kit.task.done():
            await kit.stop()
        await settle_loop()
    assert kit.residuals <= {0}
    assert kit.counts()["in_flight"] == 0


@asynccontextmanager
async def running(worker: Worker | type[Worker], **overrides: Any) -> AsyncIterator[Kit]:
    """The worker RUNNING inside; at the end it is stopped, and must have told the truth about every message (I7)."""
    kit = Kit(worker, **overrides)
    await kit.start()
    await until(lambda: len(kit.seam.consumers) == len(kit.worker.config.queue_names))
    async with ended(kit):
        yield kit
    assert all(t.buffered == 0 for t in kit.life.tally.queues.values())


class Gate:
    """A handler's door: it says that it has come, and waits to be let through."""

    def __init__(self) -> None:
        self.came = 0
        self.inside = 0
        self.most_inside = 0
        self.open = asyncio.Event()

    async def pass_through(self) -> None:
        self.came += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1

    async def arrivals(self, count: int) -> None:
        await until(lambda: self.came >= count)


def unavailable(text: str = "the connection was cut") -> BrokerUnavailable:
    return BrokerUnavailable(text)
