"""The dead letters of one queue, as the contract has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from pythia.broker import DeadLetter
from pythia.brokers.sqlite import dead
from pythia.brokers.sqlite.store import Store
from pythia.brokers.sqlite.writer import Writer

_PAGE = 500
_MOVED_AT_ONCE = 500  # letters in one transaction, so that a replay of a million holds nobody up


class _Move(Protocol):
    def __call__(self, store: Store, names: Sequence[str]) -> int: ...


class SqliteDeadLetters:
    """Dead letters, oldest first. ``writer`` gives the open file's thread."""

    def __init__(self, writer: Callable[[], Writer], queue: str) -> None:
        self._writer = writer
        self._queue = queue

    async def count(self) -> int:
        return int(await self._read(lambda store: dead.count(store.connection, self._queue)))

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        """Oldest first, from the one behind ``after``.

        Raises:
            BrokerError: there is no such dead letter any more.
        """
        letters: Sequence[DeadLetter] = await self._read(
            lambda store: dead.listed(store.connection, self._queue, limit, after)
        )
        return letters

    async def scan(self) -> AsyncIterator[DeadLetter]:
        """Oldest first, page by page."""
        after: str | None = None
        while page := await self.list(_PAGE, after):
            for letter in page:
                yield letter
            after = page[-1].id

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - the API's word
        letter: DeadLetter | None = await self._read(lambda store: dead.got(store.connection, self._queue, id))
        return letter

    async def replay(self, ids: Sequence[str], to: str | None = None) -> int:
        """Back as attempt 1, published now, with the id, body and headers that it had; some hundreds a transaction."""

        def move(store: Store, names: Sequence[str]) -> int:
            envelopes = dead.exhumed(store.connection, self._queue, names, store.clock.time())
            store.put(to or self._queue, envelopes)
            return len(envelopes)

        return await self._in_parts(ids, move)

    async def purge(self, ids: Sequence[str]) -> int:
        return await self._in_parts(ids, lambda store, names: dead.purge(store.connection, self._queue, names))

    async def _in_parts(self, ids: Sequence[str], move: _Move) -> int:
        moved = 0
        for start in range(0, len(ids), _MOVED_AT_ONCE):
            moved += await self._writer().write(partial(move, names=ids[start : start + _MOVED_AT_ONCE]))
        return moved

    async def _read(self, work: Callable[[Store], Any]) -> Any:
        return await self._writer().read(work)
