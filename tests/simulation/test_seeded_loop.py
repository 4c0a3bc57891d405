"""The loop beneath the simulations: virtual time, one order for a seed, processes that can be halted and killed."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from random import Random

import pytest

from pythia.proof.seeded_loop import Beyond, Process, SeededLoop, SimulatedClock, Stuck


@pytest.fixture
def loop():
    made = SeededLoop(Random(1))
    yield made
    if not made.is_closed():
        made.part()


def spawn(process, coro):
    return process.context.run(asyncio.ensure_future, coro)


def test_time_passes_only_where_somebody_waits(loop):
    async def main():
        await asyncio.sleep(86_400)
        return loop.time()

    assert 86_400 <= loop.run_until_complete(main()) < 86_401


def test_timers_fire_in_the_order_of_their_moments(loop):
    seen = []

    async def nap(seconds):
        await asyncio.sleep(seconds)
        seen.append(seconds)

    async def main():
        await asyncio.gather(*(nap(seconds) for seconds in (3, 1, 2)))

    loop.run_until_complete(main())
    assert seen == [1, 2, 3]


def order_of(seed, shuffle):
    loop, seen = SeededLoop(Random(seed), shuffle=shuffle), []

    async def one(number):
        await asyncio.sleep(0)
        seen.append(number)

    async def main():
        await asyncio.gather(*(one(number) for number in range(10)))

    loop.run_until_complete(main())
    loop.part()
    return seen


def test_what_is_ready_at_once_runs_in_an_order_that_the_seed_decides():
    assert order_of(1, 1.0) == order_of(1, 1.0)
    assert order_of(1, 1.0) != order_of(2, 1.0)
    assert order_of(1, 0.0) == list(range(10))


def test_a_killed_process_runs_no_line_more_until_all_is_over(loop):
    seen = []

    async def work():
        try:
            await asyncio.sleep(1)
            seen.append("worked")
        finally:
            seen.append("cleaned up")

    async def main():
        process = Process(1, copy_context())
        spawn(process, work())
        await asyncio.sleep(0.5)
        loop.kill(process)
        await asyncio.sleep(10)
        return list(seen)

    assert loop.run_until_complete(main()) == []


def test_a_halted_process_goes_on_where_it_stood_with_its_timers_late(loop):
    async def work():
        await asyncio.sleep(1)
        return loop.time()

    async def main():
        process = Process(1, copy_context())
        task = spawn(process, work())
        await asyncio.sleep(0.5)
        loop.halt(process)
        await asyncio.sleep(10)
        assert not task.done()
        loop.go_on(process)
        return await task

    assert loop.run_until_complete(main()) >= 10.5


def test_waiting_for_what_never_comes_is_noticed(loop):
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        loop.run_until_complete(main())


@pytest.mark.parametrize(
    ("ask", "need"),
    [
        (lambda: asyncio.to_thread(print), "a thread"),
        (lambda: asyncio.open_connection("127.0.0.1", 1), "a socket"),
        (lambda: asyncio.create_subprocess_shell("true"), "a process"),
    ],
)
def test_there_is_no_machine_beneath(loop, ask, need):
    async def main():
        with pytest.raises(Beyond):
            await ask()

    loop.run_until_complete(main())
    assert loop.needs.startswith(need)


def test_a_stepped_clock_leaves_the_monotonic_one_alone(loop):
    clock = SimulatedClock(loop)
    before, monotonic = clock.time(), clock.monotonic()
    clock.step(-3600)
    assert clock.time() == before - 3600
    assert clock.monotonic() == monotonic


def test_a_task_that_swallows_every_cancellation_does_not_hold_the_end_up(loop):
    async def stubborn():
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                continue

    async def main():
        asyncio.ensure_future(stubborn())  # noqa: RUF006 - nobody waits for it, on purpose
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.part()
    assert loop.is_closed()
