"""Batches: full or timely, each message settled by itself."""

from __future__ import annotations

import asyncio

import pytest

from pythia.core.state import WorkerState
from pythia.core.worker import Worker
from pythia.errors import Drop, Reject
from tests.unit.core_kit import Gate, Kit, running, until


class Batches(Worker):
    concurrency = 1

    def __init__(self, config=None):
        super().__init__(config)
        self.groups: list[list] = []
        self.gate = Gate()
        self.gate.open.set()
        self.error: BaseException | None = None

    async def process_batch(self, messages):
        self.groups.append([message.body for message in messages])
        await self.gate.pass_through()
        if self.error is not None:
            raise self.error


async def test_a_full_batch_does_not_wait():
    async with running(Batches, batch__size=3, batch__wait_seconds=100) as kit:
        ids = [await kit.publish({"n": n}) for n in range(6)]
        for one in ids:
            assert await kit.settled(one) == ["ack"]
        assert [len(group) for group in kit.worker.groups] == [3, 3]


async def test_an_incomplete_batch_is_handled_once_it_has_waited_long_enough():
    async with running(Batches, batch__size=100, batch__wait_seconds=10) as kit:
        ids = [await kit.publish({"n": n}) for n in range(4)]
        await until(lambda: len(kit.seam.received) == 4)
        await kit.clock.advance(9)
        assert kit.worker.groups == []
        await kit.clock.advance(2)
        for one in ids:
            assert await kit.settled(one) == ["ack"]
        assert kit.worker.groups == [[{"n": n} for n in range(4)]]


async def test_a_batch_that_fails_fails_for_all_that_have_not_settled_themselves():
    class Partly(Batches):
        async def process_batch(self, messages):
            for message in messages:
                if message.body["n"] == 0:
                    await message.ack()
                if message.body["n"] == 1:
                    await message.reject("one")
            raise ValueError("the rest")

    async with running(Partly, batch__size=4, retry__max_attempts=9) as kit:
        ids = [await kit.publish({"n": n}) for n in range(4)]
        assert [await kit.settled(one) for one in ids] == [["ack"], ["dead_letter"], ["retry"], ["retry"]]


@pytest.mark.parametrize(("error", "kind"), [(Drop("all"), "drop"), (Reject("all"), "dead_letter")], ids=repr)
async def test_a_directive_speaks_for_the_whole_batch(error, kind):
    async with running(Batches, batch__size=3) as kit:
        kit.worker.error = error
        ids = [await kit.publish({"n": n}) for n in range(3)]
        assert [await kit.settled(one) for one in ids] == [[kind]] * 3


async def test_one_message_that_cannot_be_decoded_does_not_harm_its_batch():
    async with running(Batches, batch__size=3) as kit:
        good = await kit.publish({"n": 1})
        bad = await kit.publish(b"{", content_type="application/json")
        other = await kit.publish({"n": 2})
        assert [await kit.settled(one) for one in (good, bad, other)] == [["ack"], ["dead_letter"], ["ack"]]
        assert kit.worker.groups == [[{"n": 1}, {"n": 2}]]
        assert (await kit.dead())[0].reason == "undecodable"


async def test_a_batch_that_runs_too_long_is_a_counted_failure_of_each():
    async with running(Batches, batch__size=2, handler_timeout_seconds=10) as kit:
        kit.worker.gate.open.clear()
        ids = [await kit.publish({"n": n}) for n in range(2)]
        await kit.worker.gate.arrivals(1)
        await kit.clock.advance(11)
        assert [await kit.settled(one) for one in ids] == [["retry"]] * 2


async def test_a_batch_goes_on_while_any_of_its_messages_is_still_ours():
    async with running(Batches, batch__size=2) as kit:
        kit.worker.gate.open.clear()
        ids = [await kit.publish({"n": n}) for n in range(2)]
        await kit.worker.gate.arrivals(1)
        first, second = kit.seam.received
        kit.seam.options[0].on_lost([first], "expired")
        await until(lambda: kit.counts()["lost"] == 1)
        assert kit.worker.gate.inside == 1
        kit.worker.gate.open.set()
        lost, kept = (ids[0], ids[1]) if first.envelope.id == ids[0] else (ids[1], ids[0])
        assert await kit.settled(kept) == ["ack"]
        assert kit.kinds(lost) == []
        assert second.envelope.id == kept
        kit.seam.crash()


async def test_a_batch_all_of_whose_messages_are_lost_is_interrupted():
    async with running(Batches, batch__size=2) as kit:
        kit.worker.gate.open.clear()
        for n in range(2):
            await kit.publish({"n": n})
        await kit.worker.gate.arrivals(1)
        kit.seam.options[0].on_lost(list(kit.seam.received), "expired")
        await until(lambda: kit.worker.gate.inside == 0)
        assert kit.counts()["lost"] == 2
        kit.seam.crash()


async def test_a_batch_that_still_gathers_when_a_stop_comes_is_released_and_never_begun():
    kit = Kit(Batches, batch__size=100, batch__wait_seconds=10)
    await kit.start()
    ids = [await kit.publish({"n": n}) for n in range(3)]
    await until(lambda: len(kit.seam.received) == 3)
    for _ in range(20):
        await asyncio.sleep(0)
    kit.worker.stop()
    assert [await kit.settled(one) for one in ids] == [["release"]] * 3
    await kit.ended()
    assert kit.worker.groups == []
    assert kit.worker.state is WorkerState.STOPPED
    assert kit.counts()["in_flight"] == 0
    assert kit.life.engine.slots.running == 0


async def test_messages_lost_while_their_batch_gathers_are_not_in_it():
    async with running(Batches, batch__size=3, batch__wait_seconds=10) as kit:
        lost = await kit.publish({"n": 0})
        await until(lambda: kit.seam.received)
        for _ in range(20):
            await asyncio.sleep(0)
        kit.seam.options[0].on_lost(list(kit.seam.received), "expired")
        await until(lambda: kit.counts()["lost"] == 1)
        kept = [await kit.publish({"n": n}) for n in (1, 2)]
        for one in kept:
            assert await kit.settled(one) == ["ack"]
        assert kit.worker.groups == [[{"n": 1}, {"n": 2}]]
        assert kit.kinds(lost) == []
        kit.seam.crash()


async def test_lanes_gather_one_after_the_other_and_run_side_by_side():
    async with running(Batches, concurrency=3, batch__size=2) as kit:
        kit.worker.gate.open.clear()
        for n in range(6):
            await kit.publish({"n": n})
        await kit.worker.gate.arrivals(3)
        assert [len(group) for group in kit.worker.groups] == [2, 2, 2]
        kit.worker.gate.open.set()
        await until(lambda: kit.counts()["ack"] == 6)


async def test_a_batch_of_a_plain_method_runs_in_a_thread():
    class Plain(Worker):
        def __init__(self, config=None):
            super().__init__(config)
            self.groups = []

        def process_batch(self, messages):
            self.groups.append(len(messages))

    async with running(Plain, batch__size=2) as kit:
        ids = [await kit.publish({"n": n}) for n in range(2)]
        assert [await kit.settled(one) for one in ids] == [["ack"]] * 2
        assert kit.worker.groups == [2]


async def test_a_bigger_batch_size_takes_effect_while_it_runs():
    async with running(Batches, batch__size=1, batch__wait_seconds=100) as kit:
        await kit.settled(await kit.publish({"n": 0}))
        kit.configure(batch__size=5)
        ids = [await kit.publish({"n": n}) for n in range(5)]
        await kit.clock.advance(101)
        ids += [await kit.publish({"n": n}) for n in range(5)]
        for one in ids:
            await kit.settled(one)
        assert max(len(group) for group in kit.worker.groups) == 5
