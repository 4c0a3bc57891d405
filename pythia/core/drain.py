"""Stopping without losing: take nothing more, let what runs finish, then interrupt, then hand back in its name.

Of a deadline T: until 75 % handlers go on with their leases alive; then they are cancelled and released; at 90 % what
swallowed its cancellation is released all the same. ``hurry`` (a second signal) jumps to the cancelling at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pythia.clock import Clock
from pythia.core.engine import Engine
from pythia.core.events import DrainReleased
from pythia.core.held import Held
from pythia.core.outcome import Outcome
from pythia.core.shift import Shift

CANCEL_AT = 0.75
RELEASE_AT = 0.90
LAST_AT = 0.97
MOST_LISTED = 100
HURRIED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain went: deliveries that were running when it began."""

    finished: int
    released: int  # cancelled and handed back
    abandoned: int  # handed back in their name: their handlers have not ended

    @property
    def clean(self) -> bool:
        return not self.released and not self.abandoned


async def drain(engine: Engine, shift: Shift, seconds: float, hurry: asyncio.Event) -> Drained:
    """Drain ``engine`` within ``seconds``. Cancelled, what is still held comes again by itself."""
    clock, began = shift.clock, shift.clock.monotonic()
    shift.stopping.set()  # before anything else gets a turn: no handler begins any more (I6)

    def left(share: float) -> float:
        return max(0.0, began + seconds * share - clock.monotonic())

    async with asyncio.TaskGroup() as group:
        settled = group.create_task(_stop_and_settle(engine))
        running = engine.lanes.handling
        await _until(settled, clock, left(CANCEL_AT), hurry)
        cancelled = [held for held in engine.lanes.handling if held.open]
        engine.lanes.interrupt_all("drain")
        pause = min(HURRIED_SECONDS, left(1.0) / 2) if hurry.is_set() else left(RELEASE_AT)
        await _until(settled, clock, pause)
        abandoned = _release_in_their_name(engine)
        await _until(settled, clock, left(LAST_AT) if abandoned else left(1.0))
        settled.cancel()
    _tell(shift, cancelled)
    report = Drained(
        finished=len(running) - len(cancelled), released=len(cancelled) - len(abandoned), abandoned=len(abandoned)
    )
    shift.tally.drained["finished"] += report.finished
    shift.tally.drained["released"] += report.released
    shift.tally.drained["abandoned"] += report.abandoned
    return report


async def _stop_and_settle(engine: Engine) -> None:
    await engine.stop_intake()
    await engine.settled()


async def _until(settled: asyncio.Task[None], clock: Clock, seconds: float, hurry: asyncio.Event | None = None) -> None:
    waiters: set[asyncio.Task[None]] = {asyncio.create_task(clock.sleep(seconds), name="drain's share")}
    if hurry is not None:
        waiters.add(asyncio.create_task(hurry.wait(), name="hurry"))  # type: ignore[arg-type]  # only waited for
    try:
        await asyncio.wait({settled, *waiters}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


def _release_in_their_name(engine: Engine) -> Sequence[Held]:
    stuck = [lane for lane in engine.lanes if lane.group and not lane.abandoned]
    abandoned = [held for lane in stuck for held in engine.lanes.abandon(lane)]
    for held in abandoned:
        held.settle(Outcome("release", "drain"))
    return abandoned


def _tell(shift: Shift, cancelled: Sequence[Held]) -> None:
    if not cancelled:
        return
    now = shift.clock.monotonic()
    shift.emit(
        DrainReleased(
            count=len(cancelled),
            message_ids=[held.delivery.envelope.id for held in cancelled[:MOST_LISTED]],
            ages=[round(held.seconds(now), 3) for held in cancelled[:MOST_LISTED]],
        )
    )
