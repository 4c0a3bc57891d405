"""What happened in a simulation, told by those who saw it: the producer, the handlers, the broker's side, whoever broke things.

The engine's own counters are no source of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from pythia.errors import Defer, Drop, Reject


class Event(NamedTuple):
    """One line of a history. ``row`` names a stored message, ``fence`` the one of its deliveries that is spoken of."""

    at: float
    verb: str
    process: int = 0  # 0: not a worker's
    id: str = ""
    row: int = 0
    fence: int = 0
    attempt: int = 0
    text: str = ""
    key: str = ""

    def __str__(self) -> str:
        who = f"process {self.process}" if self.process else "-"
        what = f"{self.id}/{self.row}.{self.fence} attempt {self.attempt}" if self.id else ""
        return f"{self.at:10.4f}  {who:<11} {self.verb:<9} {what:<30} {self.text} {self.key}".rstrip()


class History:
    """The lines of one simulated world, in order; a closed one takes no more."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def note(self, event: Event) -> None:
        if not self.closed:
            self.events.append(event)

    def digest(self) -> str:
        """The same for the same events, in every process."""
        return digest_of(str(event) for event in self.events)


def ending_of(error: BaseException) -> str:
    """How a handler ended that raised ``error``, in a word."""
    match error:
        case Reject():
            return "rejected"
        case Drop():
            return "dropped"
        case Defer():
            return "deferred"
        case asyncio.CancelledError():
            return "interrupted"
        case _:
            return "failed"


def digest_of(lines: Iterable[str]) -> str:
    """A short name of these lines, in this order."""
    digest = blake2b(digest_size=12)
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
