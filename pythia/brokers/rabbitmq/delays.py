"""Delays that wait in the broker: 24 shared objects per virtual host, whatever the delays and however many the queues.

Nine levels, each a topic exchange and a queue whose messages live 250 ms × 2ⁿ and are then dead-lettered to the level
below. A message enters with its delay, in units of 250 ms, as a routing key of nine binary digits; each exchange looks at its
own digit, and lets the message wait at its level or passes it down. The last hop is a headers exchange that knows queues by
name. A delay beyond the levels' reach waits in one of three coarse queues first, and comes back early, with the moment at
which it is due in a header: whoever receives it passes it on.

A queue with a time limit for all its messages is exact; a limit per message would wait for the message at the head. One
queue per delay would be unbounded, and a queue that expires takes its messages with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNIT_SECONDS = 0.25
LEVELS = 9
REACH_SECONDS = UNIT_SECONDS * ((1 << LEVELS) - 1)
COARSE_SECONDS = (7680, 960, 120)  # the least is within the reach of the levels

RETURN = "pythia.return"
UNROUTED = "pythia.unrouted"


@dataclass(frozen=True, slots=True)
class Route:
    """Where to publish a message that is to wait."""

    exchange: str
    routing_key: str


def level(number: int) -> str:
    """The name of a level's exchange and of its queue."""
    return f"pythia.delay.{number:02d}"


def coarse(seconds: int) -> str:
    """The name of a coarse queue."""
    return f"pythia.delay.{seconds}s"


def route(delay: float) -> Route:
    """Where a message waits for ``delay`` seconds, rounded up to the unit; beyond the levels' reach, for the first part of it."""
    if delay > REACH_SECONDS:
        return Route("", coarse(next(seconds for seconds in COARSE_SECONDS if seconds <= delay)))
    units = max(1, math.ceil(delay / UNIT_SECONDS - 1e-9))
    digits = ".".join(f"{units:0{LEVELS}b}")
    return Route(level(units.bit_length() - 1), digits)


def binding(number: int, digit: str) -> str:
    """The pattern that matches keys with ``digit`` at a level."""
    words = ["*"] * LEVELS
    words[LEVELS - 1 - number] = digit
    return ".".join(words)


def below(number: int) -> str:
    """The exchange that a message goes to when it is done with a level."""
    return RETURN if number == 0 else level(number - 1)


def queue_arguments(seconds: float, then: str, *, quorum: bool) -> Mapping[str, Any]:
    """What a queue of ours is declared with: messages live so long and go ``then`` to that exchange, none is dropped."""
    arguments = {"x-message-ttl": round(seconds * 1000), "x-dead-letter-exchange": then}
    if not quorum:
        return arguments | {"x-queue-type": "classic"}
    return arguments | {
        "x-queue-type": "quorum",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def every_queue(*, quorum: bool) -> Mapping[str, Mapping[str, Any]]:
    """The name and the arguments of every queue that messages wait in."""
    levels = {level(n): queue_arguments(UNIT_SECONDS * (1 << n), below(n), quorum=quorum) for n in range(LEVELS)}
    return levels | {coarse(seconds): queue_arguments(seconds, RETURN, quorum=quorum) for seconds in COARSE_SECONDS}
