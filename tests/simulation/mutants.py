"""Engines and adapters with one planted bug each. The simulation must find every one of them; its judge knows none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from pythia.broker import ConsumerCancelled, Settled, Settlement
from pythia.brokers.memory import MemoryConsumer
from pythia.brokers.memory_store import Holder, MemoryStore
from pythia.core import held, outcome, sweeper
from pythia.core.engine import Engine
from pythia.core.handling import Handling, Lane
from pythia.core.held import Held
from pythia.core.lanes import Lanes
from pythia.core.ordering import Keys
from pythia.core.outcome import ACK, Outcome
from pythia.core.processor import Processor
from pythia.core.settler import Settler
from pythia.core.subscription import Subscription

Plant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, tuple[Plant, frozenset[str]]] = {}


def mutant(*verdicts: str) -> Callable[[Plant], Plant]:
    """Register a mutant with the verdicts that may be found first; its name is the function's."""

    def register(plant: Plant) -> Plant:
        MUTANTS[plant.__name__.replace("_", " ")] = (plant, frozenset(verdicts))
        return plant

    return register


@mutant("untrue")
def ack_before_the_handler(patch: pytest.MonkeyPatch) -> None:
    handle = Processor.handle

    async def early(self, group):
        for one in group:
            one.settle(ACK)
        return await handle(self, group)

    patch.setattr(Processor, "handle", early)


@mutant("untrue")
def an_error_is_swallowed_and_acked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "judge", lambda self, error: ACK)


@mutant("lost", "stuck")
def retry_copy_after_the_ack(patch: pytest.MonkeyPatch) -> None:
    """What dies or is cut off in between leaves nothing behind."""
    settle = MemoryConsumer.settle

    async def split(self, batch):
        moved = [one for one in batch if one.kind == "retry" and one.delivery.envelope.ordering_key is None]
        answers = await settle(self, [Settlement(one.delivery, "drop") if one in moved else one for one in batch])
        for one, answer in zip(batch, answers, strict=True):
            if one in moved and answer is Settled.DONE:
                asyncio.get_running_loop().call_later(0.05, copy, self, one)
        return answers

    def copy(self, one):
        if self._failure is None:
            row = one.delivery.token[0]
            row.attempt += 1
            row.due = self._clock.time() + one.delay
            self._store._place(row, self._clock.time())

    patch.setattr(MemoryConsumer, "settle", split)


@mutant("unfenced")
def no_fence_in_the_store(patch: pytest.MonkeyPatch) -> None:
    settle = MemoryStore.settle

    def unfenced(self, settlement, now):
        row, fence = settlement.delivery.token
        if row.state == "leased" and row.fence != fence:
            settlement = replace(settlement, delivery=row.holder.held[row.seq])  # as if its owner had said so
        return settle(self, settlement, now)

    patch.setattr(MemoryStore, "settle", unfenced)


@mutant("duplicated", "unfenced")
def a_lease_is_never_renewed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holder, "lease_until", lambda self, now: now + self.lease)


@mutant("unowned")
def the_settlement_of_a_lost_delivery_is_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "open", property(lambda self: self.outcome is None))
    patch.setattr(Lanes, "lost", lambda self, held: None)

    async def settle_all(self):
        batch, self._pending = self._pending, []
        answers = await self._consumer.settle([settlement for _, settlement in batch])
        refused = [row for row, answer in zip(batch, answers, strict=True) if answer is Settled.REFUSED]
        self._answered(
            [(*row, answer) for row, answer in zip(batch, answers, strict=True) if answer is not Settled.REFUSED]
        )
        self._pending[:0] = refused
        self._note(len(refused))

    patch.setattr(Settler, "_settle_batch", settle_all)


@mutant("miscounted")
def a_release_is_counted_as_an_attempt(patch: pytest.MonkeyPatch) -> None:
    dispose = MemoryStore._dispose

    def counting(self, row, settlement, now):
        row.attempt += settlement.kind == "release"
        dispose(self, row, settlement, now)

    patch.setattr(MemoryStore, "_dispose", counting)


@mutant("untrue")
def what_cannot_be_decoded_is_dropped(patch: pytest.MonkeyPatch) -> None:
    decode = Processor._decode

    def dropping(self, held):
        return None if decode(self, held) is None else Outcome("drop", "cannot be read")

    patch.setattr(Processor, "_decode", dropping)


@mutant("miscounted")
def a_retry_forgets_its_attempt(patch: pytest.MonkeyPatch) -> None:
    dispose = MemoryStore._dispose

    def forgetting(self, row, settlement, now):
        row.attempt -= settlement.kind == "retry"
        dispose(self, row, settlement, now)

    patch.setattr(MemoryStore, "_dispose", forgetting)


@mutant("late")
def a_handler_begins_after_the_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lanes, "_over", lambda self, lane: lane.retired)
    patch.setattr(Lanes, "release_ready", lambda self, reason, *, arrived_before=None: None)
    handle = Handling.handle

    async def unchecked(self, lane, group):
        stopping, self._shift.stopping = self._shift.stopping, asyncio.Event()
        try:
            await handle(self, lane, group)
        finally:
            self._shift.stopping = stopping

    patch.setattr(Handling, "handle", unchecked)


@mutant("late")
def a_pause_pauses_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "pause", lambda self: None)


@mutant("reordered")
def the_brokers_key_order_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_line_up", lambda self, row: True)
    patch.setattr(MemoryStore, "_remove", lambda self, row, now: self._move(row, "gone"))


@mutant("reordered")
def the_workers_keys_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Keys, "may_go", lambda self, held: True)


@mutant("untrue")
def a_swallowed_cancellation_is_a_success(patch: pytest.MonkeyPatch) -> None:
    take = Lane.take_interrupt

    async def nothing(self):
        await take(self)

    patch.setattr(Lane, "take_interrupt", nothing)


@mutant("miscounted")
def retries_without_bound(patch: pytest.MonkeyPatch) -> None:
    decide = outcome.decide

    def for_ever(error, *, attempt, policy, random):
        return decide(error, attempt=1, policy=policy.with_changes(max_attempts=math.inf), random=random)

    patch.setattr(held, "decide", for_ever)


@mutant("stuck", "duplicated")
def refused_is_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    settle_batch = Settler._settle_batch

    async def trusting(self):
        settle = self._consumer.settle

        class Trusting:
            linger = 0.0

            async def settle(_, batch):
                return [Settled.DONE for _answer in await settle(batch)]

        consumer, self._consumer = self._consumer, Trusting()
        try:
            await settle_batch(self)
        finally:
            self._consumer = consumer

    patch.setattr(Settler, "_settle_batch", trusting)


@mutant("twice", "untrue")
def a_delivery_may_be_settled_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "open", property(lambda self: self.lost is None))


@mutant("crowded")
def more_lanes_than_were_asked_for(patch: pytest.MonkeyPatch) -> None:
    resize = Lanes.resize
    patch.setattr(Lanes, "resize", lambda self, count: resize(self, count + 2))
    patch.setattr(Engine, "_capacity", lambda self, concurrency: concurrency + 2)


@mutant("overdue", "duplicated")
def no_handler_is_ever_timed_out(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self, lane, now):
        return None

    patch.setattr(sweeper.Sweeper, "_check", nothing)


@mutant("stuck")
def a_cancelled_consumer_is_not_registered_again(patch: pytest.MonkeyPatch) -> None:

    async def for_ever(self, queue, error, seconds):
        if isinstance(error, ConsumerCancelled):
            await self._stopping.wait()

    patch.setattr(Engine, "_back_off", for_ever)


@mutant("lost")
def what_a_handler_returns_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    settle = Held.settle
    patch.setattr(Held, "settle", lambda self, outcome, outputs=(): settle(self, outcome))


@mutant("residual")
def a_lost_delivery_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def uncounted(held, reason, tally):
        tally.in_flight -= 1

    patch.setattr("pythia.core.subscription.report.lost", uncounted)


@mutant("duplicated")
def a_dead_letter_stays_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    dispose = MemoryStore._dispose

    def keeping(self, row, settlement, now):
        if settlement.kind == "dead_letter":
            self._bury(row, settlement.record, now)
            self._place(row, now)
        else:
            dispose(self, row, settlement, now)

    patch.setattr(MemoryStore, "_dispose", keeping)


@mutant("lost")
def a_dead_letter_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_bury", lambda self, row, record, now: None)


@mutant("unowned", "duplicated", "unfenced", "crowded")
def a_lost_lease_is_told_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscription, "lost_elsewhere", lambda self, deliveries, reason: None)
