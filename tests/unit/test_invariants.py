"""The eight invariants of the delivery path, seen from the seam between core and broker."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from pythia.broker import Published, Settled
from pythia.core.events import MessageOwnershipLost, SettleStale
from pythia.core.outcome import Outcome
from pythia.core.retry import RetryPolicy
from pythia.core.state import WorkerState
from pythia.core.worker import Worker
from pythia.errors import AlreadySettled, Defer, Drop, OwnershipLost, Reject, Retry
from pythia.message import Message
from pythia.service import life_of
from tests.unit.core_kit import Gate, Kit, running, unavailable, until

FAST = RetryPolicy(base_seconds=1, jitter=0, max_attempts=4)


# I1: one settlement per delivery.


async def test_a_delivery_acked_early_whose_handler_then_raises_stays_acked():
    class Early(Worker):
        async def process_message(self, message):
            await message.ack()
            raise ValueError("after the ack")

    async with running(Early) as kit:
        one = await kit.publish()
        assert await kit.settled(one) == ["ack"]
        await kit.clock.advance(100)
        assert kit.kinds(one) == ["ack"]
        assert len(kit.seam.asked) == 1


@pytest.mark.parametrize("first", ["ack", "nack", "reject"])
@pytest.mark.parametrize("second", ["ack", "nack", "reject"])
async def test_a_second_settlement_by_the_handler_is_refused_and_writes_nothing(first, second):
    errors: list[BaseException] = []

    class Twice(Worker):
        async def process_message(self, message):
            args = {"ack": (), "nack": (), "reject": ("no",)}
            await getattr(message, first)(*args[first])
            try:
                await getattr(message, second)(*args[second])
            except AlreadySettled as error:
                errors.append(error)

    async with running(Twice) as kit:
        one = await kit.publish()
        await until(lambda: errors)
        assert kit.kinds(one) == [{"ack": "ack", "nack": "retry", "reject": "dead_letter"}[first]]
        assert one in str(errors[0])


async def test_two_settlements_at_the_same_time_make_one():
    answers: list[Any] = []

    class Both(Worker):
        async def process_message(self, message):
            answers.extend(await asyncio.gather(message.ack(), message.reject("x"), return_exceptions=True))

    async with running(Both) as kit:
        one = await kit.publish()
        await until(lambda: answers)
        assert kit.kinds(one) == ["ack"]
        assert answers[0] is None
        assert isinstance(answers[1], AlreadySettled)


async def test_no_delivery_is_settled_twice_whatever_handlers_do():
    source = random.Random(7)

    class Anything(Worker):
        concurrency = 7
        retry = FAST

        async def process_message(self, message):
            for _ in range(source.randrange(3)):
                await asyncio.sleep(0)
            roll = source.randrange(9)
            if roll == 0:
                await message.ack()
            elif roll == 1:
                await message.nack(delay=1)
            elif roll == 2:
                await message.reject("x")
            await asyncio.sleep(0)
            if source.randrange(3) == 0:
                raise source.choice([ValueError("v"), Retry(1), Defer(1), Reject("r"), Drop("d")])

    async with running(Anything) as kit:
        ids = [await kit.publish({"n": n}) for n in range(300)]
        for one in ids:
            await kit.final(one)
        carried = Counter(id(s.delivery) for s, answer in kit.seam.settlements if answer is Settled.DONE)
        assert set(carried.values()) == {1}
        assert len(kit.seam.received) == len(carried)
        final = Counter(k for i in ids for k in kit.kinds(i) if k in ("ack", "dead_letter", "drop"))
        assert sum(final.values()) == 300


# I2: the ack comes after the handler's success, and after its outputs are durable.


async def test_nothing_is_acked_while_its_handler_runs():
    gate = Gate()

    class Slow(Worker):
        async def process_message(self, message):
            await gate.pass_through()

    async with running(Slow) as kit:
        one = await kit.publish()
        await gate.arrivals(1)
        assert kit.seam.asked == []
        gate.open.set()
        assert await kit.settled(one) == ["ack"]


async def test_a_returned_value_travels_in_the_settlement_that_acks_its_source():
    class Sink(Worker):
        sink = "receipts"

        async def process_message(self, message):
            return {"sum": 3}

    async with running(Sink) as kit:
        one = await kit.publish(
            id="m1", correlation_id="c1", headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
        )
        await kit.settled(one)
        ((settlement, _),) = kit.seam.settlements
        (output,) = settlement.outputs
        assert (output.queue, output.envelope.body, output.envelope.correlation_id) == ("receipts", b'{"sum":3}', "c1")
        assert output.envelope.headers["traceparent"].startswith("00-aaa")
        assert (await kit.depth("receipts")).ready == 1
        assert kit.life.tally.published["receipts", "confirmed"] == 1


async def test_the_output_of_a_message_has_the_same_id_at_every_run():
    seen: list[str] = []

    class Sink(Worker):
        sink = "receipts"

        async def process_message(self, message):
            return message.body

    async with running(Sink) as kit:
        kit.faults.settle = lambda s: (
            seen.append(s.outputs[0].envelope.id) or (Settled.STALE if len(seen) == 1 else None)
        )
        await kit.publish({"a": 1}, id="m1")
        await until(lambda: kit.counts()["lost"] == 1)
        kit.seam.cut()  # the broker says stale: it comes again on the next connection
        await kit.clock.advance(5)
        await until(lambda: len(seen) == 2)
        assert seen[0] == seen[1] != "m1"


async def test_none_returned_is_no_output():
    class Sink(Worker):
        sink = "receipts"

        async def process_message(self, message):
            return None

    async with running(Sink) as kit:
        one = await kit.publish()
        assert await kit.settled(one) == ["ack"]
        assert (await kit.depth("receipts")).ready == 0


@pytest.mark.parametrize("case", ["object", "surrogate", "inner surrogate", "nan", "set", "inf"])
async def test_a_returned_value_without_a_wire_form_is_a_failure_not_an_ack(case):
    value = {
        "object": object(),
        "surrogate": "\ud800",
        "inner surrogate": {"a": "\ud800"},
        "nan": float("nan"),
        "set": {object()},
        "inf": [[float("inf")]],
    }[case]

    class Sink(Worker):
        sink = "receipts"
        retry = RetryPolicy.never()
        concurrency = 1

        async def process_message(self, message):
            return value if message.body == "bad" else {"ok": 1}

    async with running(Sink) as kit:
        bad = await kit.publish("bad")
        assert await kit.settled(bad) == ["dead_letter"]
        good = await kit.publish("good")
        assert await kit.settled(good) == ["ack"]


async def test_a_failed_publish_is_the_handlers_failure():
    class Says(Worker):
        retry = RetryPolicy.never()

        async def process_message(self, message):
            await self.publish("elsewhere", {})

    async with running(Says) as kit:
        kit.faults.publish = lambda _queue, _envelope: Published.REFUSED
        kit.outside.faults.publish = None
        one = await kit.publish()
        assert await kit.settled(one) == ["dead_letter"]
        assert (await kit.dead())[0].error_type == "pythia.errors.PublishError"
        assert kit.life.tally.published["elsewhere", "refused"] == 1


# I4: attempt = 1 + counted failures.


async def test_attempts_count_failures_and_nothing_else():
    seen: list[int] = []
    script = [Defer(1), ValueError(), Defer(1), Retry(1), "release", "crash", "lost", Drop()]

    class Scripted(Worker):
        retry = RetryPolicy(base_seconds=1, jitter=0, max_attempts=16)

        async def process_message(self, message):
            seen.append(message.attempt)
            step = script[len(seen) - 1]
            if isinstance(step, BaseException):
                raise step
            await asyncio.Event().wait()

    async with running(Scripted) as kit:
        one = await kit.publish()
        await until(lambda: len(seen) == 1)
        for n in range(2, 6):
            await kit.clock.advance(1)
            await until(lambda n=n: len(seen) == n)
        kit.life.engine.lanes.interrupt_all("drain")  # a release
        await until(lambda: len(seen) == 6)
        kit.seam.crash()
        await kit.clock.advance(60)
        await until(lambda: len(seen) == 7)
        kit.seam.cut()
        await kit.clock.advance(60)
        assert (await kit.settled(one, 6))[-1] == "drop"
    assert seen == [1, 1, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("forged", [99, "98", -5, 0, "x", None, 3.5, [1], "1" * 5000], ids=lambda v: repr(v)[:9])
async def test_a_forged_attempt_header_never_gives_more_runs_and_never_breaks_one(forged):
    seen: list[int] = []

    class Fails(Worker):
        retry = FAST

        async def process_message(self, message):
            seen.append(message.attempt)
            raise ValueError("no")

    async with running(Fails) as kit:
        one = await kit.publish(headers={"pythia-attempt": forged, "Pythia-First-Seen": forged})
        assert (await kit.final(one))[-1] == "dead_letter"
    assert 1 <= len(seen) <= FAST.max_attempts
    assert seen == sorted(seen)


async def test_a_dead_letter_says_how_many_attempts_there_were():
    class Fails(Worker):
        retry = FAST

        async def process_message(self, message):
            raise KeyError("sku")

    async with running(Fails) as kit:
        one = await kit.publish()
        assert await kit.final(one) == ["retry"] * 3 + ["dead_letter"]
        (letter,) = await kit.dead()
        assert (letter.attempts, letter.reason, letter.error_type) == (4, "attempts_exhausted", "KeyError")
        assert "process_message" in letter.traceback
        assert "pythia/core" not in letter.traceback
        assert letter.worker == "fails"


# I5: nothing is written for a delivery whose ownership is lost.


async def test_a_delivery_whose_lease_was_lost_writes_nothing_and_its_handler_alone_is_interrupted():
    gates = {"a": Gate(), "b": Gate()}
    ended: list[Any] = []

    class Holds(Worker):
        async def process_message(self, message):
            try:
                await gates[message.body].pass_through()
                ended.append((message.body, "returned"))
            except asyncio.CancelledError:
                ended.append((message.body, "cancelled"))
                raise

    async with running(Holds) as kit:
        a, b = await kit.publish("a"), await kit.publish("b")
        await gates["a"].arrivals(1)
        await gates["b"].arrivals(1)
        (delivery,) = [d for d in kit.seam.received if d.envelope.id == a]
        await asyncio.to_thread(kit.seam.options[0].on_lost, [delivery], "the lease expired")
        await until(lambda: ended)
        assert ended == [("a", "cancelled")]
        assert [s for s in kit.seam.asked if s.delivery is delivery] == []
        assert kit.counts()["lost"] == 1
        assert len(kit.of(MessageOwnershipLost)) == 1
        gates["b"].open.set()
        assert await kit.settled(b) == ["ack"]


async def test_a_settlement_that_waits_behind_another_is_not_written_once_its_lease_is_lost():
    class Quick(Worker):
        async def process_message(self, message):
            pass

    async with running(Quick) as kit:
        kit.seam.settle_gate.clear()
        a = await kit.publish()
        await until(lambda: kit.seam.asked)
        b = await kit.publish()
        await until(lambda: len(kit.seam.received) == 2)
        await until(lambda: kit.life.engine.lanes.idle)
        (delivery,) = [d for d in kit.seam.received if d.envelope.id == b]
        kit.seam.options[0].on_lost([delivery], "expired")
        await until(lambda: kit.counts()["lost"] == 1)
        kit.seam.settle_gate.set()
        assert await kit.settled(a) == ["ack"]
        assert [s.delivery.envelope.id for s in kit.seam.asked] == [a]


async def test_a_lease_lost_while_its_settlement_is_in_flight_is_counted_once():
    class Quick(Worker):
        async def process_message(self, message):
            pass

    async with running(Quick) as kit:
        kit.seam.settle_gate.clear()
        await kit.publish()
        await until(lambda: kit.seam.asked)
        kit.seam.options[0].on_lost([kit.seam.received[0]], "expired")
        await until(lambda: kit.counts()["lost"] == 1)
        kit.seam.settle_gate.set()
        await until(lambda: kit.seam.settlements)
        counts = kit.counts()
        assert (counts["received"], counts["lost"] + counts["ack"], counts["in_flight"]) == (1, 1, 0)


async def test_settling_early_what_is_no_longer_ours_says_so():
    gate, errors = Gate(), []

    class Stubborn(Worker):
        async def process_message(self, message):
            try:
                await gate.pass_through()
            except asyncio.CancelledError:
                try:
                    await message.ack()
                except OwnershipLost as error:
                    errors.append(error)

    async with running(Stubborn) as kit:
        one = await kit.publish()
        await gate.arrivals(1)
        kit.seam.options[0].on_lost([kit.seam.received[0]], "expired")
        await until(lambda: errors)
        assert kit.seam.asked == []
        assert one in str(errors[0])


async def test_a_stale_answer_is_lost_ownership_and_told_to_whoever_settled_early():
    errors: list[BaseException] = []

    class Early(Worker):
        async def process_message(self, message):
            try:
                await message.ack()
            except OwnershipLost as error:
                errors.append(error)

    async with running(Early) as kit:
        kit.faults.settle = lambda _s: Settled.STALE
        await kit.publish()
        await until(lambda: errors)
        assert kit.counts()["lost"] == 1
        assert kit.counts()["ack"] == 0
        assert len(kit.of(SettleStale)) == 1
        kit.faults.settle = None
        kit.seam.crash()


# I6: no handler begins after STOPPING.


class Counting(Worker):
    """Remembers in which state each handler began."""

    concurrency = 2

    def __init__(self, config=None):
        super().__init__(config)
        self.begun: list[WorkerState] = []
        self.gate = Gate()

    async def process_message(self, message):
        self.begun.append(self.state)
        await self.gate.pass_through()


async def test_what_waits_for_a_lane_when_a_stop_comes_is_released_and_never_begun():
    async with running(Counting, prefetch=10) as kit:
        ids = [await kit.publish() for _ in range(10)]
        await kit.worker.gate.arrivals(2)
        await until(lambda: len(kit.seam.received) > 4)
        waiting = len(kit.seam.received) - 2
        kit.worker.stop()
        await until(lambda: sum(kit.kinds(one) == ["release"] for one in ids) == waiting)
        assert kit.worker.state is WorkerState.STOPPING
        kit.worker.gate.open.set()
        await kit.ended()
    assert kit.worker.begun == [WorkerState.RUNNING] * 2
    assert kit.counts()["ack"] == 2
    assert kit.worker._pythia_life.exit_code == 0


async def test_what_arrives_from_the_broker_after_a_stop_is_released_at_once():
    async with running(Counting) as kit:
        kit.seam.receive_gate.clear()
        one = await kit.publish()
        await until(lambda: kit.seam.received)
        kit.worker.stop()
        await until(lambda: kit.worker.state is WorkerState.STOPPING)
        kit.seam.receive_gate.set()
        assert await kit.settled(one) == ["release"]  # without the clock moving
        await kit.ended()
    assert kit.worker.begun == []


async def test_no_handler_begins_between_the_state_and_the_drain():
    class Hasty(Counting):
        concurrency = 50

        async def process_message(self, message):
            self.begun.append(self.state)

    for turns in range(12):
        async with running(Hasty) as kit:
            for _ in range(20):
                await kit.publish()
            kit.worker.stop()
            for _ in range(turns):
                await asyncio.sleep(0)
            await kit.ended()
        assert set(kit.worker.begun) <= {WorkerState.RUNNING}


async def test_a_message_whose_claim_is_being_made_when_a_stop_comes_is_not_begun():
    class SlowClaim(Counting):
        pass

    kit = Kit(SlowClaim, dedup__enabled=True)
    inner = kit.seam.idempotency
    asked, go = asyncio.Event(), asyncio.Event()

    class Store:
        async def claim(self, *args):
            asked.set()
            await go.wait()
            return await inner().claim(*args)

        async def done(self, *args):
            return await inner().done(*args)

        async def release(self, *args):
            await inner().release(*args)

    kit.seam.idempotency = Store
    await kit.start()
    one = await kit.publish(idempotency_key="k")
    await asked.wait()
    kit.worker.stop()
    await until(lambda: kit.worker.state is WorkerState.STOPPING)
    go.set()
    assert await kit.settled(one) == ["release"]
    await kit.ended()
    assert kit.worker.begun == []


# I7: conservation.


async def test_received_is_the_sum_of_all_outcomes_at_every_moment_whatever_happens():
    source = random.Random(11)
    told: list[Outcome] = []

    class Mixed(Worker):
        concurrency = 5
        queues = ("a", "b")
        retry = FAST
        handler_timeout_seconds = 5

        async def process_message(self, message):
            await asyncio.sleep(0)
            roll = source.randrange(10)
            if roll == 0:
                await asyncio.Event().wait()
            if roll == 1:
                await message.ack()
                raise ValueError("late")
            if roll < 7:
                raise source.choice([ValueError(), Retry(1), Defer(1), Reject("r"), Drop("d")])

        async def on_outcome(self, message, outcome):
            told.append(outcome)

    async with running(Mixed, max_age_seconds=200) as kit:
        for n in range(200):
            await kit.publish({"n": n}, queue=source.choice("ab"))
            if n % 50 == 25:
                kit.seam.cut()
            if n % 40 == 20:
                kit.worker.pause()
            if n % 40 == 22:
                kit.worker.resume()
            if n % 10 == 0:
                await kit.clock.advance(1)
        counts, ended = kit.counts(), 0
        while (
            ended < 200 or counts["in_flight"]
        ):  # a queue's loan to the other is of the loop's time, not of this clock's
            await kit.clock.advance(2)
            counts = kit.counts()
            assert counts["residual"] == 0
            assert counts["in_flight"] >= 0
            ended = counts["ack"] + counts["dead_letter"] + counts["drop"]
        assert counts["received"] == sum(
            counts[k] for k in ("ack", "retry", "defer", "release", "dead_letter", "drop", "lost")
        )
        assert all(counts[k] > 0 for k in ("ack", "retry", "defer", "dead_letter", "drop", "lost"))
        assert ended == 200
        expired = sum(tally.dead_reasons.get("expired", 0) for tally in life_of(kit.worker).tally.queues.values())
        assert len(
            [o for o in told if o.kind != "release"]
        ) + expired == sum(  # of what was never decoded nobody is told
            counts[k] for k in ("ack", "retry", "defer", "dead_letter", "drop")
        )


async def test_what_a_hard_stop_cuts_off_is_counted_as_lost():
    gate = Gate()

    class Slow(Worker):
        async def process_message(self, message):
            await gate.pass_through()

    async with running(Slow) as kit:
        await kit.publish()
        await gate.arrivals(1)
        await kit.life.engine.close()
        counts = kit.counts()
        assert (counts["received"], counts["lost"], counts["in_flight"]) == (1, 1, 0)
        assert (await kit.depth()).ready == 1


# I8: messages in memory ≤ prefetch.


@pytest.mark.parametrize("prefetch", [1, 3, 4, 50, None])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_no_more_is_held_than_prefetch_allows(prefetch, concurrency):
    class Busy(Worker):
        async def process_message(self, message):
            for _ in range(message.body["n"] % 5):
                await asyncio.sleep(0)
            if message.body["n"] % 7 == 0:
                await message.ack()
                await asyncio.sleep(0)

    chosen = {} if prefetch is None else {"prefetch": max(prefetch, concurrency)}
    async with running(Busy, concurrency=concurrency, **chosen) as kit:
        ids = [await kit.publish({"n": n}) for n in range(200)]
        for one in ids:
            await kit.settled(one)
        assert kit.seam.most_held <= kit.life.engine.prefetch
        if prefetch is not None:
            assert kit.life.engine.prefetch == max(prefetch, concurrency)


async def test_unsettled_messages_count_against_prefetch_while_the_broker_takes_no_settlements():
    class Quick(Worker):
        async def process_message(self, message):
            pass

    async with running(Quick, concurrency=2, prefetch=3) as kit:
        kit.seam.settle_gate.clear()
        for _ in range(10):
            await kit.publish()
        await until(lambda: len(kit.seam.received) == 3)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(kit.seam.received) == 3
        kit.seam.settle_gate.set()
        await until(lambda: kit.counts()["ack"] == 10)
        assert kit.seam.most_held == 3


async def test_lost_connections_raise_nothing_but_counts():
    class Quick(Worker):
        async def process_message(self, message):
            pass

    async with running(Quick) as kit:
        kit.seam.settle_error = unavailable()
        one = await kit.publish()
        await until(lambda: kit.counts()["lost"] == 1)
        kit.seam.settle_error = None
        await kit.clock.advance(60)
        assert await kit.settled(one) == ["ack"]


def test_messages_are_the_handlers_view_and_nothing_more():
    assert not hasattr(Message(1), "__dict__")
