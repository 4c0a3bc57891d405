"""A slot before a delivery: how many deliveries may be asked for, so that nothing is taken that cannot be started.

``free = lanes + ahead − running − ready``, and never more unsettled than ``prefetch``. ``ahead`` is a look-ahead of about
20 ms of work, measured, so that fast handlers are fed in batches and slow ones hoard nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque

LOOK_AHEAD_SECONDS = 0.02
MOST_AHEAD = 256


class Slots:
    """The accounts of one engine. Everything here happens on the loop's thread.

    Several queues share the lanes round robin: whoever waited longest reserves first. What an empty queue has been asked
    for is lent to the others, so that they are served meanwhile; what then comes all the same waits for a lane.
    """

    def __init__(self, lanes: int, prefetch: int | None, *, queues: int = 1) -> None:
        self.lanes = lanes  # messages that handlers can have at once
        self._prefetch = prefetch
        self._queues = queues
        self.held = 0  # unsettled: ready, running, or being settled
        self.ready = 0
        self.running = 0
        self.reserved = 0  # asked for, not yet here
        self.lent = 0  # asked for, not yet here, and not waited for any more
        self._service: float | None = None  # seconds a message takes, smoothed
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def ahead(self) -> int:
        """Deliveries to hold beyond the running ones."""
        if self._prefetch is not None:
            return max(0, self._prefetch - self.lanes)
        if self._service is None:
            return 0
        return min(MOST_AHEAD, int(self.lanes * LOOK_AHEAD_SECONDS / max(self._service, 1e-6)))

    @property
    def prefetch(self) -> int:
        """Most unsettled deliveries held (I8): at least every lane's, and one that each other queue may yet answer with."""
        if self._prefetch is None:
            return 2 * (self.lanes + MOST_AHEAD) + self._queues
        return max(self._prefetch, self.lanes + self._queues - 1)

    @property
    def free(self) -> int:
        startable = self.lanes + self.ahead - self.running - self.ready - self.reserved
        return min(startable, self.prefetch - self.held - self.reserved - self.lent)

    @property
    def share(self) -> int:
        """Most that one queue may be asked for: if every other one turns out to be empty, all lanes can still be fed."""
        if self._queues == 1:
            return self.prefetch
        return max(1, (self.prefetch - self.lanes) // (self._queues - 1))

    def resize(self, lanes: int, prefetch: int | None) -> None:
        self.lanes = lanes
        self._prefetch = prefetch
        self._wake()

    def measure(self, seconds: float) -> None:
        """A message took this long."""
        self._service = seconds if self._service is None else self._service + 0.1 * (seconds - self._service)

    async def reserve(self, *, most: int | None = None) -> int:
        """Wait until something may be asked for, and reserve it: at least 1, at most ``most``.

        Cancelled while waiting, nothing is reserved. What was reserved must be given to ``arrived``.
        """
        if self._waiters or not self._worth_asking():
            await self._turn()
        amount = min(self.free, self.share if most is None else most)
        self.reserved += amount
        self._wake()
        return amount

    async def _turn(self) -> None:
        """Wait in line; at its head, until something may be asked for."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
            while not self._worth_asking():
                self._waiters[0] = waiter = asyncio.get_running_loop().create_future()
                await waiter
        except BaseException:
            self._waiters.remove(waiter)
            self._wake()
            raise
        self._waiters.remove(waiter)

    def lend(self, reserved: int) -> None:
        """Whoever reserved this waits for a queue that seems to be empty: others may use it. Then ``arrived(lent=True)``."""
        self.reserved -= reserved
        self.lent += reserved
        self._wake()

    def arrived(self, reserved: int, count: int, *, lent: bool = False) -> None:
        """Of ``reserved``, ``count`` came."""
        if lent:
            self.lent -= reserved
        else:
            self.reserved -= reserved
        self.held += count
        self.ready += count
        self._wake()

    def started(self) -> None:
        self.ready -= 1
        self.running += 1

    def finished(self) -> None:
        self.running -= 1
        self._wake()

    def unreadied(self) -> None:
        """A delivery that waited for a lane goes back, or was lost."""
        self.ready -= 1
        self._wake()

    def settled(self) -> None:
        self.held -= 1
        self._wake()

    def _worth_asking(self) -> bool:
        """Something is free, and either nothing is waiting to start or enough is free for a batch."""
        free = self.free
        return free >= 1 and (self.ready == 0 or free > self.ahead // 2)

    def _wake(self) -> None:
        if self._waiters and not self._waiters[0].done() and self._worth_asking():
            self._waiters[0].set_result(None)
