"""Lanes: long-lived tasks, as many as there may be handlers at once; no task is made per message.

A lane takes a group of ready deliveries (one, or with ``process_batch`` several), has it handled and settled, and takes the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextvars import Context, copy_context

from pythia.core.handling import Handling, Lane
from pythia.core.held import Held
from pythia.core.ordering import Keys
from pythia.core.outcome import Outcome
from pythia.core.processor import Interrupt, Processor
from pythia.core.shift import Shift
from pythia.core.slots import Slots
from pythia.core.solitude import Solitude

SLICE_SECONDS = 0.004  # work on the loop before others get a turn
WOKEN_AT_ONCE = 2  # lanes, by each that has begun something while more is ready


class Lanes:
    """The lanes of one engine, what is ready for them, and who watches them."""

    def __init__(self, shift: Shift, slots: Slots, processor: Processor, keys: Keys, *, batched: bool) -> None:
        self._shift = shift
        self._slots = slots
        self._keys = keys
        keys.on_unparked = self._unparked
        self._batched = batched
        self._ready: deque[Held] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._lanes: list[Lane] = []
        self._abandoned: list[Lane] = []
        self._gathering = asyncio.Lock()
        self.busy = asyncio.Event()  # set when something may be running or waiting: the sweeper looks, and clears it
        self._handling = Handling(shift, slots, processor, keys, busy=self.busy, over=self.pass_on)
        self._slice = 0.0
        self._quota: int | None = None  # messages that may still begin
        self._solitude = Solitude(shift, slots)
        slots.on_calmer = lambda: self._wake(len(self._idle))
        self._context: Context | None = None
        self.on_quota: Callable[[], None] = lambda: None
        self.on_ended: Callable[[asyncio.Task[None]], None] = lambda _task: None  # a lane has

    def __iter__(self) -> Iterator[Lane]:
        return iter([*self._lanes, *self._abandoned])

    @property
    def idle(self) -> bool:
        """Nothing waits to start and no handler runs."""
        return not self._ready and not any(lane.group for lane in self._lanes)

    @property
    def handling(self) -> list[Held]:
        """Every delivery whose handler is running, abandoned ones apart."""
        return [held for lane in self._lanes for held in lane.group]

    @property
    def stuck(self) -> int:
        """Handlers that swallowed their cancellation and still run."""
        return sum(1 for lane in self._abandoned if not lane.task.done())

    def limit(self, messages: int | None) -> None:
        """No more than this many messages begin; ``on_quota`` is called once they have."""
        self._quota = messages

    def resize(self, count: int) -> None:
        """As many lanes as ``count``: new ones at once, surplus ones end after what they are doing."""
        serving = _serving(self._lanes, count)
        for _ in range(count - len(serving)):
            self._spawn()
        for lane in serving[count:]:
            lane.retired = True
        self._wake(len(self._idle))

    def arrived(self, batch: Sequence[Held]) -> None:
        """Of one subscription."""
        self._ready.extend(batch)
        batch[0].source.tally.buffered += len(batch)
        if any(held.delivery.redelivered for held in batch):
            self._shift.suspects.look()
        self.busy.set()
        self._call_for_help()

    def lost(self, held: Held) -> None:
        """A held delivery is no longer ours: it leaves the line, or its handler is interrupted."""
        if held.started is None:
            if held in self._ready:
                self._unready(held)
            self._keys.forget(held)
            return
        for lane in self._lanes:
            if held in lane.group and all(other.lost is not None for other in lane.group):
                lane.cancel_handler("lost")

    def release_ready(
        self, reason: str, *, arrived_before: float | None = None, queues: Container[str] | None = None
    ) -> None:
        """Hand back what no handler has begun: everything, or what has been here since before that (monotonic) moment, or
        what is of these queues."""
        for held in list(self._ready):
            late = arrived_before is None or held.arrived < arrived_before
            if late and (queues is None or held.delivery.queue in queues):
                self._unready(held)
                held.settle(Outcome("release", reason))

    def wake_all(self) -> None:
        """Idle lanes look around: they end when the shift is stopping."""
        self._wake(len(self._idle))

    def interrupt_all(self, reason: Interrupt) -> None:
        for lane in self._lanes:
            lane.cancel_handler(reason)

    def abandon(self, lane: Lane) -> Sequence[Held]:
        """Give up a lane whose handler does not end; another takes its place. What it held, for the caller to settle
        and then to ``pass_on``."""
        group, lane.group = lane.group, ()
        replaced = not (lane.retired or self._shift.stopping.is_set())
        lane.abandoned = lane.retired = True
        self._lanes.remove(lane)
        self._abandoned = [*(old for old in self._abandoned if not old.task.done()), lane]
        self._finished(group)
        if replaced:
            self._spawn()
        return group

    async def close(self, within: float) -> None:
        """End every lane; one whose handler does not end ``within`` that many seconds is left behind."""
        tasks = {lane.task for lane in self}
        for lane in self:
            lane.killed = lane.retired = True
            if not lane.abandoned:
                lane.task.cancel()
        self._wake(len(self._idle))
        if tasks:
            await asyncio.wait(tasks, timeout=within)

    def _spawn(self) -> None:
        """A new lane, in the context of the first ones: whoever asks for it later (a handler, say) lends it nothing."""
        lane = Lane()
        if self._context is None:
            self._context = copy_context()
        name, context = f"lane {len(self._lanes)}", self._context.copy()
        lane.task = asyncio.create_task(self._live(lane), name=name, context=context)
        self._lanes.append(lane)
        lane.task.add_done_callback(lambda task: self._ended(lane, task))

    def _ended(self, lane: Lane, task: asyncio.Task[None]) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
        self.on_ended(task)

    async def _live(self, lane: Lane) -> None:
        suspects, stopwatch, handle = self._shift.suspects, self._shift.stopwatch, self._handling.handle
        while (group := self._at_once(lane) or await self._take(lane)) is not None:
            first = suspects.take(group[0].delivery)
            others = [suspects.take(held.delivery) for held in group[1:]] if self._batched else ()
            try:
                await handle(lane, group)
            finally:
                suspects.let_go(first)
                for slot in others:
                    suspects.let_go(slot)
                if not lane.abandoned:
                    self._finished(group)
            if stopwatch() - self._slice > SLICE_SECONDS:
                await asyncio.sleep(0)
                self._slice = stopwatch()

    def _at_once(self, lane: Lane) -> list[Held] | None:
        """The next group if there is one that need not be waited for. No handler begins once a drain has (I6)."""
        if self._ready and not self._batched and not self._over(lane) and self._may_begin():
            return [self._begin()]
        return None

    async def _take(self, lane: Lane) -> list[Held] | None:
        """The next group; None when the lane should end."""
        if self._batched:
            async with self._gathering:
                return await self._gather(lane)
        held = await self._next(lane)
        return None if held is None else [held]

    async def _next(self, lane: Lane) -> Held | None:
        while not self._over(lane):
            if self._ready and self._may_begin():
                held = self._begin()
                self._call_for_help()
                return held
            future = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future in self._idle:
                    self._idle.remove(future)
                if lane.killed:
                    raise
                # of a handler that has ended: somebody kept its task, and cancelled it late
                await lane.take_interrupt()
            self._slice = self._shift.stopwatch()
        self._call_for_help()
        return None

    def _call_for_help(self) -> None:
        """Wake some that wait, if there is something for them. They do the same: a no-op handler is done before they are up, and to
        wake them all would cost more than it."""
        if self._ready:
            self._wake(WOKEN_AT_ONCE)

    async def _gather(self, lane: Lane) -> list[Held] | None:
        """Up to ``batch.size`` messages, waiting for more at most ``batch.wait_seconds`` after the first."""
        first = await self._next(lane)
        if first is None:
            return None
        group, rules, clock = [first], self._shift.rules, self._shift.clock
        if self._solitude.alone is first:
            return group
        waiting = asyncio.create_task(clock.sleep(rules.batch_wait), name="batch wait")
        try:
            while len(group) < rules.batch_size and not waiting.done() and not self._over(lane):
                if self._ready and self._may_begin():
                    group.append(self._begin())
                    continue
                more = asyncio.get_running_loop().create_future()
                self._idle.append(more)
                await asyncio.wait({waiting, more}, return_when=asyncio.FIRST_COMPLETED)
                if more in self._idle:
                    self._idle.remove(more)
        finally:
            waiting.cancel()
        if not self._shift.stopping.is_set():
            return group
        self._finished(group)
        for held in group:
            held.settle(Outcome("release", "drain"))
        return None

    def _over(self, lane: Lane) -> bool:
        return lane.retired or self._shift.stopping.is_set()

    def _may_begin(self) -> bool:
        return (self._quota is None or self._quota > 0) and self._solitude.permits(self._ready[0])

    def _finished(self, group: Sequence[Held]) -> None:
        self._slots.finished(len(group))
        if self._solitude.held_back and self._solitude.ended(group):
            self._wake(len(self._idle))

    def _begin(self) -> Held:
        held, shift = self._ready.popleft(), self._shift
        held.source.tally.buffered -= 1
        self._slots.started()
        held.started = shift.clock.monotonic()
        held.rules = shift.rules
        if self._quota is not None:
            self._quota -= 1
            if self._quota == 0:
                self.on_quota()
        return held

    def pass_on(self, held: Held) -> None:
        """Its ordering key is free: the next one of the key goes first."""
        if (parked := self._keys.ended(held)) is not None:
            self._ready.appendleft(parked)
            self._wake(1)

    def _unparked(self, held: Held) -> None:
        held.source.tally.buffered -= 1
        self._slots.unreadied()

    def _unready(self, held: Held) -> None:
        self._ready.remove(held)
        held.source.tally.buffered -= 1
        self._slots.unreadied()

    def _wake(self, count: int) -> None:
        while count and self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1


def _serving(lanes: Sequence[Lane], wanted: int) -> list[Lane]:
    """Those that go on, and as many of those that were to end, and have not yet, as are wanted beside them: before new ones
    come, so that there are never more handlers than lanes."""
    serving = [lane for lane in lanes if not lane.retired]
    ending = [lane for lane in lanes if lane.retired and not (lane.killed or lane.task.done())]
    for lane in ending[: max(0, wanted - len(serving))]:
        lane.retired = False
        serving.append(lane)
    return serving
