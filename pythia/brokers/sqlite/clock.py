"""The two times of a queue file: the wall clock for what is due, the time since boot for leases.

A lease must survive a step of the wall clock and end in a suspended machine, in every process alike: that is Linux'
``CLOCK_BOOTTIME``, which means something only together with the boot it counts from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pythia.clock import Clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteClock:
    """Where the writer thread reads the time. ``boot`` names the boot that ``boottime`` counts from.

    A ``virtual`` clock moves when somebody says so, not while the thread sleeps: the thread looks at it often.
    """

    time: Callable[[], float]
    boottime: Callable[[], float]
    boot: str
    virtual: bool = False

    @classmethod
    def machine(cls) -> SqliteClock:
        """This machine's. Without a boot clock the wall clock counts leases, from the epoch instead of a boot."""
        if not hasattr(time, "CLOCK_BOOTTIME"):
            return cls(time=time.time, boottime=time.time, boot="epoch")
        return cls(time=time.time, boottime=_boottime, boot=_BOOT_ID.read_text(encoding="ascii").strip())

    @classmethod
    def injected(cls, clock: Clock) -> SqliteClock:
        """A test's clock, read by the writer thread while the test holds still."""
        return cls(time=clock.time, boottime=clock.monotonic, boot="injected", virtual=True)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
