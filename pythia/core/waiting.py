"""Waiting for whichever of several things comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def first(*waits: Callable[[], Coroutine[Any, Any, Any]], within: float | None = None) -> bool:
    """Until the first of them is over; False when none was ``within`` so many seconds. The others are cancelled."""
    tasks = [asyncio.create_task(wait(), name="waiting for the first") for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done)
