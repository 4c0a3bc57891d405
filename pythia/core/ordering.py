"""One message at a time within an ordering key, in one worker; keys run in parallel, and a failing key does not overtake itself.

Needed where the broker does not keep the order by itself, or where the worker computes keys of its own. A message whose key
is taken is parked, without a lane. Once one of a key has failed, the key has a line: the failed one first, then all that
came meanwhile, in the order in which they came. Whoever is not at its head is deferred, uncounted, and comes back.

Another worker on the same queue may be given one that waits in our line, and finish it: it then does not come back to us. A
queue is served in order, so when one of the line is back, those before it that were due well before are gone that way. Then
no line is kept for a minute: two workers that wait for what the other one has would get nowhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from pythia.core.held import Held
from pythia.core.outcome import Outcome
from pythia.message import Message

KeyOf = Callable[[Message[Any]], str | None]
key_of_producer: KeyOf = attrgetter("_delivery.envelope.ordering_key")  # asked for every message
BEHIND_SECONDS = 0.02  # between one that waits and the next
PATIENCE_SECONDS = 1.0
AGAIN_SECONDS = 0.25  # until one that is back before its turn is asked again
GONE_SECONDS = 1.0  # one that is not back so long after its time, while a later one is, was taken by another worker
MISSING_SECONDS = 10.0  # and after so long though none is back
SHARED_SECONDS = 60.0  # so long after that nobody waits for anybody: no worker alone can keep an order


@dataclass(slots=True)
class Key:
    """One key that has somebody at work, or a line. Times are monotonic."""

    taken: Held | None = None
    parked: deque[Held] = field(default_factory=deque)
    line: dict[str, float] = field(
        default_factory=dict
    )  # message id → when it comes back; the one that goes next first

    @property
    def idle(self) -> bool:
        return self.taken is None and not self.parked and not self.line


class Keys:
    """The ordering keys of one worker. ``key_of`` None: the broker keeps the order, everything may go."""

    def __init__(self, key_of: KeyOf | None) -> None:
        self._key_of = key_of
        self._keys: dict[str, Key] = {}
        self._shared_until = 0.0
        self.turns: dict[int, str] = {}  # id() of a held that has its turn, or is parked → its key
        self.on_unparked: Callable[[Held], None] = lambda _held: None  # it was settled or lost while it was parked

    def follow(self, key_of: KeyOf | None) -> None:
        """Keys of another broker: what is at work, or waits, ends as it began."""
        self._key_of = key_of

    def may_go(self, held: Held) -> bool:
        """Whether it is this delivery's turn. If not, it is parked, or settled: deferred behind those before it."""
        if self._key_of is None or held.message is None or (name := self._key_of(held.message)) is None:
            return True
        key = self._keys.setdefault(name, Key())
        if key.taken is not None:
            key.parked.append(held)
            self.turns[id(held)] = name
            return False
        if self._must_wait(held, key):
            return False
        key.taken = held
        self.turns[id(held)] = name
        return True

    def ended(self, held: Held) -> Held | None:
        """A delivery that had its turn is settled or lost; the next of its key, if one may go now."""
        name = self.turns.pop(id(held), None)
        if name is None:
            return None
        key = self._keys[name]
        key.taken = None
        self._record(held, key)
        while key.parked:
            parked = key.parked.popleft()
            del self.turns[id(parked)]
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
                key = self._keys[self.turns[id(held)]]
                self.forget(held)
                self._defer(held, key, PATIENCE_SECONDS)

    def release(self, reason: str) -> None:
        """Hand back everything that is parked."""
        for held in self._parked():
            self.forget(held)
            held.settle(Outcome("release", reason))

    def forget(self, held: Held) -> None:
        """A parked delivery leaves the line, to be settled, or because it was lost."""
        name = self.turns.get(id(held))
        if name is not None and held in self._keys[name].parked:
            self._keys[name].parked.remove(held)
            del self.turns[id(held)]
            self.on_unparked(held)

    def _parked(self) -> list[Held]:
        return [held for key in self._keys.values() for held in key.parked]

    def _record(self, held: Held, key: Key) -> None:
        """What the end of ``held`` means for the line: a failed one is its head, a finished one has left it."""
        message_id, outcome = held.delivery.envelope.id, held.outcome
        key.line.pop(message_id, None)
        if outcome is not None and outcome.kind in ("retry", "defer"):
            due = held.shift.clock.monotonic() + (outcome.delay_seconds or 0.0)
            key.line = {message_id: due, **key.line}

    def _must_wait(self, held: Held, key: Key) -> bool:
        """Whether others of its key go first; then it is deferred, in its place of the line."""
        message_id = held.delivery.envelope.id
        now = held.shift.clock.monotonic()
        self._forget_what_is_gone(message_id, key, now)
        if now < self._shared_until:
            key.line.clear()
        if not key.line or next(iter(key.line)) == message_id:
            return False
        self._defer(held, key, 0.0)
        return True

    def _forget_what_is_gone(self, back: str, key: Key, now: float) -> None:
        """Take those off the line that another worker must have been given, now that ``back`` is here."""
        for message_id, due in list(key.line.items()):
            if message_id == back:
                break
            if now - due > (GONE_SECONDS if back in key.line else MISSING_SECONDS):
                del key.line[message_id]
                self._shared_until = now + SHARED_SECONDS

    def _defer(self, held: Held, key: Key, seconds: float) -> None:
        """Send it back behind those before it: just after the last of them is due, and not to be asked again at once."""
        now, message_id = held.shift.clock.monotonic(), held.delivery.envelope.id
        before = 0.0
        for waiting, due in key.line.items():
            if waiting == message_id:
                break
            before = max(before, due - now + BEHIND_SECONDS)
        delay = max(before, seconds, AGAIN_SECONDS if message_id in key.line else BEHIND_SECONDS)
        key.line[message_id] = now + delay
        held.settle(Outcome("defer", "others of its ordering key go first", delay_seconds=delay))
