"""Doing an effect once: a message whose idempotency key is done is acked without running, of a running one deferred.

The claim is made before the handler and marked done before the ack, so that a crash in between leaves a done key and a
message that comes again, to be acked without running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pythia.broker import Claim, IdempotencyStore, Kind
from pythia.core.held import Held
from pythia.core.shift import Shift
from pythia.message import Message, new_id

KeyOf = Callable[[Message[Any]], str | None]


class Dedup:
    """One worker's idempotency keys; does nothing for messages without one, or where dedup is off.

    A claim is owned by the stored message and its attempt: the same message delivered again after a crash may go on, its
    twin may not. Where the broker cannot tell the two apart, the redelivery waits until the claim has expired.
    """

    def __init__(self, store: IdempotencyStore | None, key_of: KeyOf, shift: Shift, *, hold_seconds: float) -> None:
        self.store = store  # assignable: claims that there are end where they were made
        self._key_of = key_of
        self._shift = shift
        self.hold_seconds = hold_seconds  # how long a claim outlives a crash
        self._claims: dict[Held, tuple[IdempotencyStore, str, str]] = {}  # (store, key, owner)

    @property
    def holds(self) -> bool:
        """Whether there is any claim that an end would free."""
        return bool(self._claims)

    async def claim(self, held: Held, message: Message[Any]) -> Claim:
        """Whose the effect is; ``OURS`` too when there is no key."""
        key = self._key_of(message)
        if self.store is None or key is None:
            return Claim.OURS
        owner = f"{held.delivery.identity or new_id()}#{held.delivery.attempt}"
        claim = await self.store.claim(key, owner, self.hold_seconds)
        if claim is Claim.OURS:
            self._claims[held] = (self.store, key, owner)
        return claim

    async def conclude(self, held: Held, kind: Kind | None) -> None:
        """The delivery ended: done or dropped keeps the key, anything else frees it (lost, None, leaves it to expire)."""
        claimed = self._claims.pop(held, None)
        ttl = self._shift.rules.dedup_ttl
        if claimed is None:
            return
        store, key, owner = claimed
        if kind in ("ack", "drop") and ttl is not None:
            await store.done(key, owner, ttl)
        elif kind is not None:
            await store.release(key, owner)
