"""What one consumer holds: shared between its event loop, which takes and settles, and the keeper's thread, which renews."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pythia.broker import ConsumeOptions, Settlement
from pythia.brokers.redis.fields import Fields
from pythia.message import Delivery

T = TypeVar("T", bound=Hashable)

LOST = "another consumer has it: the lease was not renewed in time"
HELD_TOO_LONG = "it was held for longer than its handler may take"
AGAIN = "the queue was made anew, and handed it out again"


@dataclass(slots=True, eq=False)
class Held(Generic[T]):
    """One delivery of ours. ``token`` is its fence; ``fields`` are what Redis had, for the copy of a retry."""

    token: T
    delivery: Delivery
    fields: Fields
    since: float = field(default_factory=time.monotonic)
    settling: bool = False  # its settlement is under way: nobody else may judge it
    vanished: bool = False  # somebody deleted it from the server


class Holder(Generic[T]):
    """From receipt to settlement. Every method may be called from any thread."""

    def __init__(self, options: ConsumeOptions) -> None:
        self.options = options
        self.on_room: Callable[[], None] = lambda: None
        self.lost_ever = 0
        self._held: dict[int, Held[T]] = {}  # by id() of the delivery
        self._tokens: dict[T, Held[T]] = {}
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """How many more may be held."""
        return self.options.prefetch - len(self._held)

    def take(self, taken: Sequence[Held[T]]) -> None:
        """Account for new deliveries; where one with the same token is still held, that one is lost."""
        with self._lock:
            twice = [self._tokens[held.token] for held in taken if held.token in self._tokens]
        self.lose(twice, AGAIN)
        with self._lock:
            for held in taken:
                self._held[id(held.delivery)] = self._tokens[held.token] = held

    def too_long(self) -> list[Held[T]]:
        """What is held for longer than its handler may take."""
        longest = self.options.max_hold
        if longest is None:
            return []
        now = time.monotonic()
        return [held for held in self.all() if now - held.since > longest and not held.settling]

    def begin(self, batch: Sequence[Settlement]) -> list[Held[T] | None]:
        """What is to be settled; None where the delivery is not ours (any more), or was named before."""
        with self._lock:
            return [self._begin(settlement.delivery) for settlement in batch]

    def _begin(self, delivery: Delivery) -> Held[T] | None:
        held = self._held.get(id(delivery))
        if held is None or held.delivery is not delivery or held.settling:
            return None
        held.settling = True
        return held

    def end(self, settled: Iterable[Held[T]], kept: Iterable[Held[T]] = ()) -> None:
        """Forget what was settled; what was refused is still held."""
        with self._lock:
            for held in settled:
                self._forget(held)
            for held in kept:
                held.settling = False
        self.on_room()

    def lose(self, lost: Sequence[Held[T]], reason: str) -> None:
        """Forget what is no longer ours and tell its owner; what is being settled just now is left to that."""
        with self._lock:
            gone = [held for held in lost if not held.settling and self._forget(held)]
        if not gone:
            return
        self.lost_ever += len(gone)
        self.on_room()
        with contextlib.suppress(RuntimeError):  # its event loop is closed: nobody is left to tell
            self.options.on_lost(tuple(held.delivery for held in gone), reason)

    def _forget(self, held: Held[T]) -> bool:
        if self._tokens.get(held.token) is held:
            del self._tokens[held.token]
        return self._held.pop(id(held.delivery), None) is not None

    def all(self) -> list[Held[T]]:
        with self._lock:
            return list(self._held.values())

    def clear(self) -> None:
        """Forget everything: it was given back, or went with the connection."""
        with self._lock:
            self._held.clear()
            self._tokens.clear()
        self.on_room()
