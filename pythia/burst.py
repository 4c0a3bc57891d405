"""``--burst``: a worker that ends when nothing is ready and nothing runs; delayed retries are named, not waited for."""

from __future__ import annotations

import asyncio

from pythia.core.events import Notice
from pythia.core.life import Life
from pythia.errors import BrokerError

LOOK_SECONDS = 0.1


async def watch_burst(life: Life) -> None:
    """Ask the worker to stop once it is idle and its queues have nothing ready, twice in a row."""
    quiet, received = 0, -1
    while quiet < 2:
        await asyncio.sleep(LOOK_SECONDS)
        now_received = life.tally.outcomes()["received"]
        idle = life.engine is not None and life.engine.holding == 0 and now_received == received
        received = now_received
        quiet = quiet + 1 if idle and await _nothing_ready(life) else 0
    delayed = sum([await _delayed(life, queue) for queue in life.worker.config.queue_names])
    if delayed:
        life.emit(Notice(detail=f"burst: done; {delayed} delayed messages were not waited for"))
    life.request_stop("burst")


async def _nothing_ready(life: Life) -> bool:
    if life.shift is None:
        return False
    try:
        depths = [await life.shift.broker.depth(queue) for queue in life.worker.config.queue_names]
    except BrokerError:
        return False
    return all(not depth.ready for depth in depths)


async def _delayed(life: Life, queue: str) -> int:
    if life.shift is None:
        return 0
    try:
        return (await life.shift.broker.depth(queue)).delayed or 0
    except BrokerError:
        return 0
