"""A slot before a delivery: how many deliveries may be asked for, so that nothing is taken that cannot be started.

``free = lanes + ahead − running − ready``, and never more unsettled than ``prefetch``. ``ahead`` is a look-ahead of about
20 ms of work, measured, so that fast handlers are fed in batches and slow ones hoard nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LOOK_AHEAD_SECONDS = 0.02
MOST_AHEAD = 256
NOTED_SECONDS = 0.001


class Slots:
    """The accounts of one engine. Everything here happens on the loop's thread.

    Several queues share the lanes round robin: whoever waited longest reserves first. What an empty queue has been asked
    for is lent to the others, so that they are served meanwhile; what then comes all the same waits for a lane.
    """

    def __init__(self, lanes: int, prefetch: int | None, *, queues: int = 1) -> None:
        self.lanes = lanes  # messages that handlers can have at once
        self._prefetch = prefetch
        self._queues = queues
        self._one_by_one = False
        self.on_calmer: Callable[[], None] = lambda: None  # something was settled while messages run one by one
        self.held = 0  # unsettled: ready, running, or being settled
        self.ready = 0
        self.running = 0
        self.reserved = 0  # asked for, not yet here
        self.lent = 0  # asked for, not yet here, and not waited for any more
        self.ahead = 0  # deliveries to hold beyond the running ones
        self.prefetch = self._most_held()
        self._service: float | None = None  # seconds a message takes, smoothed
        self._unnoted = 0.0  # seconds that messages took, not in there yet
        self._unnoted_messages = 0
        self._look_ahead()
        self._waiters: deque[asyncio.Future[None]] = deque()

    def _most_held(self) -> int:
        """``prefetch``: most unsettled deliveries held (I8), at least every lane's, and one that each other queue may yet answer
        with."""
        if self._prefetch is None:
            return 2 * (self.lanes + MOST_AHEAD) + self._queues
        return max(self._prefetch, self.lanes + self._queues - 1)

    @property
    def free(self) -> int:
        startable = (1 if self._one_by_one else self.lanes) + self.ahead - self.running - self.ready - self.reserved
        return min(startable, self.prefetch - self.held - self.reserved - self.lent)

    @property
    def share(self) -> int:
        """Most that one queue may be asked for: if every other one turns out to be empty, all lanes can still be fed."""
        if self._queues == 1:
            return self.prefetch
        return max(1, (self.prefetch - self.lanes) // (self._queues - 1))

    def resize(self, lanes: int, prefetch: int | None, *, queues: int) -> None:
        self.lanes = lanes
        self._prefetch = prefetch
        self._queues = queues
        self.prefetch = self._most_held()
        self._look_ahead()
        self._wake()

    @property
    def calm(self) -> bool:
        """Nothing runs and nothing is being settled."""
        return self.held == self.ready and not self.running

    def one_by_one(self, *, on: bool) -> None:
        """Whether a message runs alone, or waits to: nothing more is asked for than can begin after it."""
        if self._one_by_one is not on:
            self._one_by_one = on
            self._look_ahead()
            self._wake()

    def measure(self, seconds: float) -> None:
        """A message took this long. The shortest ones are noted together."""
        self._unnoted += seconds
        self._unnoted_messages += 1
        if self._unnoted < NOTED_SECONDS and self._service is not None:
            return
        mean, weight = self._unnoted / self._unnoted_messages, 1 - 0.9**self._unnoted_messages
        self._service = mean if self._service is None else self._service + weight * (mean - self._service)
        self._unnoted, self._unnoted_messages = 0.0, 0
        self._look_ahead()

    def _look_ahead(self) -> None:
        if self._one_by_one:
            self.ahead = 0
        elif self._prefetch is not None:
            self.ahead = max(0, self._prefetch - self.lanes)
        elif self._service is None:
            self.ahead = 0
        else:
            self.ahead = min(MOST_AHEAD, int(self.lanes * LOOK_AHEAD_SECONDS / max(self._service, 1e-6)))

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

    def finished(self, count: int = 1) -> None:
        self.running -= count
        if self._waiters:
            self._wake()

    def unreadied(self) -> None:
        """A delivery that waited for a lane goes back, or was lost."""
        self.ready -= 1
        self._wake()

    def settled(self, count: int = 1) -> None:
        self.held -= count
        if self._one_by_one:
            self.on_calmer()
        if self._waiters:
            self._wake()

    def _worth_asking(self) -> bool:
        """Something is free, and either nothing is waiting to start or enough is free for a batch. Asked twice for each message,
        so it computes ``free`` only as far as it must."""
        enough = self.ahead // 2 + 1 if self.ready else 1
        if self.prefetch - self.held - self.reserved - self.lent < enough:
            return False
        lanes = 1 if self._one_by_one else self.lanes
        return lanes + self.ahead - self.running - self.ready - self.reserved >= enough

    def _wake(self) -> None:
        if self._waiters and not self._waiters[0].done() and self._worth_asking():
            self._waiters[0].set_result(None)
