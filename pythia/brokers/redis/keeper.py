"""The thread that keeps leases alive and brings due messages back, whatever the event loop does.

It never raises: while the server is away it goes on trying, and what ran out meanwhile is noticed by the fence.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from pythia.brokers.redis.driver import Address
from pythia.brokers.redis.thread_link import ThreadLink
from pythia.errors import BrokerError, BrokerUnavailable

LONGEST_NAP_SECONDS = 0.25
_BEATS_PER_LEASE = 3
_LONGEST_BEAT_SECONDS = 5.0
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 1.0
_JOIN_SECONDS = 1.0


def beat_seconds(lease: float) -> float:
    """How often a lease is renewed."""
    return min(_LONGEST_BEAT_SECONDS, lease / _BEATS_PER_LEASE)


class Duty(Protocol):
    """Something that wants doing again and again."""

    def step(self, link: ThreadLink) -> float:
        """Do what is due; seconds until it wants to be asked again.

        Raises:
            BrokerUnavailable, BrokerRefused: it could not be done. It is asked again after a pause.
        """
        ...


class Keeper:
    """One thread of one broker, with a connection of its own, from the first duty to ``stop``."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._link = ThreadLink(address, "keeper")
        self._duties: tuple[Duty, ...] = ()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self.trouble: str | None = None  # why a duty could not be done

    def add(self, duties: Sequence[Duty]) -> None:
        """See to these from now on."""
        with self._lock:
            self._duties += tuple(duties)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pythia redis keeper", daemon=True)
                self._thread.start()
        self._news.set()

    def remove(self, duties: Sequence[Duty]) -> None:
        """See to these no more; a step under way may still end."""
        with self._lock:
            self._duties = tuple(duty for duty in self._duties if duty not in duties)

    def stop(self) -> None:
        """End the thread once what it asks just now is answered, or is not. Does not wait for that: ``join`` does."""
        self._stopping = True
        self._news.set()

    def join(self) -> None:
        """Wait, for a bounded time, until the thread has ended."""
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping:
            nap, failed = self._round()
            wait = min(_LONGEST_WAIT_SECONDS, wait * 2 or _FIRST_WAIT_SECONDS) if failed else 0.0
            self._news.wait(max(nap, wait))
            self._news.clear()
        self._link.drop()

    def _round(self) -> tuple[float, bool]:
        """Every duty once. One that fails holds no other up, unless the server is away."""
        nap, trouble = LONGEST_NAP_SECONDS, None
        for duty in self._duties:
            if self._stopping:
                break
            try:
                nap = min(nap, duty.step(self._link))
            except BrokerError as error:
                trouble = str(error)
                if isinstance(error, BrokerUnavailable) and not self._link.is_connected:
                    break
        self.trouble = trouble
        return nap, trouble is not None


class Pace:
    """When something that is done every ``seconds`` is due again."""

    def __init__(self, seconds: float, *, at_once: bool = False) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + (0.0 if at_once else seconds)

    @property
    def left(self) -> float:
        """Seconds until it is due."""
        return max(0.0, self._next - time.monotonic())

    def done(self, seconds: float | None = None) -> None:
        """It was done now; the next time is after ``seconds``, or as usual."""
        self._next = time.monotonic() + (self._seconds if seconds is None else seconds)
