"""The worker that is run where the user names none: it proves the broker and this machine."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pythia.core.retry import RetryPolicy
from pythia.core.worker import Worker
from pythia.errors import Reject
from pythia.message import Message

WORK_SECONDS = 0.002
FAILS_ONE_IN, REJECTS_ONE_IN = 50, 500


class VerifyWorker(Worker):
    """Works for two milliseconds; one message in 50 fails once, one in 500 is rejected. ``{"block": s}`` stops the event loop."""

    concurrency = 16
    retry = RetryPolicy(base_seconds=0.5, factor=1.0)

    async def process_message(self, message: Message[Any]) -> None:
        if "block" in message.body:
            if not message.redelivered:  # one fault is one: who takes it over does not block again
                time.sleep(message.body["block"])  # noqa: ASYNC251 - that is the fault
            return
        number = message.body["n"]
        await asyncio.sleep(WORK_SECONDS)
        if number % FAILS_ONE_IN == 7 and message.attempt == 1:
            raise LookupError("not yet")
        if number % REJECTS_ONE_IN == 499:
            raise Reject("never")
