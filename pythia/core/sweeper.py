"""The one deadline table: interrupts handlers that run too long, and hands back what waited too long for a lane."""

from __future__ import annotations

import asyncio

from pythia.core.events import TaskFailed
from pythia.core.handling import Lane
from pythia.core.lanes import Lanes
from pythia.core.ordering import Keys
from pythia.core.processor import Processor
from pythia.core.shift import Shift

WAITED_TOO_LONG_SECONDS = 1.0
SWALLOW_GRACE_SECONDS = 5.0
LONGEST_TICK_SECONDS = 0.25
SHORTEST_TICK_SECONDS = 0.01


class Sweeper:
    """Looks at every lane now and then, while anything runs or waits; an idle worker is not woken."""

    def __init__(self, shift: Shift, lanes: Lanes, processor: Processor, keys: Keys) -> None:
        self._shift = shift
        self._lanes = lanes
        self._processor = processor
        self._keys = keys

    async def run(self) -> None:
        """Sweep for ever; ends by cancellation."""
        clock = self._shift.clock
        while True:
            await self._lanes.busy.wait()
            await clock.sleep(self._tick())
            now = clock.monotonic()
            for lane in [lane for lane in self._lanes if lane.group]:
                await self._check(lane, now)
            self._lanes.release_ready("waited too long for a slot", arrived_before=now - WAITED_TOO_LONG_SECONDS)
            self._keys.defer_late(now)
            if self._lanes.idle:
                self._lanes.busy.clear()

    def _tick(self) -> float:
        timeout = self._shift.rules.handler_timeout
        if timeout is None:
            return LONGEST_TICK_SECONDS
        return min(LONGEST_TICK_SECONDS, max(SHORTEST_TICK_SECONDS, timeout / 10))

    async def _check(self, lane: Lane, now: float) -> None:
        deadline = lane.group[0].deadline_at if lane.group else None
        if deadline is None or now < deadline:
            return
        if lane.interrupt is None:
            lane.cancel_handler("timeout")
        elif lane.interrupt == "timeout" and now > deadline + SWALLOW_GRACE_SECONDS:
            await self._replace(lane)

    async def _replace(self, lane: Lane) -> None:
        """The handler swallowed its cancellation: settle in its name, and give its slot to another lane."""
        interrupt = lane.interrupt
        for held in self._lanes.abandon(lane):
            if interrupt is not None:
                try:
                    await self._processor.interrupted(held, interrupt)
                except asyncio.CancelledError:
                    raise
                except Exception as error:  # noqa: BLE001 - a store of the user's choice may raise; the sweep goes on
                    self._shift.emit(TaskFailed(where="settling a handler that does not end", error=error))
            self._lanes.pass_on(held)
