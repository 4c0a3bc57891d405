"""One message at a time within an ordering key, in one worker; keys run in parallel, and a failing key does not overtake itself.

Needed where the broker does not keep the order by itself, or where the worker computes keys of its own. A message whose key
is taken is parked, without a lane. Once one of a key has failed, the key has a line: the failed one first, then all that
came meanwhile, in the order in which they came. Whoever is not at its head is deferred, uncounted, and comes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pythia.core.held import Held
from pythia.core.outcome import Outcome
from pythia.message import Message

KeyOf = Callable[[Message[Any]], str | None]
BEHIND_SECONDS = 0.02  # between one that waits and the next
PATIENCE_SECONDS = 1.0
MISSING_SECONDS = 10.0  # a head that is not back so long after its time was taken by another worker


@dataclass(slots=True)
class Key:
    """One key that has somebody at work, or a line. Times are monotonic."""

    taken: Held | None = None
    parked: deque[Held] = field(default_factory=deque)
    line: list[str] = field(default_factory=list)  # message ids, the one that goes next first
    due: float = 0.0  # when the head of the line comes back

    @property
    def idle(self) -> bool:
        return self.taken is None and not self.parked and not self.line


class Keys:
    """The ordering keys of one worker. ``key_of`` None: the broker keeps the order, everything may go."""

    def __init__(self, key_of: KeyOf | None) -> None:
        self._key_of = key_of
        self._keys: dict[str, Key] = {}
        self._of: dict[int, str] = {}  # id() of a held that has its turn, or is parked → its key
        self.on_unparked: Callable[[Held], None] = lambda _held: None  # it was settled or lost while it was parked

    def may_go(self, held: Held) -> bool:
        """Whether it is this delivery's turn. If not, it is parked, or settled: deferred behind those before it."""
        if self._key_of is None or held.message is None or (name := self._key_of(held.message)) is None:
            return True
        key = self._keys.setdefault(name, Key())
        if key.taken is not None:
            key.parked.append(held)
            self._of[id(held)] = name
            return False
        if self._must_wait(held, key):
            return False
        key.taken = held
        self._of[id(held)] = name
        return True

    def ended(self, held: Held) -> Held | None:
        """A delivery that had its turn is settled or lost; the next of its key, if one may go now."""
        name = self._of.pop(id(held), None)
        if name is None:
            return None
        key = self._keys[name]
        key.taken = None
        self._record(held, key)
        while key.parked:
            parked = key.parked.popleft()
            del self._of[id(parked)]
            if not self._must_wait(parked, key):
                return parked
            self.on_unparked(parked)
        if key.idle:
            del self._keys[name]
        return None

    def defer_late(self, now: float) -> None:
        """Defer what has been parked for more than a second, so that it holds no slot."""
        for held in self._parked():
            if now - held.arrived > PATIENCE_SECONDS:
                key = self._keys[self._of[id(held)]]
                self.forget(held)
                self._defer(held, key, PATIENCE_SECONDS)

    def release(self, reason: str) -> None:
        """Hand back everything that is parked."""
        for held in self._parked():
            self.forget(held)
            held.settle(Outcome("release", reason))

    def forget(self, held: Held) -> None:
        """A parked delivery leaves the line, to be settled, or because it was lost."""
        name = self._of.get(id(held))
        if name is not None and held in self._keys[name].parked:
            self._keys[name].parked.remove(held)
            del self._of[id(held)]
            self.on_unparked(held)

    def _parked(self) -> list[Held]:
        return [held for key in self._keys.values() for held in key.parked]

    def _record(self, held: Held, key: Key) -> None:
        """What the end of ``held`` means for the line: a failed one is its head, a finished one has left it."""
        message_id, outcome = held.delivery.envelope.id, held.outcome
        if message_id in key.line:
            key.line.remove(message_id)
            key.due = held.shift.clock.monotonic()
        if outcome is not None and outcome.kind in ("retry", "defer"):
            key.line.insert(0, message_id)
            key.due = held.shift.clock.monotonic() + (outcome.delay_seconds or 0.0)

    def _must_wait(self, held: Held, key: Key) -> bool:
        """Whether others of its key go first; then it is deferred, in its place of the line."""
        now, message_id = held.shift.clock.monotonic(), held.delivery.envelope.id
        if key.line and key.line[0] != message_id and now > key.due + MISSING_SECONDS:
            key.line.pop(0)
            key.due = now
        if not key.line or key.line[0] == message_id:
            return False
        self._defer(held, key, max(0.0, key.due - now))
        return True

    def _defer(self, held: Held, key: Key, seconds: float) -> None:
        message_id = held.delivery.envelope.id
        if not key.line:
            key.due = held.shift.clock.monotonic() + seconds
        if message_id not in key.line:
            key.line.append(message_id)
        delay = seconds + key.line.index(message_id) * BEHIND_SECONDS + BEHIND_SECONDS
        held.settle(Outcome("defer", "others of its ordering key go first", delay_seconds=delay))
