"""What one consumer holds, as the writer thread keeps account of it; touched by that thread alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pythia.broker import ConsumeOptions
from pythia.brokers.sqlite.store import Store, Token
from pythia.message import Delivery

RENEWALS_PER_LEASE = 3
_RETRIES_PER_LEASE = 30

LOST = "another consumer has it: the lease was not renewed in time"
HELD_TOO_LONG = "it was held for longer than its handler may take"


@dataclass(slots=True)
class Renewal:
    """What a renewal found: leases that last longer now, and deliveries that are no longer ours, with why."""

    renewed: int
    lost: list[tuple[Token, str]]


@dataclass(slots=True, eq=False)
class Holder:
    """One consumer's deliveries from receipt to settlement, and when its leases want renewing."""

    owner: int
    queue: str
    options: ConsumeOptions
    renew_at: float
    late: bool = False  # a renewal failed: in the file the leases may have run out
    held: dict[int, tuple[Delivery, float]] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """How many more deliveries may be held."""
        return self.options.prefetch - len(self.held)

    def take(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Account for deliveries claimed at ``now``; where one of the same row is still held, that one is lost."""
        self._lose([self.held[d.token[0]][0].token for d in deliveries if d.token[0] in self.held], HELD_TOO_LONG)
        self.held.update((delivery.token[0], (delivery, now)) for delivery in deliveries)

    def drop(self, tokens: Iterable[Token]) -> None:
        """Forget deliveries that were settled or given back."""
        for token in tokens:
            if token[0] in self.held and self.held[token[0]][0].token == token:
                del self.held[token[0]]

    def renew(self, store: Store) -> Renewal:
        """Renew what is not held too long, give back what is. In a transaction; ``renewed`` accounts for it afterwards."""
        lease, now = self.options.lease, store.clock.boottime()
        longest = math.inf if self.options.max_hold is None else self.options.max_hold
        fresh = [delivery.token for delivery, since in self.held.values() if now - since <= longest]
        stale = [delivery.token for delivery, since in self.held.values() if now - since > longest + lease]
        store.beat(self.owner, self.queue, self.options.consumer, lease)
        lost = store.renew(fresh, lease)
        store.release(stale)
        return Renewal(len(fresh) - len(lost), [(t, LOST) for t in lost] + [(t, HELD_TOO_LONG) for t in stale])

    def renewed(self, renewal: Renewal, now: float) -> None:
        """Account for a renewal that was committed, and tell the owner what was lost."""
        self.renew_at, self.late = now + self.options.lease / RENEWALS_PER_LEASE, False
        for reason in (LOST, HELD_TOO_LONG):
            tokens = [token for token, why in renewal.lost if why == reason]
            self._lose(tokens, reason)

    def not_renewed(self, now: float) -> None:
        """Try again soon: the file could not be written."""
        self.renew_at, self.late = now + self.options.lease / _RETRIES_PER_LEASE, True

    def _lose(self, tokens: Sequence[Token], reason: str) -> None:
        held = (self.held.get(token[0], (None, 0.0))[0] for token in tokens)
        # What was settled in the transaction that found its lease gone is held no more.
        lost = tuple(one for one, token in zip(held, tokens, strict=True) if one is not None and one.token == token)
        self.drop(tokens)
        if lost:
            with contextlib.suppress(RuntimeError):  # its event loop is closed: nobody is left to tell
                self.options.on_lost(lost, reason)
