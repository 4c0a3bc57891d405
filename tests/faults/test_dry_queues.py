"""Several queues, some of which had much and then ran dry: what they were asked for must not starve the others."""

from __future__ import annotations

import asyncio

import pytest

from pythia.core.slots import Slots

LANES = 4


@pytest.mark.parametrize("queues", [2, 3, 5])
@pytest.mark.parametrize("prefetch", [None, 1, 4, 5, 20, 150])
async def test_every_lane_can_be_fed_by_one_queue_while_all_the_others_wait_dry(
    queues: int, prefetch: int | None
) -> None:
    slots = Slots(LANES, prefetch, queues=queues)
    slots.measure(0.0001)  # so fast that much is asked for at once
    for _ in range(queues - 1):
        slots.lend(await asyncio.wait_for(slots.reserve(), 5))
    begun = 0
    while begun < LANES:
        asked = await asyncio.wait_for(slots.reserve(), 5)
        slots.arrived(asked, asked)
        for _ in range(min(asked, LANES - begun)):
            slots.started()
            begun += 1
    assert slots.held + slots.lent <= slots.prefetch  # I8
