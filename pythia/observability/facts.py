"""What a ``Status`` says, read from a thread that is not the event loop's, while the loop goes on or stands still.

Nothing here waits for the loop. What the loop changes while it is read is read again; what cannot be read is missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from pythia.config.urls import redact_url
from pythia.core.status import Running, Status
from pythia.core.tally import QueueTally

BLOCKED_AFTER_SECONDS = 1.0  # the loop turns about ten times a second
_READS = 5

T = TypeVar("T")


def version() -> str:
    """Pythia's own; the package root is there whenever a module of it is."""
    return str(vars(sys.modules["pythia"])["__version__"])


def broker_url(status: Status) -> str:
    """The broker's URL without its password."""
    return redact_url(status.config.broker.url.get_secret_value())


def broker_kind(status: Status) -> str:
    """``sqlite``, ``rabbitmq``, ``redis-stream`` …; by the URL until the broker was reached."""
    if status.capabilities is not None:
        return status.capabilities.name
    scheme, _, rest = broker_url(status).partition("://")
    match scheme:
        case "amqp" | "amqps":
            return "rabbitmq"
        case "redis" | "rediss":
            return f"redis-{parse_qs(urlsplit(f'//{rest}').query).get('mode', ['stream'])[0]}"
    return scheme


def broker_stats(status: Status) -> Mapping[str, Any]:
    """The adapter's counters; {} when they cannot be had."""
    return _steady(status.broker_stats, {})


def running(status: Status) -> Sequence[Running]:
    """The deliveries whose handlers run; () when they cannot be had."""
    return _steady(status.running, ())


def messages(status: Status) -> dict[str, int]:
    """The sums over every queue; read again while the loop is between two of its counters."""
    return _settled(status.tally.outcomes, lambda sums: sums["residual"] == 0)


def residual(queue: QueueTally) -> int:
    """I7 of one queue: 0, but for a defect; read again while the loop is between two of its counters."""
    return _settled(lambda: queue.residual, lambda value: value == 0)


def standstill(status: Status, now: float) -> float | None:
    """Seconds for which the loop has not turned, None while it turns. ``now`` is monotonic."""
    seconds = now - status.heartbeat
    return seconds if seconds >= BLOCKED_AFTER_SECONDS else None


def _steady(read: Callable[[], T], otherwise: T) -> T:
    for _ in range(_READS):
        with suppress(RuntimeError):  # a dict or a list that the loop changed while it was read
            return read()
    return otherwise


def _settled(read: Callable[[], T], done: Callable[[T], bool]) -> T:
    value = read()
    for _ in range(_READS - 1):
        if done(value):
            break
        time.sleep(0.0005)  # on the reader's thread: lets the loop finish its step
        value = read()
    return value
