"""Messages that are not due yet: a sorted set beside the queue, and the duty that brings them back."""

from __future__ import annotations

from pythia.brokers.redis import keys
from pythia.brokers.redis.keeper import LONGEST_NAP_SECONDS, Pace
from pythia.brokers.redis.script import script
from pythia.brokers.redis.settings import Mode
from pythia.brokers.redis.thread_link import ThreadLink

_MOST_AT_ONCE = 100  # what the script moves
_MOVE = script("delayed_move", "clock")


class Mover:
    """Brings due messages of one queue back; every consuming process does, and none is moved twice."""

    def __init__(self, queue: str, mode: Mode) -> None:
        self._command = _MOVE([keys.delayed(queue), queue], mode)
        self._pace = Pace(LONGEST_NAP_SECONDS, at_once=True)

    def step(self, link: ThreadLink) -> float:
        """Move what is due; again at once while there is more than a script moves."""
        if (left := self._pace.left) > 0:
            return left
        moved, next_ms = link.call(*self._command)
        if moved == _MOST_AT_ONCE:
            nap = 0.0
        else:
            nap = LONGEST_NAP_SECONDS if next_ms < 0 else min(LONGEST_NAP_SECONDS, next_ms / 1000)
        self._pace.done(nap)
        return nap
