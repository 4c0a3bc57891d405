"""The core's own counters: plain numbers on the hot path, rendered by an observer when somebody scrapes.

Written by the event loop's thread alone; any thread may read. I7, conservation: received = the sum of all outcomes + lost +
in flight, for each queue; ``residual`` is the difference and must be 0.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Collection, Sequence

from pythia.broker import Kind, QueueDepth
from pythia.core.probation import Share

PROCESSING_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
KINDS: tuple[Kind, ...] = ("ack", "retry", "defer", "release", "dead_letter", "drop")


class Histogram:
    """Counts per bucket (not cumulative), the last for +Inf, and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class QueueTally:
    """What happened on one queue since the process began."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.consumed = True  # False: a reload took it away; what was counted stays
        self.received = 0
        self.outcomes: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.lost = 0
        self.in_flight = 0  # handed to us and not settled: running, waiting for a lane, or being settled
        self.buffered = 0  # of those, waiting for a lane
        self.stale = 0
        self.leases_lost = 0
        self.dead_reasons: dict[str, int] = {}
        self.processing = Histogram(PROCESSING_BUCKETS)
        self.wait = Histogram(WAIT_BUCKETS)
        self.registered = False
        self.unregistered_since: float | None = None  # epoch; None while registered or before the first try
        self.unregistered_why = ""
        self.last_delivery_at: float | None = None
        self.depth: QueueDepth | None = None  # the last one asked for; None: never, or the broker is out of reach

    @property
    def residual(self) -> int:
        return self.received - sum(self.outcomes.values()) - self.lost - self.in_flight


MOST_DESTINATIONS, OTHER = 200, "other"


class Tally:
    """What happened in this worker since the process began."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueTally] = {}
        self.published: dict[tuple[str, str], int] = {}  # (destination, confirmed | refused | unknown)
        self._destinations: set[str] = set()
        self.reconnects = 0
        self.drained: dict[str, int] = {"finished": 0, "released": 0, "abandoned": 0}
        self.generation = 1
        self.config_loaded_at = time.time()
        self.reloads: dict[str, int] = {"applied": 0, "refused": 0, "rolled_back": 0}
        self.last_reload: tuple[float, str, str | None] | None = None  # (epoch, result, detail)
        self.last_reload_ok_at: float = self.config_loaded_at
        self.user_errors = 0  # _handle_error calls

    def queue(self, name: str) -> QueueTally:
        tally = self.queues.get(name)
        if tally is None:
            tally = self.queues[name] = QueueTally(name)
        return tally

    def consumes(self, queues: Collection[str]) -> None:
        """These are consumed from now on, and no others."""
        for queue in queues:
            self.queue(queue).consumed = True
        for tally in self.queues.values():
            if tally.queue not in queues:
                tally.consumed, tally.depth = False, None

    def applied(self) -> None:
        """A configuration took effect: the next generation."""
        self.generation += 1
        self.config_loaded_at = time.time()
        self.confirmed()

    def confirmed(self) -> None:
        """A reload was carried out; the generation is what it is."""
        self.reloads["applied"] += 1
        self.last_reload_ok_at = time.time()
        self.last_reload = (self.last_reload_ok_at, "applied", None)

    def rolled_back(self, why: str) -> None:
        """The configuration before took effect again: a generation, too."""
        self.generation += 1
        self.reloads["rolled_back"] += 1
        self.config_loaded_at = time.time()
        self.last_reload = (self.config_loaded_at, "rolled_back", why)

    def refused(self, why: str) -> None:
        """A configuration was refused; the generation stays."""
        self.reloads["refused"] += 1
        self.last_reload = (time.time(), "refused", why)

    def count_published(self, destination: str, result: str, count: int = 1) -> None:
        """Of more than ``MOST_DESTINATIONS`` the rest are one: a reply goes wherever a message asks for it."""
        if destination not in self._destinations:
            if len(self._destinations) < MOST_DESTINATIONS:
                self._destinations.add(destination)
            else:
                destination = OTHER
        key = (destination, result)
        self.published[key] = self.published.get(key, 0) + count

    def share(self) -> Share:
        """Of all messages that ended since the process began, how many failed."""
        ended = failed = 0
        for queue in list(self.queues.values()):
            counts = queue.outcomes
            failed += counts["retry"] + counts["dead_letter"]
            ended += counts["retry"] + counts["dead_letter"] + counts["ack"] + counts["drop"]
        return Share(ended, failed)

    def outcomes(self) -> dict[str, int]:
        """The sums over every queue, keyed as in ``/health``'s ``messages``."""
        queues = list(self.queues.values())
        sums: dict[str, int] = {"received": sum(q.received for q in queues)}
        for kind in KINDS:
            sums[kind] = sum(q.outcomes[kind] for q in queues)
        sums["lost"] = sum(q.lost for q in queues)
        sums["in_flight"] = sum(q.in_flight for q in queues)
        sums["residual"] = sum(q.residual for q in queues)
        return sums
