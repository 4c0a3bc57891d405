"""The idempotency store of a queue file, as the contract has it."""

from __future__ import annotations

from collections.abc import Callable

from pythia.broker import Claim
from pythia.brokers.sqlite import effects
from pythia.brokers.sqlite.writer import Writer


class SqliteEffects:
    """Which effects were done. ``writer`` gives the open file's thread; a file that cannot be written is ``BrokerUnavailable``."""

    def __init__(self, writer: Callable[[], Writer]) -> None:
        self._writer = writer

    async def claim(self, key: str, owner: str, ttl: float) -> Claim:
        claim: Claim = await self._writer().write(
            lambda store: effects.claim(store.connection, key, owner, ttl, store.clock.time())
        )
        return claim

    async def done(self, key: str, owner: str, ttl: float) -> bool:
        return bool(
            await self._writer().write(
                lambda store: effects.done(store.connection, key, owner, ttl, store.clock.time())
            )
        )

    async def release(self, key: str, owner: str) -> None:
        await self._writer().write(lambda store: effects.release(store.connection, key, owner))
