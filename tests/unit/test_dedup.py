"""Doing an effect once: done is acked without running, running is deferred, and one's own redelivery goes on."""

from __future__ import annotations

import asyncio

import pytest

from pythia.broker import Settled
from pythia.core.events import MessageDuplicate, TaskFailed
from pythia.core.worker import Worker
from pythia.errors import BrokerUnavailable, Defer, Drop, Reject
from tests.unit.core_kit import Gate, Kit, running, until


class Effects(Worker):
    def __init__(self, config=None):
        super().__init__(config)
        self.ran: list[str] = []
        self.gate = Gate()
        self.gate.open.set()
        self.errors: list[BaseException | None] = []

    async def process_message(self, message):
        self.ran.append(message.id)
        await self.gate.pass_through()
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error


def deduped(**overrides):
    return running(Effects, dedup__enabled=True, retry__jitter=0, **overrides)


async def test_a_duplicate_of_a_finished_message_is_acked_without_running():
    async with deduped() as kit:
        first = await kit.publish(idempotency_key="k")
        assert await kit.settled(first) == ["ack"]
        second = await kit.publish(idempotency_key="k")
        assert await kit.settled(second) == ["ack"]
        assert kit.worker.ran == [first]
        (told,) = kit.of(MessageDuplicate)
        assert told.delivery.envelope.id == second


async def test_a_duplicate_of_a_running_message_is_deferred_until_that_is_done():
    async with deduped() as kit:
        kit.worker.gate.open.clear()
        first = await kit.publish(idempotency_key="k")
        await kit.worker.gate.arrivals(1)
        second = await kit.publish(idempotency_key="k")
        assert await kit.settled(second) == ["defer"]
        kit.worker.gate.open.set()
        await kit.settled(first)
        assert await kit.final(second) == ["defer", "ack"]
        assert kit.worker.ran == [first]


async def test_other_keys_and_messages_without_one_are_left_alone():
    async with deduped() as kit:
        for key in ("a", "b", None, None):
            assert await kit.settled(await kit.publish(idempotency_key=key)) == ["ack"]
        assert len(kit.worker.ran) == 4


async def test_without_dedup_nothing_is_deduplicated():
    async with running(Effects) as kit:
        for _ in range(2):
            await kit.settled(await kit.publish(idempotency_key="k"))
        assert len(kit.worker.ran) == 2


@pytest.mark.parametrize(
    ("error", "runs_again"),
    [(ValueError("x"), True), (Defer(1), True), (Reject("no"), True), (Drop("no"), False)],
    ids=repr,
)
async def test_a_claim_is_kept_by_what_is_done_and_freed_by_what_is_not(error, runs_again):
    async with deduped(retry__max_attempts=1) as kit:
        kit.worker.errors = [error]
        await kit.settled(await kit.publish(idempotency_key="k"))
        second = await kit.publish(idempotency_key="k")
        await kit.final(second)
        assert (second in kit.worker.ran) == runs_again


async def test_a_retry_of_the_same_message_runs():
    async with deduped() as kit:
        kit.worker.errors = [ValueError("once")]
        one = await kit.publish(idempotency_key="k")
        assert await kit.final(one) == ["retry", "ack"]
        assert kit.worker.ran == [one, one]


async def test_ones_own_redelivery_after_a_crash_goes_on_at_once():
    async with deduped() as kit:
        kit.worker.gate.open.clear()
        one = await kit.publish(idempotency_key="k")
        await kit.worker.gate.arrivals(1)
        kit.seam.cut()
        await kit.clock.advance(1)
        await kit.worker.gate.arrivals(2)
        kit.worker.gate.open.set()
        assert await kit.settled(one) == ["ack"]
        assert "defer" not in kit.kinds(one)


async def test_a_crash_between_the_effect_and_the_ack_does_not_repeat_it():
    async with deduped() as kit:
        kit.faults.settle = lambda _s: Settled.STALE
        one = await kit.publish(idempotency_key="k")
        await until(lambda: kit.counts()["lost"] == 1)
        kit.faults.settle = None
        kit.seam.cut()
        await kit.clock.advance(1)
        assert await kit.settled(one) == ["ack"]
        assert kit.worker.ran == [one]


async def test_a_key_is_forgotten_after_its_time():
    async with deduped(dedup__ttl_seconds=100) as kit:
        await kit.settled(await kit.publish(idempotency_key="k"))
        await kit.clock.advance(101)
        later = await kit.publish(idempotency_key="k")
        await kit.settled(later)
        assert kit.worker.ran[-1] == later


async def test_an_early_ack_keeps_the_key_even_if_the_handler_then_fails():
    class Early(Effects):
        async def process_message(self, message):
            self.ran.append(message.id)
            await message.ack()
            raise ValueError("after it")

    async with running(Early, dedup__enabled=True) as kit:
        await kit.settled(await kit.publish(idempotency_key="k"))
        second = await kit.publish(idempotency_key="k")
        assert await kit.settled(second) == ["ack"]
        assert len(kit.worker.ran) == 1


async def test_the_key_may_be_computed_and_computing_it_may_fail():
    class Computes(Effects):
        concurrency = 1

        def idempotency_key(self, message):
            return message.body["order"]

    async with running(Computes, dedup__enabled=True, retry__max_attempts=1) as kit:
        assert await kit.settled(await kit.publish({"order": "1"})) == ["ack"]
        assert await kit.settled(await kit.publish({"order": "1"})) == ["ack"]
        assert await kit.settled(await kit.publish({})) == ["dead_letter"]
        assert await kit.settled(await kit.publish({"order": "2"})) == ["ack"]
        assert len(kit.worker.ran) == 2


class BrokenStore:
    """A store that fails at one verb."""

    def __init__(self, inner, verb: str) -> None:
        self.inner, self.verb = inner, verb

    def __getattr__(self, name: str):
        async def call(*args):
            if name == self.verb:
                raise BrokerUnavailable("the store is away")
            return await getattr(self.inner, name)(*args)

        return call


@pytest.mark.parametrize(
    ("verb", "error", "expected"), [("claim", None, "retry"), ("done", None, "ack"), ("release", ValueError(), "retry")]
)
async def test_a_store_that_is_away_costs_no_lane_and_leaves_no_message_unsettled(verb, error, expected):
    kit = Kit(Effects, dedup__enabled=True, concurrency=1)
    inner = kit.seam.idempotency()
    kit.seam.idempotency = lambda: BrokenStore(inner, verb)
    kit.worker.errors = [error]
    await kit.start()
    assert await kit.settled(await kit.publish(idempotency_key="k")) == [expected]
    assert await kit.settled(await kit.publish()) == ["ack"]
    if verb != "claim":
        assert [event.where for event in kit.of(TaskFailed)] == ["idempotency store"]
    await kit.stop()


async def test_a_claim_of_a_delivery_that_is_lost_meanwhile_marks_nobody_elses_effect_as_done():
    kit = Kit(Effects, dedup__enabled=True)
    asked, go = asyncio.Event(), asyncio.Event()
    inner = kit.seam.idempotency()

    class Slow:
        async def claim(self, *args):
            asked.set()
            await go.wait()
            return await inner.claim(*args)

        def __getattr__(self, name):
            return getattr(inner, name)

    kit.seam.idempotency = Slow
    await kit.start()
    one = await kit.publish(idempotency_key="k")
    await asked.wait()
    kit.seam.options[0].on_lost([kit.seam.received[0]], "expired")
    await until(lambda: kit.counts()["lost"] == 1)
    go.set()
    for _ in range(20):  # others, without a key: one may live where the lost one lived
        await kit.settled(await kit.publish())
    assert one not in kit.worker.ran
    assert (await inner.claim("k", "another", 1)).value == "busy"  # it expires by itself; it is not done
    await kit.stop()
