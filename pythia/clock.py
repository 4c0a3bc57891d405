"""Time, injected: the real clock for services, a virtual one for tests and simulation."""

from __future__ import annotations

import asyncio
import heapq
from time import monotonic
from time import time as epoch
from typing import Protocol


class Clock(Protocol):
    """Where the core and the brokers read the time."""

    def time(self) -> float: ...  # seconds since the epoch
    def monotonic(self) -> float: ...  # seconds since some fixed moment
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The time of this machine."""

    time = staticmethod(epoch)
    monotonic = staticmethod(monotonic)
    sleep = staticmethod(asyncio.sleep)


class VirtualClock:
    """Time that stands still until somebody advances it; sleepers wake in the order of their moments.

    Cancelling a sleep forgets it. Not for several threads.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = 0

    def time(self) -> float:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._order, future))
        await future

    def next_wake(self) -> float | None:
        """Seconds until the next sleeper, None when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return None if not self._sleepers else max(0.0, self._sleepers[0][0] - self._elapsed)

    async def advance(self, seconds: float) -> None:
        """Move on by ``seconds``, stopping at each sleeper on the way so that what it starts happens at its moment."""
        target = self._elapsed + seconds
        await settle_loop()
        while (wait := self.next_wake()) is not None and self._elapsed + wait <= target:
            self._elapsed += wait
            _, _, future = heapq.heappop(self._sleepers)
            future.set_result(None)
            await settle_loop()
        self._elapsed = target
        await settle_loop()


async def settle_loop(turns: int = 20) -> None:
    """Let whatever can run without time passing run: ``turns`` turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
