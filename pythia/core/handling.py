"""What one lane does with one group of deliveries, from their admission to their settlements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

from pythia.core.held import Held, beyond_pythia
from pythia.core.ordering import Keys
from pythia.core.processor import Interrupt, Processor
from pythia.core.shift import Shift
from pythia.core.slots import Slots


class Lane:
    """One task, and the deliveries that its handler has at this moment."""

    __slots__ = ("abandoned", "group", "interrupt", "killed", "retired", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.group: Sequence[Held] = ()  # while the handler runs
        self.interrupt: Interrupt | None = None
        self.retired = False  # ends after what it is doing
        self.abandoned = False  # its handler swallowed its cancellation and its slot was given to another
        self.killed = False  # the engine is being closed

    def cancel_handler(self, reason: Interrupt) -> None:
        """Interrupt the running handler; a second time it is cancelled again, the first reason stands."""
        if not self.group:
            return
        self.interrupt = self.interrupt or reason
        self.task.cancel(f"pythia: {reason}")

    async def take_interrupt(self) -> Interrupt | None:
        """What we did to the handler that just ended; every cancellation of the task is taken back."""
        interrupt, self.interrupt = self.interrupt, None
        if self.task.cancelling():
            while self.task.cancelling():
                self.task.uncancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # where one that the handler did not live to see strikes (3.11, 3.12)
        return interrupt


class Handling:
    """What the lanes of one engine do. ``busy`` is set as handlers begin, ``over`` is told of each delivery that had its turn."""

    def __init__(
        self,
        shift: Shift,
        slots: Slots,
        processor: Processor,
        keys: Keys,
        *,
        busy: asyncio.Event,
        over: Callable[[Held], None],
    ) -> None:
        self._shift = shift
        self._slots = slots
        self._processor = processor
        self._keys = keys
        self._busy = busy
        self._over = over

    async def handle(self, lane: Lane, group: Sequence[Held]) -> None:
        """Whatever a handler raises, the lane lives on. One that was abandoned settles nothing."""
        shift = self._shift
        started = shift.stopwatch()
        admitted = await self._admitted(group)
        if admitted and shift.stopping.is_set():
            await self._drained(admitted)
        elif admitted:
            self._begin(lane, admitted)
            value: Any = None
            raised: BaseException | None = None
            try:
                value = await self._processor.handle(admitted)
            except GeneratorExit:
                raise
            except BaseException as error:
                if lane.killed and lane.interrupt is None and isinstance(error, asyncio.CancelledError):
                    raise
                raised = error.with_traceback(beyond_pythia(error.__traceback__))
            finally:
                lane.group = ()
            if lane.interrupt is not None or self._processor.dedup.holds or lane.task.cancelling():
                await self._ended(lane, admitted, value, raised)
            elif not lane.abandoned:
                self._ended_plainly(admitted, value, raised)
        if not lane.abandoned:
            self._measure(group, shift.stopwatch() - started)

    async def _admitted(self, group: Sequence[Held]) -> list[Held]:
        """Those whose handler may begin."""
        processor, admitted = self._processor, []
        for held in group:
            try:
                if (
                    processor.admit(held)
                    and (held.rules.dedup_ttl is None or await processor.claim(held))
                    and (self._keys.may_go(held) or self._waits_for_its_turn(held))
                ):
                    admitted.append(held)
            except Exception as problem:  # noqa: BLE001 - the user's idempotency_key and ordering_key may raise anything
                await processor.conclude(held, None, problem)
        return admitted

    def _waits_for_its_turn(self, held: Held) -> Literal[False]:
        """Its ordering key is taken: it is parked (or was deferred), and the lane goes on without it."""
        if held.open:
            held.started = None
            self._slots.ready += 1
            held.source.tally.buffered += 1
        return False

    def _begin(self, lane: Lane, group: Sequence[Held]) -> None:
        self._busy.set()
        timeout = group[0].rules.handler_timeout
        if timeout is not None:
            deadline = self._shift.clock.monotonic() + timeout
            for held in group:
                held.deadline_at = deadline
        lane.group = group

    async def _drained(self, group: Sequence[Held]) -> None:
        """The drain came while a claim was being made: no handler begins any more (I6)."""
        for held in group:
            await self._processor.interrupted(held, "drain")

    def _ended_plainly(self, group: Sequence[Held], value: Any, raised: BaseException | None) -> None:
        """A handler that was not interrupted, while nobody claims anything."""
        for held in group:
            self._processor.ended_plainly(held, value, raised)
            if self._keys.turns:
                self._over(held)

    async def _ended(self, lane: Lane, group: Sequence[Held], value: Any, raised: BaseException | None) -> None:
        interrupt = await lane.take_interrupt()
        if lane.abandoned:
            return
        for held in group:
            await self._processor.ended(held, interrupt, value, raised)
        if not lane.abandoned:
            for held in group:
                self._over(held)

    def _measure(self, group: Sequence[Held], seconds: float) -> None:
        """How long they were handled, and had waited to be."""
        self._slots.measure(seconds / len(group))
        began = self._shift.clock.time() - seconds
        for held in group:
            tally, delivery = held.source.tally, held.delivery
            tally.processing.observe(seconds)
            if delivery.attempt == 1 and not delivery.redelivered:
                waited = began - delivery.first_seen
                tally.wait.observe(max(0.0, waited))
