"""A worker whose messages say what their handler does: return, fail, run too long, swallow its cancellation, and so on."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from pythia.core.retry import RetryPolicy
from pythia.core.worker import Worker
from pythia.errors import Defer, Drop, Reject, Retry
from pythia.message import Message

MAX_ATTEMPTS = 4
ENDLESS_SECONDS = 60.0

ACTS = {
    "return": 40,
    "fail": 8,
    "retry": 3,
    "defer": 3,
    "reject": 2,
    "drop": 2,
    "ack": 3,
    "ack and fail": 2,
    "nack": 2,
    "overrun": 2,
    "swallow": 2,
    "explode": 2,
    "turn": 8,
}
"""What a handler may do, and how often it does."""


class Explosion(BaseException):
    """Raised where no code expects it."""


class ScriptedWorker(Worker):
    """Does what its messages say, another thing at each run: ``{"acts": [["fail", 0.1], ["return", 0.2]]}``."""

    retry = RetryPolicy(max_attempts=MAX_ATTEMPTS, base_seconds=0.2, cap_seconds=2.0)
    runs: Counter[str]  # of each message, in all processes of the world

    async def process_message(self, message: Message[dict[str, Any]]) -> Any:
        acts = message.body["acts"]
        run, self.runs[message.id] = self.runs[message.id], self.runs[message.id] + 1
        act, seconds = acts[run] if run < len(acts) else ("return", 0.01)
        await _work(act, seconds, message)
        return {"done": message.id}


class KeyedWorker(ScriptedWorker):
    """Computes ordering keys of its own."""

    def ordering_key(self, message: Message[Any]) -> str | None:
        return str(message.body["n"] % 3)


async def _work(act: str, seconds: float, message: Message[Any]) -> None:
    match act:
        case "turn":
            await asyncio.sleep(0)
        case "overrun":
            await asyncio.sleep(ENDLESS_SECONDS)
        case "swallow":
            await _swallow(seconds)
        case "ack" | "ack and fail":
            await message.ack()
        case "nack":
            await message.nack(requeue=True)
    if act != "turn":
        await asyncio.sleep(seconds)
    _end(act, seconds)


def _end(act: str, seconds: float) -> None:
    match act:
        case "fail" | "ack and fail":
            raise RuntimeError("as the script says")
        case "retry":
            raise Retry(after=seconds)
        case "defer":
            raise Defer(seconds)
        case "reject":
            raise Reject("as the script says")
        case "drop":
            raise Drop("as the script says")
        case "explode":
            raise Explosion


async def _swallow(seconds: float) -> None:
    """What a handler should not do: go on when it is cancelled."""
    try:
        await asyncio.sleep(ENDLESS_SECONDS)
    except asyncio.CancelledError:
        await asyncio.sleep(4 * seconds)


def draw_acts(random: Random) -> list[tuple[str, float]]:
    """What the handler of one message does at its runs."""
    if random.random() < 0.04:
        return [("fail", 0.02)] * (3 * MAX_ATTEMPTS)  # poison: it never succeeds
    count = random.choice((1, 1, 1, 2, 3))
    acts = random.choices(tuple(ACTS), tuple(ACTS.values()), k=count)
    return [(act, _duration(random)) for act in acts]


def _duration(random: Random) -> float:
    """Mostly short; a few handlers run longer than a lease."""
    return random.uniform(0.5, 2.9) if random.random() < 0.15 else random.uniform(0.0, 0.3)
