"""Those who see what happens in a simulation: one beneath the broker's contract, one around the handler.

The seam between core and broker is also where a network is: it takes time, loses answers, and cancels consumers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from pythia.broker import ConsumeOptions, ConsumerCancelled, Published, Settled, Settlement
from pythia.brokers.memory import Faults, MemoryBroker, MemoryConsumer
from pythia.brokers.memory_store import Holder, MemoryStore, Row, State
from pythia.core.calling import written
from pythia.core.middleware import Call
from pythia.core.state import WorkerState
from pythia.core.worker import Worker
from pythia.errors import BrokerUnavailable
from pythia.message import Delivery, Envelope
from pythia.proof.history import Event, History, ending_of
from pythia.proof.seeded_loop import Process, SeededLoop, SimulatedClock

SLOW_SHARE = 0.3
SLOWEST_SECONDS = (0.01, 0.05, 0.5)  # in a fast world, a usual one, a slow one
ANYWHERE = (WorkerState.STOPPING, WorkerState.STOPPED, WorkerState.ERROR)


@dataclass(slots=True)
class World:
    """What every witness of one simulation shares."""

    loop: SeededLoop
    random: Random
    history: History = field(default_factory=History)
    processes: int = 0  # so many were started
    errors: list[Exception] = field(default_factory=list)  # that ended a worker and are not ours
    clock: SimulatedClock = field(init=False)  # the server's
    slowest: float = field(init=False)
    store: Ground = field(init=False)

    def __post_init__(self) -> None:
        self.slowest = self.random.choice(SLOWEST_SECONDS)
        self.clock = SimulatedClock(self.loop)
        self.store = Ground(self)

    def note(
        self, verb: str, process: int = 0, delivery: Delivery | None = None, text: str = "", key: str = ""
    ) -> None:
        if delivery is None:
            self.history.note(Event(self.loop.time(), verb, process, text=text, key=key))
            return
        row, fence = delivery.token
        name = delivery.envelope.id
        self.history.note(
            Event(self.loop.time(), verb, process, name, row.seq, fence, delivery.attempt, text=text, key=key)
        )

    async def pass_some(self) -> None:
        """What a network or a disk takes, often nothing."""
        if self.random.random() < SLOW_SHARE:
            await asyncio.sleep(self.random.uniform(0.0, self.slowest))


class Ground(MemoryStore):
    """The messages of a simulated world; tells of each that is stored, so that a row is known before it is handed out."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.rows: dict[int, Row] = {}

    def _move(self, row: Row, state: State) -> None:
        self.rows[row.seq] = row
        super()._move(row, state)

    def put(self, queue: str, envelope: Envelope, now: float, delay: float = 0.0) -> None:
        super().put(queue, envelope, now, delay)
        at, key = self._world.loop.time(), envelope.ordering_key or ""
        self._world.history.note(Event(at, "stored", 0, envelope.id, self._seq, text=queue, key=key))

    def renew_again(self, holder: Holder, now: float) -> None:
        """A keeper that was stopped goes on: what has not expired meanwhile is renewed."""
        self.advance(now)
        holder.renewing = holder in self.holders
        for delivery in holder.held.values() if holder.renewing else ():
            self._lease_ends(delivery.token[0], holder.lease_until(now))


class Seam(MemoryBroker):
    """One process's connection to the broker, and what goes wrong on it."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(clock=world.clock, store=world.store, faults=Faults())
        self.world = world
        self.process = process
        self.down = False
        self.refusing = False
        self.deaf = False  # the next settlement is carried out and its answer lost
        self.cancels: list[asyncio.Future[None]] = []
        self.faults.settle = self._answer

    async def connect(self) -> None:
        await self.world.pass_some()
        if self.down:
            raise BrokerUnavailable("nobody answers")
        await super().connect()

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[Any]:
        return self._seen(queue, replace(options, on_lost=self._telling(options)))

    async def publish(
        self, queue: str, messages: Sequence[Envelope], *, delay: float = 0.0, exchange: str = ""
    ) -> Sequence[Published]:
        for envelope in messages:
            self._note_said(envelope, "tried")
        await self.world.pass_some()
        answers = await super().publish(queue, messages, delay=delay, exchange=exchange)
        for envelope, answer in zip(messages, answers, strict=True):
            self._note_said(envelope, answer.value)
        return answers

    def _note_said(self, envelope: Envelope, answer: str) -> None:
        self.world.history.note(Event(self.world.loop.time(), "said", self.process.number, envelope.id, text=answer))

    def live(self) -> Sequence[MemoryConsumer]:
        return tuple(self._consumers)

    def cancel_consumers(self) -> int:
        """What a server does whose queue was deleted; how many heard of it."""
        waiting = [cancel for cancel in self.cancels if not cancel.done()]
        for cancel in waiting:
            cancel.set_result(None)
        return len(waiting)

    @asynccontextmanager
    async def _seen(self, queue: str, options: ConsumeOptions) -> AsyncIterator[Any]:
        async with super().consume(queue, options) as consumer:
            yield SeamConsumer(self, consumer)

    def _answer(self, _settlement: Settlement) -> Settled | None:
        return Settled.REFUSED if self.refusing else None

    def _telling(self, options: ConsumeOptions) -> Any:
        def told(deliveries: Sequence[Delivery], reason: str) -> None:
            for delivery in deliveries:
                self.world.note("lost", self.process.number, delivery, reason)
            self.process.context.copy().run(options.on_lost, deliveries, reason)

        return told


class SeamConsumer:
    """A consumer as the engine has it: behind a network."""

    linger = 0.0

    def __init__(self, seam: Seam, consumer: MemoryConsumer) -> None:
        self._seam = seam
        self._world = seam.world
        self._consumer = consumer
        self._gone = False

    async def receive(self, limit: int) -> Sequence[Delivery]:
        batch = await self._consumer.receive(limit)
        for delivery in batch:
            self._world.note("handed", self._seam.process.number, delivery)
        await self._world.pass_some()
        return batch

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        number = self._seam.process.number
        for settlement in batch:
            self._world.note("asked", number, settlement.delivery, _said(settlement))
        await self._world.pass_some()
        answers = await self._consumer.settle(batch)
        for settlement, answer in zip(batch, answers, strict=True):
            self._world.note("settled", number, settlement.delivery, f"{settlement.kind} {answer.value}")
        await self._world.pass_some()
        if self._seam.deaf:
            self._seam.deaf = False
            self._world.note("fault", number, text="lost reply")
            self._seam.cut("the answer was lost")
            raise BrokerUnavailable("the answer was lost")
        return answers

    async def drain(self) -> None:
        await self._consumer.drain()

    async def watch(self) -> None:
        cancel: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seam.cancels.append(cancel)
        cut = asyncio.ensure_future(self._consumer.watch())
        try:
            await asyncio.wait({cancel, cut}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
            self._seam.cancels.remove(cancel)
        if cancel.done():
            self._world.note("fault", self._seam.process.number, text="server cancel")
            raise ConsumerCancelled("the server cancelled the consumer")
        cut.result()


def _said(settlement: Settlement) -> str:
    reason = "" if settlement.record is None else f" {settlement.record.reason}"
    return f"{settlement.kind}{reason}"


class Witness:
    """The outermost middleware: notes what begins, how it ends, and what the handler settles by itself."""

    def __init__(self, world: World, process: Process, worker: Worker) -> None:
        self._world = world
        self._process = process
        self._worker = worker
        self._own_keys = written(type(worker).ordering_key)

    async def __call__(self, message: Any, call_next: Call) -> Any:
        deliveries = self._begin(message)
        how = "interrupted"
        try:
            value = await call_next(message)
            how = "returned"
            return value
        except BaseException as error:
            how = ending_of(error)
            raise
        finally:
            task = asyncio.current_task()
            cancelled = " cancelled" if task is not None and task.cancelling() else ""
            for delivery in deliveries:
                self._world.note("ended", self._process.number, delivery, how + cancelled)

    def _begin(self, message: Any) -> list[Delivery]:
        late = "late" if self._worker.state in ANYWHERE else ""
        deliveries = []
        for one in message if isinstance(message, tuple) else (message,):
            delivery = one._delivery  # noqa: SLF001 - which of its deliveries it is
            object.__setattr__(one, "_handle", Overheard(one._handle, self, delivery))  # noqa: SLF001 - it is frozen
            key = self._worker.ordering_key(one) if self._own_keys else None
            self._world.note("began", self._process.number, delivery, late, key or "")
            deliveries.append(delivery)
        return deliveries

    def spoke(self, delivery: Delivery, verb: str) -> None:
        self._world.note("spoke", self._process.number, delivery, verb)


class Overheard:
    """A message's handle that tells of settlements made by the handler."""

    def __init__(self, handle: Any, witness: Witness, delivery: Delivery) -> None:
        self._handle = handle
        self._witness = witness
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    async def ack(self) -> None:
        self._witness.spoke(self._delivery, "ack")
        await self._handle.ack()

    async def nack(self, *, requeue: bool, delay: float | None) -> None:
        self._witness.spoke(self._delivery, "retry" if requeue else "dead_letter")
        await self._handle.nack(requeue=requeue, delay=delay)

    async def reject(self, reason: str) -> None:
        self._witness.spoke(self._delivery, "dead_letter")
        await self._handle.reject(reason)
