"""What looks after a running worker: the loop's heartbeat, the user's health check, the depth of the queues."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pythia.core.events import BrokerBlocked, BrokerUnblocked, HealthFailed, HealthRecovered
from pythia.core.status import Check
from pythia.errors import BrokerError

if TYPE_CHECKING:
    from pythia.core.life import Life

BEAT_SECONDS = 0.1
TELL_SECONDS = 1.0
OFF_SECONDS = 5.0  # how often a switched-off measurement looks whether it was switched on


async def pulse(life: Life) -> None:
    """Beat, for ever: whoever watches from outside sees a blocked loop by a heartbeat that grows old."""
    status, told = life.status, time.monotonic()
    blocking = Blocking(life)
    while True:
        before = status.heartbeat = time.monotonic()
        await asyncio.sleep(life.beat_seconds)
        status.loop_lag = max(0.0, time.monotonic() - before - life.beat_seconds)
        status.settling_refused = life.engine is not None and life.engine.refused
        blocking.look()
        if before - told > TELL_SECONDS:
            told = before
            life.reloader.probation.look()
            life.on_second()


class Blocking:
    """Whether the broker takes anything from us (RabbitMQ's memory and disk alarms); each change is one event."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._since = 0.0  # monotonic
        life.status.broker_blocked = None  # what an earlier run saw is over

    def look(self) -> None:
        """Ask the adapter, which knows without asking the server, and tell a change."""
        status, now = self._life.status, time.monotonic()
        before, why = status.broker_blocked, status.broker_stats().get("blocked")
        status.broker_blocked = why
        url = status.config.broker.display_url
        if why is not None and before is None:
            self._since = now
            self._life.emit(BrokerBlocked(url=url, error=why))
        elif why is None and before is not None:
            self._life.emit(BrokerUnblocked(url=url, downtime_seconds=round(now - self._since, 3)))


async def check_health(life: Life) -> None:
    """Ask the worker's ``health_check`` every ``health_check_interval`` seconds: false, raising or late is a no."""
    while True:
        await asyncio.sleep(life.worker.config.health_check_interval)
        before = life.status.check
        check, error = await _ask(life)
        life.status.check = check
        if not check.ok and (before is None or before.ok):
            life.emit(HealthFailed(seconds=check.seconds, error=error))
        elif check.ok and before is not None and not before.ok:
            life.emit(HealthRecovered(seconds=check.seconds))


async def _ask(life: Life) -> tuple[Check, BaseException | None]:
    began, error, ok = time.monotonic(), None, False
    try:
        async with asyncio.timeout(life.worker.config.health_check_interval):
            ok = bool(await life.worker.health_check())
    except Exception as raised:  # noqa: BLE001 - the user's check may raise anything; that is its no
        error = raised
    seconds = round(time.monotonic() - began, 6)
    text = None if error is None else f"{type(error).__name__}: {error}"
    return Check("health_check", ok, time.time(), seconds, text), error


async def measure_depth(life: Life) -> None:
    """Ask the broker how much its queues hold, every ``metrics.queue_depth_interval_seconds``; unknown while it is away."""
    while True:
        interval = life.worker.config.metrics.queue_depth_interval_seconds
        if interval and life.shift is not None:
            for queue in life.worker.config.queue_names:
                tally = life.tally.queue(queue)
                try:
                    tally.depth = await life.shift.broker.depth(queue)
                except BrokerError:
                    tally.depth = None
        await asyncio.sleep(interval or OFF_SECONDS)
