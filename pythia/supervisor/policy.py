"""When a process that died is started again, and when that is given up: pure but for the random source that it is given.

A process counts as stable once it has run for ``STABLE_SECONDS``; its deaths before do not count after that. Until then each
death doubles the wait, and the fifth in a row of one slot is a crash loop. Five, because a message that kills its process
needs three deaths to be found out, and the processes share what they know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

STABLE_SECONDS = 10.0
MOST_QUICK_DEATHS = 5
BASE_SECONDS, FACTOR, CAP_SECONDS, JITTER = 0.5, 2.0, 30.0, 0.2
RELOAD_SECONDS = 24.0  # for what came of it in one process
KILL_GRACE_SECONDS = 2.0  # past its drain deadline, at which a process ends by itself, before it is killed

HOPELESS = frozenset({64, 69, 74, 78})  # what a start again does not heal, if no process of the worker ever ran

Reason = Literal["exit", "signal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one process ended. ``code`` is negative for a signal, as in ``subprocess``."""

    pid: int
    code: int
    ran_seconds: float | None  # since it said that it runs; None: it never did

    @property
    def reason(self) -> Reason:
        return "signal" if self.code < 0 else "exit"

    @property
    def stable(self) -> bool:
        return self.ran_seconds is not None and self.ran_seconds >= STABLE_SECONDS


@dataclass(frozen=True, slots=True)
class Again:
    """Start again after so many seconds."""

    seconds: float
    quick_deaths: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop the others, and end with this exit code."""

    exit_code: int
    quick_deaths: int


def after(ending: Ending, quick_deaths: int, *, ever_ran: bool, random: Random) -> Again | GiveUp:
    """What follows from the death of a slot's process whose slot had ``quick_deaths`` in a row before.

    ``ever_ran``: whether any process of this worker was running since the supervisor began.
    """
    if not ever_ran and ending.code in HOPELESS:
        return GiveUp(ending.code, quick_deaths)
    deaths = 1 if ending.stable else quick_deaths + 1
    if deaths >= MOST_QUICK_DEATHS:
        return GiveUp(70, deaths)
    return Again(delay(deaths, random), deaths)


def delay(deaths: int, random: Random) -> float:
    """Seconds to wait after so many deaths in a row: 0.5, 1, 2, 4 … 30, each ± 20 %."""
    seconds = min(CAP_SECONDS, BASE_SECONDS * FACTOR ** (deaths - 1))
    return float(seconds * random.uniform(1 - JITTER, 1 + JITTER))


def worse(one: int, other: int) -> int:
    """The exit code that tells more of two: 0 clean, 75 handed back, then what went wrong."""
    return max((one, other), key=_weight)


def _weight(code: int) -> int:
    return {0: 0, 75: 1}.get(code, 2)
