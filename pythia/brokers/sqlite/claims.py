"""Consumers that wait, and when it is worth looking for something for them; touched by the writer thread alone."""

from __future__ import annotations

import math
import time
from collections import Counter

from pythia.brokers.sqlite import trouble
from pythia.brokers.sqlite.calls import Change, Outbox, Setback, Waiter
from pythia.brokers.sqlite.clock import SqliteClock
from pythia.brokers.sqlite.commit import Transactions
from pythia.brokers.sqlite.store import Store
from pythia.errors import StoreError
from pythia.message import Delivery

_POLL_SECONDS = 0.05  # how soon a waiting consumer notices what other processes did
_LOOK_SECONDS = 1.0  # how soon it notices that the clock was set, or the machine asleep
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # between claims, while the file cannot be written

_Served = tuple[list[tuple[Waiter, list[Delivery]]], float | None]


class Claims:
    """The waiters of one writer.

    They are served within any transaction of ours; besides, when another process wrote, and at the moment at which a
    message becomes due or a lease expires. While the file cannot be written they are served less and less often.
    """

    def __init__(self, clock: SqliteClock, transactions: Transactions, outbox: Outbox) -> None:
        self._clock = clock
        self._transactions = transactions
        self._outbox = outbox
        self._waiters: list[Waiter] = []
        self._stirred = False  # something happened since they were served last
        self._version: int | None = None
        self._wake_at = self._pause = self._paused_until = 0.0

    def add(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)
        self._stirred = True

    def change(self, *, stirred: bool) -> Change | None:
        """The claims that belong into the next transaction; ``stirred``: there is one anyway."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.answer.future.done()]
        now = time.monotonic()
        if not self._waiters or now < self._paused_until:
            self._stirred = self._stirred or stirred
            return None
        if stirred or self._stirred or self._clock.virtual or now >= self._wake_at or self._others_wrote():
            return Change(self._serve, self._served, self._not_served)
        return None

    def patience(self) -> float | None:
        """Seconds until ``change`` should be asked again; None: not by itself."""
        if not self._waiters:
            return None
        now = time.monotonic()
        return max(self._paused_until - now, min(_POLL_SECONDS, self._wake_at - now))

    def refuse(self, error: Exception) -> None:
        """Fail everybody who waits."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._outbox.put(waiter.answer, None, error)

    def _others_wrote(self) -> bool:
        seen, self._version = self._version, self._transactions.data_version()
        return seen != self._version

    def _serve(self, store: Store) -> _Served:
        store.advance()
        served = []
        taken: Counter[int] = Counter()
        for waiter in self._waiters:
            holder = waiter.holder
            limit = min(waiter.limit, holder.room - taken[holder.owner])
            claimed = store.claim(holder.owner, holder.queue, limit, holder.options.lease) if limit > 0 else []
            taken[holder.owner] += len(claimed)
            served.append((waiter, claimed))
        return served, store.next_moment()

    def _served(self, outcome: _Served) -> None:
        served, wait = outcome
        self._stirred = False
        self._pause = self._paused_until = 0.0
        self._wake_at = time.monotonic() + min(_LOOK_SECONDS, math.inf if wait is None else wait)
        self._waiters = [waiter for waiter, claimed in served if not claimed]
        for waiter, claimed in served:
            if claimed:
                waiter.holder.take(claimed, self._clock.boottime())
                self._outbox.put(waiter.answer, claimed)

    def _not_served(self, setback: Setback) -> None:
        if not (trouble.passes(setback.error) or trouble.lasts(setback.error)):
            self.refuse(
                StoreError(f"a message cannot be read from the queue file: {setback.error}")
            )  # and waiting will not help
            return
        self._stirred = True
        self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
        self._paused_until = time.monotonic() + self._pause
