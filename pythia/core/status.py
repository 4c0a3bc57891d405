"""What a worker knows about itself, for whoever asks: probes, metrics, the admin routes, a signal.

Written on the event loop's thread (``blocked`` by the watchdog's), read from any: every field is one reference, so that a
reader sees an old value or a new one, never half of one. It holds facts; what they mean for a probe is decided elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pythia.broker import Capabilities
from pythia.config import WorkerConfig
from pythia.core.metrics import Metrics
from pythia.core.state import WorkerState
from pythia.core.tally import Tally


@dataclass(frozen=True, slots=True)
class Running:
    """A delivery whose handler is running."""

    message_id: str
    queue: str
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Blocked:
    """The event loop does not turn."""

    seconds: float
    where: str  # "file.py:12 in process_message"
    message_id: str | None
    queue: str | None


@dataclass(frozen=True, slots=True)
class Check:
    """The last answer of a health check. ``at`` is seconds since the epoch."""

    name: str
    ok: bool
    at: float
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Connection:
    """How we stand with the broker. ``since``: epoch seconds of the last change."""

    connected: bool
    since: float
    error: str | None = None


class Status:
    """The facts of one worker in one process."""

    def __init__(self, config: WorkerConfig, tally: Tally, metrics: Metrics) -> None:
        self.config = config
        self.tally = tally
        self.metrics = metrics
        self.pid = os.getpid()
        self.state = WorkerState.INITIALIZING
        self.paused = False
        self.started_up = False  # on_startup completed
        self.waiting_for_broker = False  # at start
        self.running_since: float | None = None  # monotonic, of reaching STARTING
        self.connection = Connection(connected=False, since=time.time())
        self.capabilities: Capabilities | None = None  # known once connected
        self.broker_stats: Callable[[], Mapping[str, Any]] = dict
        self.broker_blocked: str | None = None  # why the server takes nothing from us just now
        self.heartbeat = time.monotonic()  # last turn of the loop
        self.loop_lag = 0.0  # seconds, of the last turn
        self.blocked: Blocked | None = None
        self.check: Check | None = None
        self.failure: str | None = None  # one sentence, once fatally failed
        self.settling_refused = False  # the store is full: held, asked again
        self.running: Callable[[], Sequence[Running]] = tuple

    @property
    def uptime_seconds(self) -> float:
        return 0.0 if self.running_since is None else time.monotonic() - self.running_since
