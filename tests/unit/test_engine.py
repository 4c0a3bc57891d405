"""The engine with handlers that do whatever handlers can do: time out, swallow their cancellation, raise anything."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass

import pytest

from pythia.broker import ConsumerCancelled, Settled
from pythia.core.engine import CANCELLED_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, REFUSED_BACKOFF_SECONDS
from pythia.core.events import (
    BrokerConnected,
    BrokerLost,
    BrokerRefusal,
    ConsumerLost,
    ConsumerRegistered,
    MessageDead,
    MessageRetry,
    MessageTimeout,
    SettleFailed,
    TaskFailed,
)
from pythia.core.retry import RetryPolicy
from pythia.core.state import WorkerState
from pythia.core.subscription import SERVED_SECONDS
from pythia.core.worker import Worker
from pythia.errors import BrokerRefused, HandlerTimeout, StoreError
from pythia.observability import health
from tests.unit.core_kit import Gate, Kit, config_of, running, unavailable, until

ONCE = RetryPolicy.never()


def raising(error: BaseException, **attributes):
    """A worker whose handler raises ``error`` for the body "bad", and returns for any other."""

    class Raises(Worker):
        concurrency = 1

        async def process_message(self, message):
            await asyncio.sleep(0)
            if message.body == "bad":
                raise error

    for name, value in attributes.items():
        setattr(Raises, name, value)
    return Raises


# Timeouts.


async def test_a_handler_that_runs_too_long_is_cancelled_and_it_counts():
    ended: list[str] = []

    class Slow(Worker):
        handler_timeout_seconds = 10
        retry = RetryPolicy(base_seconds=1, jitter=0, max_attempts=2)

        async def process_message(self, message):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async with running(Slow) as kit:
        one = await kit.publish()
        await until(lambda: kit.life.engine.lanes.handling)
        await kit.clock.advance(9)
        assert ended == []
        await kit.clock.advance(2)
        assert await kit.settled(one) == ["retry"]
        (timed_out,) = kit.of(MessageTimeout)
        assert timed_out.seconds == 10
        (retried,) = kit.of(MessageRetry)
        assert isinstance(retried.error, HandlerTimeout)
        assert "10 s" in str(retried.error)
        assert await kit.final(one) == ["retry", "dead_letter"]
        (letter,) = await kit.dead()
        assert (letter.error_type, letter.attempts) == ("pythia.errors.HandlerTimeout", 2)


async def test_no_timeout_means_none():
    gate = Gate()

    class Slow(Worker):
        handler_timeout_seconds = None

        async def process_message(self, message):
            await gate.pass_through()

    async with running(Slow) as kit:
        one = await kit.publish()
        await gate.arrivals(1)
        await kit.clock.advance(400)
        gate.open.set()
        assert await kit.settled(one) == ["ack"]


async def test_the_users_own_timeout_error_is_an_ordinary_failure():
    class Own(Worker):
        retry = RetryPolicy(give_up_on=(HandlerTimeout,), base_seconds=1, jitter=0, max_attempts=2)

        async def process_message(self, message):
            raise TimeoutError("mine")

    async with running(Own) as kit:
        one = await kit.publish()
        assert await kit.final(one) == ["retry", "dead_letter"]
        assert kit.of(MessageTimeout) == []
        assert (await kit.dead())[0].error_type == "TimeoutError"


async def test_a_timeout_set_by_the_handler_is_told_apart_from_ours():
    seen: list[str] = []

    class Inner(Worker):
        async def process_message(self, message):
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append("inner")
            task = asyncio.current_task()
            assert task is not None
            seen.append(f"cancelling {task.cancelling()}")

    async with running(Inner) as kit:
        one = await kit.publish()
        assert await kit.settled(one) == ["ack"]
        assert seen == ["inner", "cancelling 0"]


async def test_a_handler_that_swallows_its_cancellation_is_settled_in_its_name_and_its_late_return_changes_nothing():
    release, late = asyncio.Event(), []

    class Stubborn(Worker):
        concurrency = 1
        sink = "receipts"
        handler_timeout_seconds = 10
        retry = RetryPolicy(base_seconds=1000, jitter=0)

        async def process_message(self, message):
            if message.body != "stubborn":
                return None
            while not release.is_set():
                with suppress(asyncio.CancelledError):
                    await release.wait()
            with pytest.raises(Exception, match="settlement"):
                await message.ack()
            late.append(message.id)
            return {"late": True}

    async with running(Stubborn) as kit:
        stubborn = await kit.publish("stubborn")
        await until(lambda: kit.life.engine.lanes.handling)
        await kit.clock.advance(11)
        assert kit.kinds(stubborn) == []
        await kit.clock.advance(6)
        assert await kit.settled(stubborn) == ["retry"]
        assert kit.life.engine.lanes.stuck == 1
        other = await kit.publish("other")
        assert await kit.settled(other) == ["ack"]  # its lane was replaced
        release.set()
        await until(lambda: late)
        await until(lambda: kit.life.engine.lanes.stuck == 0)
        assert kit.kinds(stubborn) == ["retry"]
        assert (await kit.depth("receipts")).ready == 0
        assert len(kit.seam.asked) == 2


# Whatever a handler raises.


class OwnBase(BaseException):
    pass


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text either")

    __repr__ = __str__


EVERYTHING = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration(),
    "CancelledError": asyncio.CancelledError("mine"),
    "BaseException": OwnBase("base"),
    "group": ExceptionGroup("both", [ValueError("a"), KeyError("b")]),
    "no text": NoText(),
    "surrogate": ValueError("\ud800"),
}


@pytest.mark.parametrize("what", EVERYTHING)
async def test_whatever_a_handler_raises_is_its_failure_and_the_worker_goes_on(what):
    async with running(raising(EVERYTHING[what], retry=ONCE)) as kit:
        bad = await kit.publish("bad")
        assert await kit.settled(bad) == ["dead_letter"]
        good = await kit.publish("good")
        assert await kit.settled(good) == ["ack"]
        (letter,) = await kit.dead()
        assert letter.reason == "attempts_exhausted"
        assert letter.detail
        assert letter.error_type
        assert letter.traceback
        for text in (letter.detail, letter.error_message, letter.traceback):
            text.encode()  # whatever the error's text, every broker can write it down
        assert kit.worker.state is WorkerState.RUNNING


@pytest.mark.parametrize("what", EVERYTHING)
async def test_whatever_a_plain_handler_raises_in_its_thread_is_its_failure(what):
    class Plain(Worker):
        concurrency = 1
        retry = ONCE

        def process_message(self, message):
            if message.body == "bad":
                raise EVERYTHING[what]

    async with running(Plain) as kit:
        bad = await kit.publish("bad")
        assert await kit.settled(bad) == ["dead_letter"]
        good = await kit.publish("good")
        assert await kit.settled(good) == ["ack"]


async def test_an_error_of_a_class_with_odd_attributes_is_dead_lettered_all_the_same():
    class Odd(Exception):
        __module__ = "shop.errors"

        @property
        def reason(self):
            raise RuntimeError

    async with running(raising(Odd("x"), retry=ONCE)) as kit:
        one = await kit.publish("bad")
        assert await kit.settled(one) == ["dead_letter"]
        assert (await kit.dead())[0].error_type.endswith("Odd")
        assert len(kit.of(MessageDead)) == 1


@pytest.mark.parametrize("awaits_after", [True, False])
async def test_a_handler_that_cancels_its_own_task_has_failed_and_its_lane_lives_on(awaits_after):
    seen: list[str] = []

    class Selfish(Worker):
        concurrency = 1
        retry = RetryPolicy(base_seconds=1000, jitter=0)

        async def process_message(self, message):
            seen.append(message.body)
            if message.body == "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                if awaits_after:
                    await asyncio.sleep(0)

    async with running(Selfish) as kit:
        first = await kit.publish("cancel")
        assert await kit.settled(first) == ["retry" if awaits_after else "ack"]
        for _ in range(3):
            assert await kit.settled(await kit.publish("next")) == ["ack"]
        assert seen == ["cancel", "next", "next", "next"]


async def test_a_late_cancel_of_a_task_that_a_handler_kept_does_not_cost_a_lane():
    kept: list[asyncio.Task] = []

    class Keeps(Worker):
        concurrency = 1

        async def process_message(self, message):
            kept.append(asyncio.current_task())

    async with running(Keeps) as kit:
        assert await kit.settled(await kit.publish()) == ["ack"]
        kept[0].cancel()
        await kit.clock.advance(1)
        assert await kit.settled(await kit.publish()) == ["ack"]


async def test_task_groups_and_current_task_work_in_handlers():
    seen: list[object] = []

    class Groups(Worker):
        retry = ONCE

        async def process_message(self, message):
            task = asyncio.current_task()
            async with asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(0, "child"))
            assert asyncio.current_task() is task
            seen.append(child.result())
            if message.body == "bad":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.fail())
                    await asyncio.Event().wait()

        async def fail(self):
            raise ValueError("in the group")

    async with running(Groups) as kit:
        good, bad = await kit.publish("good"), await kit.publish("bad")
        assert await kit.settled(good) == ["ack"]
        assert await kit.settled(bad) == ["dead_letter"]
        assert (await kit.dead())[0].error_type == "ExceptionGroup"
        assert seen == ["child", "child"]


async def test_a_handler_may_await_thousands_of_times():
    class Many(Worker):
        async def process_message(self, message):
            total = 0
            for n in range(5000):
                total += await asyncio.sleep(0, n)
            assert total == sum(range(5000))

    async with running(Many) as kit:
        assert await kit.settled(await kit.publish()) == ["ack"]


# Contexts.

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def test_context_variables_do_not_leak_from_one_message_into_the_next():
    seen: list[str] = []

    class Paints(Worker):
        concurrency = 1

        async def process_message(self, message):
            seen.append(colour.get())
            colour.set(message.body)
            await asyncio.sleep(0)
            seen.append(colour.get())

    async with running(Paints) as kit:
        for body in ("red", "blue"):
            await kit.settled(await kit.publish(body))
    assert seen == ["none", "red", "none", "blue"]


async def test_a_handler_that_raises_concurrency_lends_its_context_to_no_lane():
    seen: list[str] = []
    gate = Gate()

    class Grows(Worker):
        concurrency = 1

        async def process_message(self, message):
            seen.append(colour.get())
            if message.body == "grow":
                colour.set("red")
                self.config = config_of(concurrency=3)
            await gate.pass_through()

    async with running(Grows) as kit:
        await kit.publish("grow")
        await gate.arrivals(1)
        for _ in range(2):
            await kit.publish("next")
        await gate.arrivals(3)
        assert seen == ["none"] * 3
        gate.open.set()


async def test_context_variables_of_a_thread_handler_do_not_leak_either():
    seen: list[str] = []

    class Paints(Worker):
        concurrency = 1

        def process_message(self, message):
            seen.append(colour.get())
            colour.set(message.body)

    async with running(Paints) as kit:
        for body in ("red", "blue"):
            await kit.settled(await kit.publish(body))
    assert seen == ["none", "none"]


# Several queues, one set of lanes.


class TwoQueues(Worker):
    queues = ("a", "b")
    concurrency = 1

    def __init__(self, config=None):
        super().__init__(config)
        self.seen: list[str] = []

    async def process_message(self, message):
        self.seen.append(message.queue)
        await asyncio.sleep(0)


@pytest.mark.parametrize("busy", ["a", "b"])
@pytest.mark.parametrize(
    "overrides", [{}, {"concurrency": 1, "prefetch": 1}, {"concurrency": 4}, {"concurrency": 4, "prefetch": 4}], ids=str
)
async def test_a_queue_is_served_while_another_is_empty(busy, overrides):
    async with running(TwoQueues, **overrides) as kit:
        for _ in range(20):
            assert await kit.settled(await kit.publish(queue=busy)) == ["ack"]
        other = "b" if busy == "a" else "a"
        assert await kit.settled(await kit.publish(queue=other)) == ["ack"]
        assert kit.seam.most_held <= kit.life.engine.prefetch


async def test_a_queue_that_runs_dry_gives_its_lanes_to_the_other():
    gate = Gate()

    class Waits(TwoQueues):
        async def process_message(self, message):
            if message.body == "wait":
                await gate.pass_through()

    async with running(Waits, concurrency=4) as kit:
        for _ in range(40):
            await kit.publish(queue="a")
        await until(lambda: kit.counts()["ack"] == 40)
        for _ in range(4):
            await kit.publish("wait", queue="b")
        await gate.arrivals(4)
        gate.open.set()


async def test_two_full_queues_share_the_lanes_fairly():
    kit = Kit(TwoQueues, concurrency=2, prefetch=4)
    for queue in ("a", "b"):
        for _ in range(400):
            await kit.publish(queue=queue)
    await kit.start()
    await until(lambda: len(kit.worker.seen) >= 400)
    share = kit.worker.seen[:400].count("a") / 400
    assert 0.25 < share < 0.75
    await kit.stop()


# Lanes, resized while they run.


async def test_raising_concurrency_takes_effect_at_once():
    gate = Gate()

    class Waits(Worker):
        concurrency = 1

        async def process_message(self, message):
            await gate.pass_through()

    for prefetch in (None, 1):
        gate.__init__()
        chosen = {} if prefetch is None else {"prefetch": prefetch}
        async with running(Waits, concurrency=1, **chosen) as kit:
            for _ in range(5):
                await kit.publish()
            await gate.arrivals(1)
            kit.configure(concurrency=4, **({} if prefetch is None else {"prefetch": 4}))
            await gate.arrivals(4)
            assert gate.inside == 4
            assert kit.seam.most_held <= kit.life.engine.prefetch
            await until(lambda: kit.life.tally.queue("default").registered)
            gate.open.set()
            await until(lambda: kit.counts()["ack"] == 5)


async def test_lowering_concurrency_lets_what_runs_finish_and_begins_no_more_than_that():
    gates = [Gate(), Gate()]

    class Waits(Worker):
        concurrency = 5

        async def process_message(self, message):
            await gates[message.body["n"]].pass_through()

    async with running(Waits) as kit:
        first = [await kit.publish({"n": 0}) for _ in range(5)]
        await gates[0].arrivals(5)
        kit.configure(concurrency=2)
        assert len(kit.life.status.running()) == 5
        second = [await kit.publish({"n": 1}) for _ in range(6)]
        gates[0].open.set()
        await gates[1].arrivals(2)
        for one in first:
            assert await kit.settled(one) == ["ack"]
        await kit.clock.advance(5)
        assert gates[1].most_inside == 2
        gates[1].open.set()
        for one in second:
            await kit.final(one)


@pytest.mark.parametrize("how", ["timeout", "lost", "drain", "swallow"])
async def test_a_handler_in_a_lane_that_was_retired_is_still_watched(how):
    gate, ended = Gate(), []

    class Waits(Worker):
        concurrency = 3
        handler_timeout_seconds = 10
        drain_timeout_seconds = 20
        retry = RetryPolicy(base_seconds=1000, jitter=0)

        async def process_message(self, message):
            try:
                await gate.pass_through()
            except asyncio.CancelledError:
                ended.append(message.id)
                if how != "swallow":
                    raise
                await gate.open.wait()

    async with running(Waits) as kit:
        ids = [await kit.publish() for _ in range(3)]
        await gate.arrivals(3)
        kit.configure(concurrency=1)
        await kit.clock.advance(1)
        if how in ("timeout", "swallow"):
            await kit.clock.advance(17)
            for one in ids:
                assert await kit.settled(one) == ["retry"]
        elif how == "lost":
            kit.seam.options[0].on_lost(list(kit.seam.received), "expired")
            await until(lambda: len(ended) == 3)
            assert kit.counts()["lost"] == 3
            kit.seam.crash()
        else:
            kit.configure(handler_timeout_seconds=0)
            await kit.stop(timeout=1)
            assert [kit.kinds(one) for one in ids] == [["release"]] * 3
        gate.open.set()
        assert sorted(ended) == sorted(ids)


async def test_a_longer_handler_timeout_reaches_the_keeper_of_leases():
    gate = Gate()

    class Waits(Worker):
        handler_timeout_seconds = 10

        async def process_message(self, message):
            await gate.pass_through()

    async with running(Waits) as kit:
        assert kit.seam.options[-1].max_hold == 40
        kit.configure(handler_timeout_seconds=1000)
        await until(lambda: len(kit.seam.options) == 2)
        assert kit.seam.options[-1].max_hold == 1030
        one = await kit.publish()
        await gate.arrivals(1)
        await kit.clock.advance(500)
        gate.open.set()
        assert await kit.settled(one) == ["ack"]


async def test_a_message_finishes_under_the_rules_that_it_began_with():
    gate = Gate()

    class Fails(Worker):
        retry = RetryPolicy(max_attempts=5, base_seconds=1000, jitter=0)

        async def process_message(self, message):
            await gate.pass_through()
            raise ValueError

    async with running(Fails) as kit:
        began_before = await kit.publish()
        await gate.arrivals(1)
        kit.configure(retry__max_attempts=1)
        began_after = await kit.publish()
        await gate.arrivals(2)
        gate.open.set()
        assert await kit.settled(began_before) == ["retry"]
        assert await kit.settled(began_after) == ["dead_letter"]


# Pause and resume.


class Pausable(Worker):
    concurrency = 2
    prefetch_chosen = 10

    def __init__(self, config=None):
        super().__init__(config)
        self.gate = Gate()

    async def process_message(self, message):
        await self.gate.pass_through()


async def test_a_pause_releases_what_waits_and_lets_what_runs_go_on():
    async with running(Pausable, prefetch=10) as kit:
        ids = [await kit.publish() for _ in range(10)]
        await kit.worker.gate.arrivals(2)
        await until(lambda: len(kit.seam.received) > 4)
        kit.worker.pause()
        await until(lambda: (await_ready := kit.counts()["in_flight"]) == 2 and await_ready)
        assert kit.life.status.paused
        assert not kit.life.tally.queue("default").registered
        kit.worker.gate.open.set()
        await until(lambda: kit.counts()["ack"] == 2)
        await kit.clock.advance(60)
        assert kit.counts()["ack"] == 2
        assert (await kit.depth()).ready == 8
        kit.worker.resume()
        for one in ids:
            assert (await kit.final(one))[-1] == "ack"


async def test_what_arrives_after_a_pause_is_released_and_not_begun():
    async with running(Pausable) as kit:
        kit.seam.receive_gate.clear()
        one = await kit.publish()
        await until(lambda: kit.seam.received)
        kit.worker.pause()
        kit.seam.receive_gate.set()
        assert await kit.settled(one) == ["release"]
        assert kit.worker.gate.came == 0


async def test_after_a_resume_it_consumes_though_handlers_from_before_the_pause_still_run():
    async with running(Pausable) as kit:
        old = await kit.publish("old")
        await kit.worker.gate.arrivals(1)
        kit.worker.pause()
        await until(lambda: not kit.life.tally.queue("default").registered)
        kit.worker.resume()
        await until(lambda: kit.life.tally.queue("default").registered)
        new = await kit.publish("new")
        await kit.worker.gate.arrivals(2)
        kit.worker.gate.open.set()
        assert await kit.settled(old) == ["ack"]
        assert await kit.settled(new) == ["ack"]
        await kit.clock.advance(5)
        assert kit.life.tally.queue("default").registered  # the old subscription's end takes nothing back
        assert kit.of(ConsumerLost) == []


async def test_pause_and_resume_in_one_breath_leave_it_consuming():
    async with running(Pausable) as kit:
        kit.worker.gate.open.set()
        for _ in range(5):
            kit.worker.pause()
            kit.worker.resume()
            await asyncio.sleep(0)
        await until(lambda: kit.life.tally.queue("default").registered)
        assert await kit.settled(await kit.publish()) == ["ack"]


async def test_pause_and_resume_from_a_thread():
    async with running(Pausable) as kit:
        kit.worker.gate.open.set()
        await asyncio.to_thread(kit.worker.pause)
        await until(lambda: kit.life.status.paused)
        one = await kit.publish()
        await kit.clock.advance(10)
        assert kit.kinds(one) == []
        await asyncio.to_thread(kit.worker.resume)
        assert await kit.settled(one) == ["ack"]


async def test_a_paused_worker_stops_at_once():
    async with running(Pausable) as kit:
        kit.worker.pause()
        await asyncio.sleep(0)
        await asyncio.wait_for(kit.stop(), 5)
        assert kit.worker.state is WorkerState.STOPPED


# A broker that refuses settlements.


async def test_refused_settlements_are_held_and_asked_again_and_nothing_more_is_taken():
    class Quick(Worker):
        concurrency = 2

        async def process_message(self, message):
            pass

    async with running(Quick) as kit:
        full = True
        kit.faults.settle = lambda _s: Settled.REFUSED if full else None
        first = await kit.publish()
        await until(lambda: kit.of(SettleFailed))
        before = len(kit.seam.received)
        later = [await kit.publish() for _ in range(5)]
        await kit.clock.advance(30)
        assert len(kit.seam.received) <= before + 2
        assert kit.life.engine.refused
        assert kit.counts()["ack"] == 0
        assert kit.counts()["lost"] == 0
        assert len(kit.of(SettleFailed)) == 1  # told once
        asked = len([s for s in kit.seam.asked if s.delivery.envelope.id == first])
        assert 5 < asked < 60  # with a growing wait
        full = False
        await kit.clock.advance(5)
        assert await kit.settled(first) == ["ack"]
        for one in later:
            assert await kit.settled(one) == ["ack"]
        assert not kit.life.engine.refused
        assert kit.counts()["ack"] == 6


async def test_intake_goes_on_when_what_was_refused_is_lost_meanwhile():
    class Quick(Worker):
        concurrency = 1

        async def process_message(self, message):
            pass

    async with running(Quick) as kit:
        kit.faults.settle = lambda _s: Settled.REFUSED
        await kit.publish()
        await until(lambda: kit.of(SettleFailed))
        kit.seam.options[0].on_lost(list(kit.seam.received), "expired")
        await until(lambda: kit.counts()["lost"] == 1)
        kit.faults.settle = None
        await kit.clock.advance(5)
        assert await kit.settled(await kit.publish()) == ["ack"]
        kit.seam.crash()


async def test_a_worker_whose_broker_refuses_until_the_deadline_still_stops_and_loses_nothing():
    class Quick(Worker):
        async def process_message(self, message):
            pass

    async with running(Quick) as kit:
        kit.faults.settle = lambda _s: Settled.REFUSED
        await kit.publish()
        await until(lambda: kit.of(SettleFailed))
        await kit.stop(timeout=2)
        assert kit.worker.state is WorkerState.STOPPED
        assert kit.counts()["lost"] == 1
        assert (await kit.depth()).ready == 1


# A broker that goes away.


@pytest.mark.parametrize("where", ["cut", "receive", "settle"])
async def test_a_lost_connection_is_made_again_and_what_was_held_comes_again(where):
    gate, ended = Gate(), []

    class Waits(Worker):
        concurrency = 2

        async def process_message(self, message):
            try:
                if message.body == "wait":
                    await gate.pass_through()
            except asyncio.CancelledError:
                ended.append(message.attempt)
                raise

    async with running(Waits) as kit:
        waits = await kit.publish("wait")
        await gate.arrivals(1)
        if where == "cut":
            kit.seam.cut("gone")
        elif where == "receive":
            kit.faults.receive = lambda _queue: (_ for _ in ()).throw(unavailable())
            await kit.publish("quick")
        else:
            kit.seam.settle_error = unavailable()
            await kit.publish("quick")
        await until(lambda: kit.of(BrokerLost))
        await until(lambda: ended == [1])  # its handler was interrupted
        assert not kit.life.status.connection.connected
        assert kit.life.status.connection.error
        assert not kit.life.tally.queue("default").registered
        assert len(kit.of(ConsumerLost)) == 1
        kit.faults.receive = None
        kit.seam.settle_error = None
        gate.open.set()
        await kit.clock.advance(1)
        assert await kit.settled(waits) == ["ack"]
        assert kit.life.status.connection.connected
        assert kit.life.tally.reconnects == 1
        assert len(kit.of(ConsumerRegistered)) == 2
        assert kit.of(BrokerConnected)[-1].downtime_seconds > 0
        await until(lambda: kit.counts()["in_flight"] == 0)
        assert kit.counts()["lost"] >= 1


async def test_reconnecting_backs_off_and_says_how_long():
    async with running(TwoQueues) as kit:
        kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable("refused"))
        kit.seam.cut()
        await kit.clock.advance(300)
        waits = [event.retry_in_seconds for event in kit.of(BrokerLost)]
        assert 0.05 <= waits[0] <= 0.3
        assert max(waits) <= LONGEST_BACKOFF_SECONDS
        assert waits[-1] >= LONGEST_BACKOFF_SECONDS / 2
        kit.faults.connect = None
        await kit.clock.advance(LONGEST_BACKOFF_SECONDS)
        assert await kit.settled(await kit.publish(queue="a")) == ["ack"]
        assert await kit.settled(await kit.publish(queue="b")) == ["ack"]
        assert kit.life.tally.reconnects == 1


async def test_a_worker_that_is_cut_off_stops_without_waiting_for_its_back_off():
    async with running(TwoQueues) as kit:
        kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable("refused"))
        kit.seam.cut()
        await until(lambda: kit.of(BrokerLost))
        kit.worker.stop()
        await asyncio.wait_for(asyncio.shield(kit.task), 5)
        assert kit.worker.state is WorkerState.STOPPED
        assert kit.life.exit_code == 0


async def test_a_subscription_that_ends_as_soon_as_it_begins_is_not_made_in_a_hot_loop():
    async with running(TwoQueues) as kit:
        await kit.clock.advance(60)
        kit.faults.receive = lambda _queue: (_ for _ in ()).throw(unavailable())
        await kit.publish(queue="a")
        await kit.publish(queue="b")
        await until(lambda: kit.of(BrokerLost))
        await kit.clock.advance(300)
        waits = [event.retry_in_seconds for event in kit.of(BrokerLost)]
        assert waits[-1] >= LONGEST_BACKOFF_SECONDS / 2
        assert len(waits) < 2 * 300
        kit.faults.receive = None
        await kit.clock.advance(LONGEST_BACKOFF_SECONDS)
        await until(lambda: kit.counts()["ack"] == 2)


# A consumer that ends on a connection that lives.


@pytest.mark.parametrize(
    "error", [ConsumerCancelled("queue default was deleted"), unavailable("half open")], ids=lambda e: type(e).__name__
)
async def test_the_end_of_a_consumer_is_noticed_while_every_lane_is_busy_and_nobody_receives(error):
    gate, ended = Gate(), []

    class Waits(Worker):
        concurrency = 1

        async def process_message(self, message):
            try:
                await gate.pass_through()
            except asyncio.CancelledError:
                ended.append(message.id)
                raise

    async with running(Waits, prefetch=1) as kit:
        one = await kit.publish()
        await gate.arrivals(1)
        await kit.end_consumers(error)
        await until(lambda: ended == [one])
        await until(lambda: kit.of(ConsumerLost))
        (lost,) = kit.of(ConsumerLost)
        gate.open.set()
        await kit.clock.advance(1)
        assert await kit.settled(one) == ["ack"]
        assert kit.counts()["lost"] == 1
        assert len(kit.of(ConsumerRegistered)) == 2
        assert (lost.reason == str(error)) == isinstance(error, ConsumerCancelled)


async def test_a_cancelled_consumer_is_no_lost_connection_and_says_why_until_it_is_back():
    async with running(TwoQueues) as kit:
        kit.seam.consume_error = ConsumerCancelled("queue a was deleted")
        await kit.end_consumers(kit.seam.consume_error)
        await until(lambda: len(kit.of(ConsumerLost)) == 2)
        await kit.clock.advance(60)
        assert {event.reason for event in kit.of(ConsumerLost)} == {"queue a was deleted"}
        assert len(kit.of(ConsumerLost)) == 2  # said once for each queue
        kit.seam.consume_error = ConsumerCancelled("queue a does not exist")
        await kit.clock.advance(60)
        assert [event.reason for event in kit.of(ConsumerLost)][2:] == ["queue a does not exist"] * 2
        assert kit.of(BrokerLost) == []
        assert kit.life.status.connection.connected
        queue = kit.life.tally.queue("a")
        assert (queue.registered, queue.unregistered_why) == (False, "queue a does not exist")
        reasons = health.ready(kit.life.status, time.monotonic()).reasons
        assert {reason.code for reason in reasons} == {"consumer_missing"}
        assert all((reason.detail or "").startswith("queue a does not exist ") for reason in reasons)
        kit.seam.consume_error = None
        await kit.clock.advance(CANCELLED_BACKOFF_SECONDS)
        assert await kit.settled(await kit.publish(queue="a")) == ["ack"]
        assert (queue.registered, queue.unregistered_why) == (True, "")
        assert kit.life.tally.reconnects == 0


async def test_a_consumer_that_was_missing_from_the_start_is_said_and_waited_for():
    kit = Kit(TwoQueues)
    kit.seam.consume_error = ConsumerCancelled("queue a does not exist and broker.declare is false")
    await kit.start()
    await until(lambda: len(kit.of(ConsumerLost)) == 2)
    assert kit.life.tally.queue("a").unregistered_since is not None
    kit.seam.consume_error = None
    await kit.clock.advance(CANCELLED_BACKOFF_SECONDS)
    assert await kit.settled(await kit.publish(queue="a")) == ["ack"]
    await kit.stop()


async def test_a_queue_that_is_gone_after_a_lost_connection_does_not_look_like_a_lost_connection():
    async with running(TwoQueues) as kit:
        kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable("refused"))
        kit.seam.cut()
        await until(lambda: kit.of(BrokerLost))
        kit.seam.consume_error = ConsumerCancelled("queue a was deleted")
        kit.faults.connect = None
        await kit.clock.advance(LONGEST_BACKOFF_SECONDS)
        await until(lambda: kit.life.tally.queue("a").unregistered_why == "queue a was deleted")
        assert kit.life.status.connection.connected
        assert kit.life.tally.reconnects == 1
        kit.seam.consume_error = None


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (unavailable(), LONGEST_BACKOFF_SECONDS),
        (ConsumerCancelled("gone"), CANCELLED_BACKOFF_SECONDS),
        (BrokerRefused("no"), REFUSED_BACKOFF_SECONDS),
    ],
    ids=["unavailable", "cancelled", "refused"],
)
async def test_each_trouble_is_asked_again_after_at_most_its_longest_wait(error, longest):
    async with running(Waiting) as kit:
        await kit.clock.advance(SERVED_SECONDS)
        kit.seam.consume_error = error
        await kit.end_consumers(error)
        await until(lambda: kit.life.tally.queue("default").registered is False)
        await kit.clock.advance(10 * longest)  # by then each wait is its longest
        kit.seam.consume_error = None
        await kit.clock.advance(longest)
        await until(lambda: kit.life.tally.queue("default").registered)
        assert LONGEST_BACKOFF_SECONDS < 5  # what a broker that is back may have to wait for us
        assert CANCELLED_BACKOFF_SECONDS < 5


# A broker that refuses.


class Waiting(Worker):
    concurrency = 1

    async def process_message(self, message):
        pass


async def test_a_refusal_after_having_been_served_is_asked_again_and_heals_without_a_restart():
    async with running(Waiting) as kit:
        assert await kit.settled(await kit.publish()) == ["ack"]
        tries = []

        def refuse():
            tries.append(kit.clock.monotonic())
            raise BrokerRefused("the password was changed")

        kit.faults.connect = refuse
        kit.seam.cut()
        await kit.clock.advance(1)
        await until(lambda: kit.of(BrokerRefusal))
        await kit.clock.advance(600)
        assert 600 / REFUSED_BACKOFF_SECONDS <= len(tries) < 60  # an account is not to be locked by it
        assert len(kit.of(BrokerRefusal)) <= 11  # a reminder a minute
        assert kit.worker.state is WorkerState.RUNNING
        assert kit.life.status.connection.error == "the password was changed"
        assert not health.ready(kit.life.status, time.monotonic()).ok
        kit.faults.connect = None
        await kit.clock.advance(REFUSED_BACKOFF_SECONDS)
        assert await kit.settled(await kit.publish()) == ["ack"]
        assert kit.life.status.connection.connected


async def test_a_refusal_of_the_first_receive_is_the_end_though_the_consumer_was_registered():
    kit = Kit(Waiting)
    kit.faults.receive = lambda _queue: (_ for _ in ()).throw(BrokerRefused("no permission to read"))
    await kit.start()
    with pytest.raises(BrokerRefused):
        await kit.ended()
    assert kit.life.exit_code == BrokerRefused.exit_code


async def test_a_refusal_of_the_first_settlement_is_the_end_and_no_handler_runs_again_and_again():
    kit = Kit(Waiting)
    kit.seam.settle_error = BrokerRefused("no permission to write")
    await kit.publish()
    await kit.start()
    with pytest.raises(BrokerRefused):
        await kit.ended()
    assert len(kit.seam.asked) == 1


async def test_settlements_that_are_refused_from_now_on_are_tried_ever_more_seldom():
    async with running(Waiting) as kit:
        assert await kit.settled(await kit.publish()) == ["ack"]
        kit.seam.settle_error = BrokerRefused("no permission to write any more")
        one = await kit.publish()
        await until(lambda: kit.of(BrokerRefusal))
        await kit.clock.advance(600)
        assert len([s for s in kit.seam.asked if s.delivery.envelope.id == one]) < 60
        kit.seam.settle_error = None
        await kit.clock.advance(REFUSED_BACKOFF_SECONDS)
        assert (await kit.settled(one))[-1] == "ack"


async def test_a_refusal_after_a_pause_is_asked_again_too():
    async with running(Waiting) as kit:
        assert await kit.settled(await kit.publish()) == ["ack"]
        kit.worker.pause()
        await until(lambda: not kit.life.tally.queue("default").registered)
        kit.seam.consume_error = BrokerRefused("the password was changed")
        kit.worker.resume()
        await until(lambda: kit.of(BrokerRefusal))
        kit.seam.consume_error = None
        await kit.clock.advance(1)
        assert await kit.settled(await kit.publish()) == ["ack"]


@pytest.mark.parametrize("error", [StoreError("corrupt"), RuntimeError("a bug")], ids=repr)
async def test_what_waiting_cannot_heal_ends_the_worker_the_whole_way(error):
    steps: list[str] = []

    class Waits(Worker):
        async def process_message(self, message):
            await asyncio.Event().wait()

        async def on_shutdown(self):
            steps.append(str(self.state))

    kit = Kit(Waits)
    await kit.start()
    await kit.publish()
    await until(lambda: kit.life.engine.lanes.handling)
    kit.faults.receive = lambda _queue: (_ for _ in ()).throw(error)
    await kit.publish()
    with pytest.raises(type(error)):
        await kit.ended()
    assert kit.worker.state is WorkerState.STOPPED
    assert steps == ["stopping"]
    assert kit.life.exit_code == getattr(error, "exit_code", 70)
    assert str(error) in kit.life.status.failure
    assert kit.counts()["in_flight"] == 0
    assert kit.counts()["residual"] == 0


async def test_a_drain_that_the_broker_cannot_carry_out_does_not_stop_the_stop():
    class Quick(Worker):
        async def process_message(self, message):
            pass

    kit = Kit(Quick)
    await kit.start()
    kit.seam.drain_error = StoreError("disk gone")
    kit.worker.stop(timeout=1)
    with suppress(StoreError):
        await kit.ended()
    assert kit.worker.state is WorkerState.STOPPED


async def test_no_error_of_a_drained_subscription_goes_unseen():
    seen: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))
    async with running(Pausable) as kit:
        await kit.publish()
        await kit.worker.gate.arrivals(1)
        kit.worker.pause()
        await asyncio.sleep(0)
        kit.seam.settle_error = unavailable()
        kit.worker.gate.open.set()
        await until(lambda: kit.counts()["lost"] == 1)
        kit.seam.settle_error = None
    import gc

    gc.collect()
    await asyncio.sleep(0)
    assert seen == []


# Ages, quotas, early answers.


async def test_a_message_older_than_max_age_never_reaches_its_handler():
    seen: list[str] = []

    class Sees(Worker):
        async def process_message(self, message):
            seen.append(message.id)

    kit = Kit(Sees, max_age_seconds=60)
    one = await kit.publish()
    await kit.clock.advance(61)
    await kit.start()
    assert await kit.settled(one) == ["dead_letter"]
    (letter,) = await kit.dead()
    assert (letter.reason, letter.attempts) == ("expired", 1)
    assert seen == []
    await kit.stop()


async def test_a_deferred_message_comes_back_uncounted_until_it_is_too_old():
    from pythia.errors import Defer

    seen: list[int] = []

    class Defers(Worker):
        async def process_message(self, message):
            seen.append(message.attempt)
            raise Defer(10, "not open yet")

    async with running(Defers, max_age_seconds=35) as kit:
        one = await kit.publish()
        assert await kit.final(one) == ["defer"] * 4 + ["dead_letter"]
        assert seen == [1, 1, 1, 1]
        assert (await kit.dead())[0].reason == "expired"


async def test_no_more_than_max_messages_begin_and_then_it_stops():
    from pythia.service import RunOptions

    seen: list[int] = []

    class Sees(Worker):
        concurrency = 3

        async def process_message(self, message):
            await asyncio.sleep(0)
            seen.append(message.body["n"])

    kit = Kit(Sees)
    for n in range(10):
        await kit.publish({"n": n})
    kit.launch(RunOptions(http=False, signals=False, max_messages=5))
    await kit.ended()
    assert len(seen) == 5
    assert kit.counts()["ack"] == 5
    assert (await kit.depth()).ready == 5


async def test_the_worker_says_what_runs():
    gate = Gate()

    class Waits(Worker):
        async def process_message(self, message):
            await gate.pass_through()

    async with running(Waits) as kit:
        one = await kit.publish()
        await gate.arrivals(1)
        await kit.clock.advance(3)
        (row,) = kit.life.status.running()
        assert (row.message_id, row.queue, row.attempt, row.seconds) == (one, "default", 1, 3)
        gate.open.set()


async def test_published_ids_are_the_same_whenever_the_handler_runs_again():
    ids: list[list[str]] = []

    class Says(Worker):
        retry = RetryPolicy(base_seconds=1, jitter=0)

        async def process_message(self, message):
            ids.append(
                [await self.publish("x", {"n": 1}), await self.publish("x", {"n": 2}), await self.publish("y", 3)]
            )
            if message.attempt == 1:
                raise ValueError

    async with running(Says) as kit:
        await kit.final(await kit.publish(id="m"))
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3


async def test_a_reply_goes_to_whom_it_was_asked_with_the_correlation_id():
    class Replies(Worker):
        async def process_message(self, message):
            await message.reply({"ok": True}, headers={"h": 1})

    async with running(Replies) as kit:
        first = await kit.publish(reply_to="answers", correlation_id="c")
        assert await kit.settled(first) == ["ack"]
        second = await kit.publish(reply_to="answers", id="no-correlation")
        assert await kit.settled(second) == ["ack"]
        rows = [row for _, _, row in kit.store.lane("answers").ready]
        assert {row.envelope.correlation_id for row in rows} == {"c", "no-correlation"}
        assert dict(rows[0].envelope.headers) == {"h": 1}


async def test_replies_to_a_thousand_queues_are_all_sent_and_counted_under_few_names():
    """Whoever publishes names where its reply goes: that makes no series for each."""

    class Replies(Worker):
        async def process_message(self, message):
            await message.reply({})

    async with running(Replies) as kit:
        names = [await kit.publish(reply_to=f"answers-{number}") for number in range(1_000)]
        await until(lambda: kit.counts()["ack"] == len(names))
        published = kit.life.tally.published
        assert sum(published.values()) == len(names)
        assert len(published) <= 201
        assert published["other", "confirmed"] == 800


async def test_a_message_said_by_a_handler_is_dated_by_the_workers_clock():
    class Says(Worker):
        sink = "receipts"

        async def process_message(self, message):
            await self.publish("x", {})
            return {}

    async with running(Says) as kit:
        await kit.clock.advance(1000)
        await kit.settled(await kit.publish())
        for queue in ("x", "receipts"):
            (row,) = [row for _, _, row in kit.store.lane(queue).ready]
            assert row.envelope.timestamp == kit.clock.time()


async def test_on_outcome_is_told_of_every_settlement_and_its_errors_are_only_told():
    told: list[tuple[str, int]] = []

    class Tells(raising(ValueError(), retry=RetryPolicy(base_seconds=1, jitter=0, max_attempts=2))):
        async def on_outcome(self, message, outcome):
            told.append((outcome.kind, message.attempt))
            raise RuntimeError("in the hook")

    async with running(Tells) as kit:
        await kit.final(await kit.publish("bad"))
        await kit.settled(await kit.publish("good"))
        await until(lambda: len(told) == 3)
        assert told == [("retry", 1), ("dead_letter", 2), ("ack", 1)]
        await until(lambda: len(kit.of(TaskFailed)) == 3)


async def test_a_plain_on_outcome_that_raises_is_told_too():
    class Tells(Worker):
        async def process_message(self, message):
            pass

        def on_outcome(self, message, outcome):
            raise RuntimeError("plain")

    async with running(Tells) as kit:
        for _ in range(2):
            assert await kit.settled(await kit.publish()) == ["ack"]
        await until(lambda: len(kit.of(TaskFailed)) == 2)


async def test_a_stop_waits_for_on_outcome():
    told: list[str] = []

    class Tells(Worker):
        async def process_message(self, message):
            pass

        async def on_outcome(self, message, outcome):
            for _ in range(30):
                await asyncio.sleep(0)
            told.append(outcome.kind)

    async with running(Tells) as kit:
        await kit.settled(await kit.publish())
        await kit.stop()
        assert told == ["ack"]


async def test_the_users_ordering_key_may_raise():
    class Orders(raising(ValueError(), retry=ONCE)):
        def ordering_key(self, message):
            if message.body == "keyless":
                raise KeyError("no key")
            return "k"

    async with running(Orders) as kit:
        assert await kit.settled(await kit.publish("keyless")) == ["dead_letter"]
        assert await kit.settled(await kit.publish("good")) == ["ack"]


# In a thread.


async def test_a_plain_handler_runs_in_a_thread_and_its_value_goes_to_the_sink():
    class Plain(Worker):
        sink = "receipts"

        def process_message(self, message):
            return {"thread": threading.current_thread() is not threading.main_thread()}

    async with running(Plain) as kit:
        await kit.settled(await kit.publish())
        (row,) = [row for _, _, row in kit.store.lane("receipts").ready]
        assert row.envelope.body == b'{"thread":true}'


async def test_a_plain_handler_that_runs_too_long_is_a_counted_failure_and_its_slot_goes_to_another():
    release = threading.Event()

    class Plain(Worker):
        concurrency = 1
        handler_timeout_seconds = 10
        retry = RetryPolicy(base_seconds=1000, jitter=0)

        def process_message(self, message):
            if message.body == "slow":
                release.wait(30)

    try:
        async with running(Plain) as kit:
            slow = await kit.publish("slow")
            await until(lambda: kit.life.engine.lanes.handling)
            await kit.clock.advance(11)
            assert await kit.settled(slow) == ["retry"]
            assert await kit.settled(await kit.publish("quick")) == ["ack"]
            release.set()
            assert kit.kinds(slow) == ["retry"]
    finally:
        release.set()


async def test_a_coroutine_that_a_plain_decorator_hides_is_awaited_before_the_ack():
    done: list[str] = []

    def decorated(function):
        def wrapper(self, message):
            return function(self, message)

        return wrapper

    class Hidden(Worker):
        retry = ONCE

        @decorated
        async def process_message(self, message):
            await asyncio.sleep(0)
            if message.body == "bad":
                raise ValueError
            done.append(message.id)

    async with running(Hidden) as kit:
        one = await kit.publish("good")
        assert await kit.settled(one) == ["ack"]
        assert done == [one]
        assert await kit.settled(await kit.publish("bad")) == ["dead_letter"]


async def test_an_async_handler_in_a_thread_can_settle_publish_and_reply():
    class Threaded(Worker):
        execution = "thread"

        async def process_message(self, message):
            assert threading.current_thread() is not threading.main_thread()
            await self.publish("said", {})
            await message.reply({})
            await message.ack()
            time.sleep(0)

    async with running(Threaded) as kit:
        one = await kit.publish(reply_to="answers")
        assert await kit.settled(one) == ["ack"]
        assert (await kit.depth("said")).ready == 1
        assert (await kit.depth("answers")).ready == 1


async def test_a_publish_of_the_worker_takes_every_option_of_a_publisher():
    class Says(Worker):
        retry = ONCE
        sent: list[str] = []

        async def process_message(self, message):
            if message.body == "exchange":
                await self.publish("x", {}, exchange="amq.topic")
            options = {"headers": {"h": 1}, "reply_to": "r", "priority": 3, "idempotency_key": "i", "ordering_key": "o"}
            self.sent.append(await self.publish("x", b"raw", id="mine", delay=5, timeout=9, **options))
            self.sent.append(await self.publish("x", {}, id=None, content_type=None))

    async with running(Says) as kit:
        assert await kit.settled(await kit.publish("all")) == ["ack"]
        assert Says.sent[0] == "mine"
        assert (await kit.depth("x")).delayed == 1
        assert await kit.settled(await kit.publish("exchange")) == ["dead_letter"]
        assert (await kit.dead())[0].error_type == "pythia.errors.Unsupported"


async def test_a_publish_that_is_not_confirmed_in_time_is_in_doubt():
    class Says(Worker):
        retry = ONCE

        async def process_message(self, message):
            await self.publish("x", {}, timeout=0.01)

    async with running(Says) as kit:
        answer = kit.seam.publish

        async def never(*_args, **_options):
            await asyncio.Event().wait()

        kit.seam.publish = never
        assert await kit.settled(await kit.publish()) == ["dead_letter"]
        kit.seam.publish = answer
        (letter,) = await kit.dead()
        assert letter.error_type == "pythia.errors.PublishError"
        assert "in doubt" in letter.detail
        assert kit.life.tally.published == {("x", "unknown"): 1}


async def test_a_handler_that_publishes_through_another_worker_uses_that_ones_broker():
    class Quiet(Worker):
        async def process_message(self, message):
            pass

    async with running(Quiet, queue="other") as other:

        class Says(Worker):
            async def process_message(self, message):
                await other.worker.publish("there", {})

        async with running(Says) as kit:
            assert await kit.settled(await kit.publish()) == ["ack"]
            assert (await kit.depth("there")).ready == 0
        assert (await other.depth("there")).ready == 1


async def test_a_message_is_not_overtaken_within_its_key_when_its_handler_swallowed_a_timeout():
    seen: list[tuple[str, int]] = []
    release = asyncio.Event()

    class Keyed(Worker):
        concurrency = 2
        handler_timeout_seconds = 10
        retry = RetryPolicy(base_seconds=100, jitter=0)

        def ordering_key(self, message):
            return "k"

        async def process_message(self, message):
            seen.append((message.body, message.attempt))
            while message.body == "first" and message.attempt == 1 and not release.is_set():
                with suppress(asyncio.CancelledError):
                    await release.wait()

    async with running(Keyed) as kit:
        await kit.publish("first")
        await kit.publish("second")
        await kit.clock.advance(400)
        release.set()
        assert seen == [("first", 1), ("first", 2), ("second", 1)]


# What is left of a message.


@dataclass
class Box:
    n: int


async def test_a_message_that_is_done_with_is_gone_without_a_collector():
    bodies: list[weakref.ref[Box]] = []

    class Boxes(Worker):
        message_type = Box

        async def process_message(self, message):
            bodies.append(weakref.ref(message.body))

    gc.disable()
    try:
        async with running(Boxes) as kit:
            for n in range(3):
                await kit.publish({"n": n})
            await until(lambda: kit.counts()["ack"] == 3)
            await until(lambda: not any(body() for body in bodies))
    finally:
        gc.enable()
    assert len(bodies) == 3
