"""The probation of one run: which configuration is on trial, since when, and which one to go back to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pythia.config import WorkerConfig, plan
from pythia.core.probation import KEEP_SECONDS, History, Trial, is_worse
from pythia.core.waiting import first

if TYPE_CHECKING:
    from pythia.core.life import Life
    from pythia.core.rules import Rules

LOOK_SECONDS = 1.0

FallBack = Callable[
    [WorkerConfig, WorkerConfig, str], Awaitable[None]
]  # from what was tried, to what had proved itself


class Probation:
    """Begun by whoever applies a configuration; it ends by itself, in its ``turn`` among the reloads."""

    def __init__(self, life: Life, turn: asyncio.Lock, fall_back: FallBack) -> None:
        self._life = life
        self._turn = turn
        self._fall_back = fall_back
        self._history = History()
        self._proven: WorkerConfig | None = None  # while another is on trial
        self._watching: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Remember how many messages fail, for as long back as a reload may ask; about every second."""
        window = self._life.status.config.reloading.probation_seconds
        self._history.note(self._life.clock.monotonic(), self._life.tally.share(), window)

    def begin(self, before: WorkerConfig, new: WorkerConfig, rules: Rules) -> None:
        """Watch the generation that is about to begin, if that is asked for. One that begins before the former has proved
        itself is compared with the same time, and goes back to the same configuration."""
        life, seconds = self._life, new.reloading.probation_seconds
        shift = life.shift
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if shift is None:
            return
        trial = shift.trial
        if trial is not None and self._proven is not None and not plan(self._proven, new).changes:
            self.end(forgive=True)  # taken back by hand
            return
        if not seconds:
            self.end(forgive=False)
            return
        if trial is not None and self._proven is not None:
            trial.follow(rules)
        else:
            share = self._history.window(life.clock.monotonic(), life.tally.share(), seconds)
            trial = Trial(rules, share, forgiven=() if trial is None else trial.forgiven)
            shift.trial, self._proven = trial, before
        self._watching = asyncio.create_task(self._watch(trial, new, seconds), name="probation")
        life.tending.append(self._watching)
        self._watching.add_done_callback(life.tended)

    def end(self, *, forgive: bool) -> None:
        """It has proved itself; or, ``forgive``, it goes, and what failed under it is given back."""
        trial = None if self._life.shift is None else self._life.shift.trial
        self._proven = None
        if trial is not None and forgive:
            trial.roll_back()
        elif trial is not None:
            trial.proved()

    async def _watch(self, trial: Trial, tried: WorkerConfig, seconds: float) -> None:
        clock = self._life.clock
        ends = clock.monotonic() + seconds
        while not trial.worse.is_set() and (left := ends - clock.monotonic()) > 0:
            await first(trial.worse.wait, lambda left=left: clock.sleep(min(LOOK_SECONDS, left)))  # type: ignore[misc]
            trial.let_go(clock.monotonic() - KEEP_SECONDS)
        async with self._turn:
            if self._life.stopping or self._proven is None:
                return
            if not is_worse(trial.now, trial.before):
                self.end(forgive=False)
                return
            cause = f"{trial.now} failed under it, {trial.before} in the time before"
            await self._fall_back(tried, self._proven, cause)
