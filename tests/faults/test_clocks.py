"""The wall clock is set back or forward, or swings, while messages are held: leases and timeouts are of another clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pythia import RetryPolicy, Worker
from pythia.broker import Settled
from pythia.brokers.sqlite import SqliteBroker, SqliteClock
from pythia.clock import VirtualClock
from pythia.errors import HandlerTimeout
from tests.conformance.rigs import bodies, is_left_waiting, numbered, options, settle, take
from tests.unit.core_kit import Gate, running

DAY = 86_400.0
STEPS = {"two days back": -2 * DAY, "a second back": -1.0, "a second on": 1.0, "two days on": 2 * DAY}

each_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


class Stepping(VirtualClock):
    """A clock whose wall time somebody sets; what has passed is counted apart."""

    def step(self, seconds: float) -> None:
        self._start += seconds


@pytest.fixture
def clock() -> Stepping:
    return Stepping()


Open = Callable[[], SqliteBroker]


@pytest.fixture
async def open_broker(clock: Stepping, tmp_path: Path) -> AsyncIterator[Open]:
    made: list[SqliteBroker] = []

    def opened() -> SqliteBroker:
        made.append(SqliteBroker(tmp_path / "queue.db", clock=SqliteClock.injected(clock)))
        return made[-1]

    yield opened
    for broker in made:
        await broker.close()


@each_step
async def test_a_lease_is_neither_shorter_nor_longer_when_the_wall_clock_is_set(open_broker: Open, clock, step) -> None:
    broker, other = open_broker(), open_broker()
    await broker.connect()
    await other.connect()
    await broker.publish("q", numbered(3))
    async with broker.consume("q", options(lease=30.0)) as consumer:
        held = await take(consumer, 2)
        clock.step(step)
        async with other.consume("q", options(lease=30.0)) as heir:
            (third,) = await take(heir, 1)
            assert (third.envelope.body, third.redelivered) == (b"2", False)
            assert await is_left_waiting(other, heir), "what is held stays held"
            assert await settle(heir, third, "ack") is Settled.DONE
        for one in held:
            assert await settle(consumer, one, "ack") is Settled.DONE
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight, depth.delayed) == (0, 0, 0)


@each_step
async def test_what_a_dead_consumer_held_comes_back_after_its_lease_whatever_the_wall_clock_says(
    open_broker: Open, clock, step
) -> None:
    dying, heir = open_broker(), open_broker()
    await dying.connect()
    await heir.connect()
    await dying.publish("q", numbered(2))
    leaving = dying.consume("q", options(lease=30.0))
    await take(await leaving.__aenter__(), 2)
    writer = dying.writer()
    await writer.write(lambda _store: writer._holders.clear())  # killed: nothing is renewed, nothing is given back
    await writer.stop()
    clock.step(step)
    async with heir.consume("q", options(lease=30.0)) as consumer:
        receiving = asyncio.create_task(consumer.receive(2))
        await clock.advance(29.0)
        await heir.writer().write(lambda _store: None)
        assert not receiving.done()
        await clock.advance(2.0)
        again = await asyncio.wait_for(receiving, 10.0)
        assert sorted(bodies(again)) == [b"0", b"1"]
        assert {one.attempt for one in again} == {1}


async def test_a_clock_that_swings_by_a_second_neither_loses_nor_doubles_what_is_delayed(
    open_broker: Open, clock
) -> None:
    broker = open_broker()
    await broker.connect()
    await broker.publish("q", numbered(5), delay=10.0)
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(take(consumer, 5))
        for number in range(40):
            clock.step(1.0 if number % 2 else -1.0)
            await clock.advance(0.5)
            await broker.writer().write(lambda _store: None)
        taken = await asyncio.wait_for(receiving, 10.0)
        assert sorted(bodies(taken)) == [b"0", b"1", b"2", b"3", b"4"]
        for one in taken:
            assert await settle(consumer, one, "ack") is Settled.DONE
        assert await is_left_waiting(broker, consumer)


@pytest.mark.parametrize("step", [-2 * DAY, -1.0, 1.0])  # the memory broker's own leases are of the wall clock
async def test_a_handler_has_its_time_whatever_the_wall_clock_says(step: float) -> None:
    gate = Gate()

    class Slow(Worker):
        handler_timeout_seconds = 100
        retry = RetryPolicy(max_attempts=1)

        async def process_message(self, message):
            await gate.pass_through()

    async with running(Slow, max_age_seconds=0) as kit:
        held = await kit.publish()
        await gate.arrivals(1)
        kit.clock._start += step
        await kit.clock.advance(99)
        assert kit.kinds(held) == []
        await kit.clock.advance(2)
        assert await kit.settled(held) == ["dead_letter"]
        (letter,) = await kit.dead()
        assert letter.error_type == f"{HandlerTimeout.__module__}.HandlerTimeout"
        gate.open.set()
        after = await kit.publish()
        assert await kit.settled(after) == ["ack"]
        assert kit.life.tally.queue(kit.worker.config.queue_names[0]).wait.total >= 0, "nobody waited less than nothing"


async def test_a_message_that_waited_while_the_clock_went_two_days_on_is_a_dead_letter_and_not_lost() -> None:
    """Its age is that of the wall: older than ``max_age_seconds`` it is kept for a person, who can replay it."""

    class Plain(Worker):
        async def process_message(self, message):
            pass

    async with running(Plain) as kit:
        kit.worker.pause()
        waiting = await kit.publish()
        kit.clock._start += 2 * DAY
        kit.worker.resume()
        assert await kit.settled(waiting) == ["dead_letter"]
        assert [letter.reason for letter in await kit.dead()] == ["expired"]
