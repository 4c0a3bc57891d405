"""The accounts: a slot before a delivery, in turn, never more than may be held."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from pythia.clock import settle_loop
from pythia.core.slots import MOST_AHEAD, Slots


async def test_everything_free_is_reserved_at_once():
    slots = Slots(4, 4)
    assert await slots.reserve() == 4
    slots.arrived(4, 3)
    assert slots.free == 1
    assert await slots.reserve() == 1 if slots.ready == 0 else True


async def test_who_waits_longest_goes_first_and_nobody_jumps_the_line():
    slots = Slots(1, 1)
    assert await slots.reserve() == 1
    order: list[str] = []

    async def wait(name: str) -> None:
        amount = await slots.reserve()
        order.append(name)
        slots.arrived(amount, 0)

    tasks = [asyncio.create_task(wait(name)) for name in "abc"]
    await settle_loop()
    slots.arrived(1, 0)
    late = asyncio.create_task(wait("late"))  # before the first of the line has had its turn on the loop
    await asyncio.gather(*tasks, late)
    assert order == ["a", "b", "c", "late"]


async def test_one_that_gives_up_waiting_passes_its_turn_on():
    slots = Slots(1, 1)
    assert await slots.reserve() == 1
    first, second = asyncio.create_task(slots.reserve()), asyncio.create_task(slots.reserve())
    await settle_loop()
    slots.arrived(1, 0)
    first.cancel()
    assert await asyncio.wait_for(second, 5) == 1
    assert slots.reserved == 1


async def test_what_an_empty_queue_was_asked_for_is_lent_to_the_others():
    slots = Slots(1, 1, queues=2)
    assert await slots.reserve(most=1) == 1
    waiting = asyncio.create_task(slots.reserve(most=1))
    await settle_loop()
    assert not waiting.done()
    slots.lend(1)
    assert await asyncio.wait_for(waiting, 5) == 1
    slots.arrived(1, 1)
    slots.arrived(1, 1, lent=True)
    assert slots.held == 2 == slots.prefetch
    assert (slots.reserved, slots.lent) == (0, 0)


async def test_a_smaller_bound_gives_nothing_until_enough_has_gone():
    slots = Slots(4, None)
    slots.arrived(await slots.reserve(), 4)
    for _ in range(4):
        slots.started()
    slots.resize(2, None, queues=1)
    waiting = asyncio.create_task(slots.reserve())
    for n in range(3):
        await settle_loop()
        assert waiting.done() == (n > 2)
        slots.finished()
        slots.settled()
    assert await asyncio.wait_for(waiting, 5) == 1


def test_fast_handlers_are_fed_ahead_and_slow_ones_hoard_nothing():
    slots = Slots(10, None)
    assert slots.ahead == 0
    slots.measure(0.00001)
    assert slots.ahead == MOST_AHEAD
    for _ in range(100):
        slots.measure(1.0)
    assert slots.ahead == 0


@given(
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 40)),
    st.integers(1, 4),
    st.lists(st.integers(0, 6), max_size=200),
)
def test_no_sequence_of_steps_holds_more_than_prefetch_or_loses_a_slot(lanes, prefetch, queues, steps):
    slots = Slots(lanes, prefetch, queues=queues)
    asked: list[int] = []
    lent: list[int] = []

    async def play() -> None:
        for step in steps:
            match step:
                case 0 if slots._worth_asking():
                    asked.append(await slots.reserve())
                case 1 if asked:
                    amount = asked.pop()
                    slots.arrived(amount, amount)
                case 2 if slots.ready:
                    slots.started()
                case 3 if slots.running:
                    slots.finished()
                case 4 if slots.held > slots.ready + slots.running:
                    slots.settled()
                case 5 if asked and queues > 1:
                    lent.append(asked.pop())
                    slots.lend(lent[-1])
                case 6 if lent:
                    amount = lent.pop()
                    slots.arrived(amount, amount, lent=True)
            assert slots.held + slots.reserved + slots.lent <= slots.prefetch
            assert slots.held >= slots.ready + slots.running >= 0
            assert slots.reserved == sum(asked)

    asyncio.run(play())
    while slots.ready:
        slots.started()
    while slots.running:
        slots.finished()
    while slots.held:
        slots.settled()
    for amount in asked:
        slots.arrived(amount, 0)
    for amount in lent:
        slots.arrived(amount, 0, lent=True)
    assert slots.free >= lanes
