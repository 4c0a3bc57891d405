"""What systemd is told of a service with ``Type=notify``: that it has started, reloads, stops, and is worth keeping.

It is the probes again, for a supervisor that listens instead of asking. Started is what ``/startupz`` says: a worker that
waits for its broker has started, since nothing but waiting would heal that. Each sign of life is what ``/livez`` says, so a
handler that blocks the event loop is left alone for a minute, and a process that stands still gives no sign at all.

Messages are datagrams to the socket that ``NOTIFY_SOCKET`` names; without it this does nothing. One that cannot be sent is
left: a worker runs without systemd too.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from pythia.core.events import Event, WorkerRunning, WorkerStopping
from pythia.core.state import WorkerState
from pythia.core.status import Status
from pythia.observability import health

_TURNS = (WorkerRunning, WorkerStopping)  # what is to be told at once, and not at the next look


class Systemd:
    """Where it listens. ``watchdog_seconds``: within which it wants a sign of life; 0: it wants none, or another process's."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment)
        self.watchdog_seconds = _watchdog_seconds(environment)

    @property
    def listens(self) -> bool:
        return self._address is not None

    def tell(self, *lines: str) -> None:
        """One message. From any thread."""
        if self._address is None or not lines:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0)  # a reader that is stuck must not hold up the watch on the loop
            sender.sendto("\n".join(lines).encode(), self._address)


class Notifier:
    """Speaks for one worker. ``look`` is called several times a second from a thread that no handler can block; as an
    observer of events it looks at once when the worker runs or stops. Any thread may call either."""

    def __init__(
        self,
        status: Status,
        environment: Mapping[str, str] = os.environ,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._systemd = Systemd(environment)
        self._every = self._systemd.watchdog_seconds / 2  # as sd_watchdog_enabled(3) advises
        self._clock = clock
        self._lock = threading.Lock()
        self._ready = self._stopping = False
        self._said = ""
        self._next_sign = clock()

    def __call__(self, event: Event) -> None:
        if isinstance(event, _TURNS):
            self.look()

    def look(self) -> None:
        """Tell what has changed, and give a sign of life when one is due."""
        if self._systemd.listens:
            with self._lock:
                self._systemd.tell(*self._news(self._clock()))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """While entered, the configuration is being reloaded; afterwards the service is ready, whether or not it took."""
        self._systemd.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._systemd.tell("READY=1")

    def _news(self, now: float) -> Iterator[str]:
        if not self._ready and health.startup(self._status, now).ok:
            self._ready = True
            yield "READY=1"
        if not self._stopping and self._status.state is WorkerState.STOPPING:
            self._stopping = True
            yield "STOPPING=1"
        ready = health.ready(self._status, now)
        said = ", ".join([ready.state, *(reason.code for reason in ready.reasons)])
        if said != self._said:
            self._said = said
            yield f"STATUS={said}"
        if self._every and now >= self._next_sign and health.live(self._status, now).ok:
            self._next_sign = now + self._every
            yield "WATCHDOG=1"


def _address(environment: Mapping[str, str]) -> str | None:
    """Where to send; a leading ``@`` is how an abstract socket is written."""
    said = environment.get("NOTIFY_SOCKET", "")
    return f"\0{said[1:]}" if said.startswith("@") else said if said.startswith("/") else None


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Within which a sign of life is due; 0: none is wanted, or of another process than this."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    said = environment.get("WATCHDOG_USEC", "")
    return int(said) / 1_000_000 if said.isdecimal() else 0.0
