"""What every contestant's handler does, and the names that contestants share. Standard library alone: each contestant has an environment of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

CONCURRENCY = 16
ATTEMPTS = 5  # of a message that fails, where the contestant can bound them
WORK_SECONDS = 0.02
FAILS_ONE_IN = 50

GROUP = "pythia"  # the consumer group of everyone: it is asked in the end what it still holds
DEAD_LETTERS = "peer.dead-letters"  # the exchange for what a quorum queue gives up


async def work(body: Mapping[str, int], *, poison: bool) -> None:
    """Wait for 20 ms. ``poison``: of 50 messages one fails, each time."""
    await asyncio.sleep(WORK_SECONDS)
    if poison and body["n"] % FAILS_ONE_IN == 7:
        raise ValueError("this message always fails")
