"""What systemd is told of the service as a whole, where it asks (``Type=notify``): started, stopping, worth keeping.

The processes' own words would come from others than the one that systemd watches, so they are not given the socket.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pythia.observability.systemd import Systemd
from pythia.supervisor import view
from pythia.supervisor.crew import Crew

_LOOK_SECONDS, _ANSWER_SECONDS = 1.0, 10.0


class Herald:
    """While entered, tells systemd, on a thread of its own; does nothing where ``NOTIFY_SOCKET`` names no socket."""

    def __init__(self, crew: Crew, environment: Mapping[str, str] = os.environ) -> None:
        self._systemd = Systemd(environment)
        self._every = min(_LOOK_SECONDS, self._systemd.watchdog_seconds / 2 or _LOOK_SECONDS)
        self._crew = crew
        self._started = self._stopping = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pythia-systemd", daemon=True)

    def __enter__(self) -> Self:
        if self._systemd.listens:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(self._every):
            with suppress(TimeoutError, CancelledError):  # the loop stands still: then there is no sign of life
                self._tell(self._crew.ask("probes").result(_ANSWER_SECONDS))

    def _tell(self, seen: Any) -> None:
        stopping = self._crew.stopping
        if not self._started and view.probe(seen, "startup", stopping=stopping)["ok"]:
            self._started = True
            self._systemd.tell("READY=1")
        if stopping and not self._stopping:
            self._stopping = True
            self._systemd.tell("STOPPING=1")
        if stopping or view.probe(seen, "live", stopping=stopping)["ok"]:
            self._systemd.tell("WATCHDOG=1")
