"""One subscription to one queue on one connection: what came through it can only be settled through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pythia.broker import DONE, ConsumeOptions, Consumer, ConsumerCancelled
from pythia.core import report
from pythia.core.events import ConsumerLost, ConsumerRegistered, LeaseLost, SettleStale
from pythia.core.held import Held, Source
from pythia.core.settler import Answer, Settler
from pythia.core.shift import Shift
from pythia.core.slots import Slots
from pythia.errors import BrokerError, BrokerRefused
from pythia.message import Delivery

if TYPE_CHECKING:
    from pythia.core.engine import Link

COLD_SECONDS = 0.05  # a receive that waited longer found its queue empty
SERVED_SECONDS = 2.0  # a broker that says no to a first receive has said it by then
DRAIN_SECONDS = 2.0  # a drained receive returns within a second; beyond this it is given up

Arrived = Callable[[Sequence[Held]], None]
Lost = Callable[[Held], None]


class Subscription:
    """From registering with the broker until everything that it handed out is settled, or lost with it.

    ``run`` ends quietly after ``drain`` once nothing is held, and raises the consumer's error when the connection dies:
    by then everything held is lost, counted, and ``on_lost`` was told of each.
    """

    def __init__(
        self, queue: str, link: Link, options: ConsumeOptions, shift: Shift, slots: Slots, *, shares: bool
    ) -> None:
        self.queue = queue
        self.link = link
        self._options = options
        self._shift = shift
        self._slots = slots
        self._shares = shares  # other queues use the same lanes
        self._tally = shift.tally.queue(queue)
        self._consumer: Consumer | None = None
        self._holding: dict[int, Held] = {}  # by id() of the delivery
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._registered = False
        self._why_gone = "connection lost"
        self._asking = False  # a receive is in flight
        self._lost_on_the_way: dict[
            int, Delivery
        ] = {}  # by id(): told of before the receive that brings it has returned
        self.intake_over = asyncio.Event()
        self.registered_at: float | None = None
        self.settled = False  # anything at all
        self.settler: Settler  # while registered
        self._source: Source
        self.on_arrived: Arrived
        self.on_lost: Lost
        self.on_registered: Callable[[], None] = lambda: None

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def serves(self) -> bool:
        """Registered, and taking messages."""
        return self._registered and not self._draining

    @property
    def registered_seconds(self) -> float:
        """How long ago it was registered; 0 when it never was."""
        return 0.0 if self.registered_at is None else self._shift.clock.monotonic() - self.registered_at

    @property
    def served(self) -> bool:
        """Whether the broker lets us consume this queue: it took a settlement, or let us wait for something to settle."""
        return self.settled or self.registered_seconds >= SERVED_SECONDS

    @property
    def refused(self) -> bool:
        return self._consumer is not None and self.settler.refused

    @property
    def holding(self) -> Sequence[Held]:
        return tuple(self._holding.values())

    async def run(self) -> None:
        """Consume until drained. Cancelled (a hard stop), everything held is lost: it comes again."""
        try:
            async with self.link.broker.consume(self.queue, self._options) as consumer:
                self._consumer = consumer
                self.settler = Settler(self.queue, consumer, self._shift, self._answered)
                self._source = Source(self.settler, self._shift, self._tally, self.link.broker)
                self._register()
                try:
                    await self._receive_and_settle(consumer)
                finally:
                    self._lose_all("the subscription ended")
        except (ConsumerCancelled, BrokerRefused) as error:
            self._why_gone = str(error)
            raise
        finally:
            self.intake_over.set()
            self._unregister()
            self._consumer = None

    async def drain(self) -> None:
        """Take nothing more. What is held may still be settled."""
        self._draining = True
        self.intake_over.set()
        self._unregister()
        if self._consumer is not None:
            await self._consumer.drain()

    def lost_elsewhere(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """The adapter lost the lease of some deliveries; those alone are interrupted. On the loop's thread."""
        for delivery in deliveries:
            held = self._holding.get(id(delivery))
            if held is None and self._asking:
                self._lost_on_the_way[id(delivery)] = delivery
            elif held is not None and held.lost is None:
                self._tally.leases_lost += 1
                self._shift.emit(LeaseLost(delivery=delivery, reason=reason))
                self._lose(held, reason)

    async def _receive_and_settle(self, consumer: Consumer) -> None:
        receiving = asyncio.create_task(self._receive(consumer), name=f"receive {self.queue}")
        settling = asyncio.create_task(self.settler.run(), name=f"settle {self.queue}")
        watching = asyncio.create_task(consumer.watch(), name=f"watch {self.queue}")
        try:
            await _both_done_or_one_failed({receiving, settling}, watching)
        finally:
            watching.cancel()
            await self._end(consumer, receiving, settling)
        for task in (watching, receiving, settling):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _end(self, consumer: Consumer, receiving: asyncio.Task[None], settling: asyncio.Task[None]) -> None:
        """A receive is never cancelled in flight: it is drained and, if even that fails, given up."""
        self.settler.close()
        if not self._asking:
            receiving.cancel()
        if not (receiving.done() and settling.done()):
            with suppress(TimeoutError, BrokerError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await consumer.drain()
                    await asyncio.wait({receiving, settling})
        receiving.cancel()
        settling.cancel()
        await asyncio.wait({receiving, settling})

    async def _receive(self, consumer: Consumer) -> None:
        most = 1 if self._shares else None
        while not self._draining:
            reserved = await self._reserve(most)
            if reserved is None:
                break
            asked = self._shift.stopwatch()
            deliveries = await self._ask(consumer, reserved)
            if not deliveries:
                break
            hot = len(deliveries) == reserved and self._shift.stopwatch() - asked < COLD_SECONDS
            most = 1 if self._shares and not hot else None  # nothing that others could use waits for an empty queue
            self._take(deliveries)
        self.intake_over.set()
        if not self.settler.closed:
            await self._idle.wait()
        self.settler.close()

    async def _ask(self, consumer: Consumer, reserved: int) -> Sequence[Delivery]:
        deliveries: Sequence[Delivery] = ()
        self._asking, lent = True, False

        def lend() -> None:
            nonlocal lent
            lent = True
            self._slots.lend(reserved)

        loan = asyncio.get_running_loop().call_later(COLD_SECONDS, lend) if self._shares else None
        try:
            deliveries = await consumer.receive(reserved)
        finally:
            self._asking = False
            if loan is not None:
                loan.cancel()
            self._slots.arrived(reserved, len(deliveries), lent=lent)
        return deliveries

    async def _reserve(self, most: int | None) -> int | None:
        """Wait for a slot and for a broker that takes settlements; None when a drain comes first."""
        await self.settler.accepting.wait()
        reserved = await self._slots.reserve(most=most)
        if self._draining:
            self._slots.arrived(reserved, 0)
            return None
        return reserved

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        now = self._shift.clock.monotonic()
        source, holding = self._source, self._holding
        batch = [Held(delivery, source, now) for delivery in deliveries]
        for held in batch:
            holding[id(held.delivery)] = held
        self._idle.clear()
        tally = self._tally
        tally.received += len(batch)
        tally.in_flight += len(batch)
        tally.last_delivery_at = self._shift.clock.time()
        self.on_arrived(batch)
        if self._lost_on_the_way:
            early, self._lost_on_the_way = self._lost_on_the_way, {}
            self.lost_elsewhere(tuple(early.values()), "lost on its way here")

    def _answered(self, answers: Sequence[Answer]) -> None:
        """Whoever waits for a slot is woken once for all of them."""
        holding, on_outcome, forgotten = self._holding, self._shift.on_outcome, 0
        try:
            for held, settlement, answer in answers:
                if holding.pop(id(held.delivery), None) is not None:
                    forgotten += 1
                outcome = held.outcome
                if held.lost is not None:  # meanwhile: counted and told then
                    self._stale()
                elif answer is DONE and outcome is not None:
                    self.settled = True
                    report.settled(held, outcome, settlement.outputs, self._tally)
                    if on_outcome is not None and held.message is not None:
                        on_outcome(held.message, outcome)
                else:
                    report.lost(held, f"{settlement.kind} came too late", self._tally)
                    self._stale()
                if held.answer is not None or (outcome is not None and outcome.dead_reason is not None):
                    held.answered(answer)
                # The message names it as its handle: what is done with is gone at once, without a collector.
                held.message = None
        finally:
            self._forgotten(forgotten)

    def _stale(self) -> None:
        self._tally.stale += 1
        self._shift.emit(SettleStale(queue=self.queue, count=1))

    def _lose(self, held: Held, reason: str) -> None:
        held.lose(reason)
        self._forget(held)
        report.lost(held, reason, self._tally)
        self.on_lost(held)

    def _lose_all(self, reason: str) -> None:
        for held in self.holding:
            self._lose(held, reason)

    def _forget(self, held: Held) -> None:
        self._forgotten(0 if self._holding.pop(id(held.delivery), None) is None else 1)

    def _forgotten(self, count: int) -> None:
        self._slots.settled(count)
        if not self._holding:
            self._idle.set()

    def _register(self) -> None:
        self.registered_at = self._shift.clock.monotonic()
        self._registered = self._tally.registered = True
        self._tally.unregistered_since = None
        self._tally.unregistered_why = ""
        self.on_registered()
        self._shift.emit(ConsumerRegistered(queue=self.queue))

    def _unregister(self) -> None:
        if not self._registered:
            return
        self._registered = False  # a later subscription's registration is not this one's to take back
        self._tally.registered = False
        self._tally.unregistered_since = self._shift.clock.time()
        self._tally.unregistered_why = "drained" if self._draining else self._why_gone
        if not self._draining:
            self._shift.emit(ConsumerLost(queue=self.queue, reason=self._why_gone))


async def _both_done_or_one_failed(working: set[asyncio.Task[None]], watching: asyncio.Task[None]) -> None:
    while working:
        done, _ = await asyncio.wait({*working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching in done or any(task.cancelled() or task.exception() is not None for task in done):
            return
        working -= done
