"""What looks after a running worker: the loop's heartbeat, the user's health check, the depth of the queues."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pythia.core.events import HealthFailed, HealthRecovered
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
    while True:
        before = status.heartbeat = time.monotonic()
        await asyncio.sleep(BEAT_SECONDS)
        status.loop_lag = max(0.0, time.monotonic() - before - BEAT_SECONDS)
        status.settling_refused = life.engine is not None and life.engine.refused
        if before - told > TELL_SECONDS:
            told = before
            life.on_second()


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
