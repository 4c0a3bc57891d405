"""The SQLite broker: the contract, carried out by one writer thread on one file that several processes may share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from pythia.broker import Capabilities, ConsumeOptions, Published, QueueDepth, Survey
from pythia.brokers.sqlite.clock import SqliteClock
from pythia.brokers.sqlite.consumer import SqliteConsumer
from pythia.brokers.sqlite.idempotency import SqliteEffects
from pythia.brokers.sqlite.letters import SqliteDeadLetters
from pythia.brokers.sqlite.store import Store
from pythia.brokers.sqlite.writer import Writer
from pythia.errors import BrokerError, BrokerUnavailable, StoreError
from pythia.message import Envelope

_INHERITED: list[Writer] = []  # of a parent process: a connection that crossed a fork must not even be closed


class SqliteBroker:
    """Messages in one file. Not for use on both sides of a fork: the child connects again."""

    def __init__(
        self, path: str | os.PathLike[str], *, clock: SqliteClock | None = None, connect_timeout: float = 10.0
    ) -> None:
        self.path = Path(path).absolute()
        self._clock = SqliteClock.machine() if clock is None else clock
        self._timeout = connect_timeout
        self._writer: Writer | None = None
        self._detail = str(self.path)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="sqlite",
            leased=True,
            priority=True,
            ordering_keys=True,
            counts_deliveries=True,
            transactional=True,
            idempotency=True,
            server_version=sqlite3.sqlite_version,
            detail=self._detail,
        )

    async def connect(self) -> None:
        """Open the file, made when there is none. Idempotent; opens again after ``close`` and in a forked child.

        Raises:
            StoreError: it cannot be used. BrokerUnavailable: it is locked. Cancelling lets the file go again.
        """
        if self._writer is not None and self._writer.is_usable:
            return
        await self.close()
        writer = Writer(self.path, self._clock, self._timeout)
        file = await writer.start()
        self._writer, self._detail = writer, file.detail

    async def close(self) -> None:
        """Write what was asked, give back what is held, close the file. Idempotent."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if writer.pid == os.getpid():
            await writer.stop()
        else:
            _INHERITED.append(writer)

    def writer(self) -> Writer:
        """The thread behind the open file.

        Raises:
            BrokerUnavailable: there is none in this process.
        """
        if self._writer is None:
            raise BrokerUnavailable(f"queue file {self.path} is not open: call connect() first")
        if self._writer.pid != os.getpid():
            raise BrokerUnavailable(f"queue file {self.path} was opened before a fork: call connect() in this process")
        return self._writer

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[SqliteConsumer]:
        return self._consuming(queue, options)

    @contextlib.asynccontextmanager
    async def _consuming(self, queue: str, options: ConsumeOptions) -> AsyncIterator[SqliteConsumer]:
        writer = self.writer()
        holder = await writer.admit(queue, options)
        consumer = SqliteConsumer(writer, holder)
        try:
            yield consumer
        finally:
            await consumer.drain()
            with contextlib.suppress(BrokerError):  # then the leases bring back what is held
                await writer.dismiss(holder)

    async def prepare(self, queue: str) -> None:  # noqa: ARG002 - queues need no making here
        """As the contract says: the file is open and can be read."""
        await self.queues()

    async def publish(
        self,
        queue: str,
        messages: Sequence[Envelope],
        *,
        delay: float = 0.0,
        exchange: str = "",  # noqa: ARG002 - there are none here, as the capabilities say
    ) -> Sequence[Published]:
        """As the contract says; one transaction, so all are taken or none. Cancelled: they may be there.

        Raises:
            PublishError: a value that cannot be stored; none was taken. StoreError: the file is beyond use.
        """
        if not messages:
            return []

        published: Sequence[Published] = await self.writer().write(
            lambda store: store.put(queue, messages, delay),
            landed=lambda _: [Published.CONFIRMED] * len(messages),
            refused=lambda in_doubt: [Published.UNKNOWN if in_doubt else Published.REFUSED] * len(messages),
        )
        return published

    async def depth(self, queue: str) -> QueueDepth:
        depth: QueueDepth = await self.writer().read(lambda store: store.depth(queue))
        return depth

    async def queues(self) -> Sequence[str]:
        names: Sequence[str] = await self.writer().read(Store.queues)
        return names

    def dead_letters(self, queue: str) -> SqliteDeadLetters:
        return SqliteDeadLetters(self.writer, queue)

    def idempotency(self) -> SqliteEffects:
        return SqliteEffects(self.writer)

    async def ping(self) -> None:
        """Whether the file takes writes: one is made that changes nothing.

        Raises:
            StoreError: it is full or read-only. BrokerUnavailable: it is locked.
        """
        writer = self.writer()
        written = await writer.write(Store.touch, landed=lambda _: True, refused=lambda _in_doubt: False)
        if not written:
            why = writer.stats().get("trouble") or f"queue file {self.path} cannot be written"
            raise BrokerUnavailable(why) if "is locked" in why else StoreError(why)

    async def survey(self, queues: Sequence[str]) -> Survey:  # noqa: ARG002 - they all live in the one file
        """Nothing beyond what the capabilities say."""
        return Survey()

    def stats(self) -> Mapping[str, Any]:
        """``lease_renewals``, ``leases_lost``, ``commits``, ``refusals``; ``trouble``: why nothing can be written just now."""
        return {} if self._writer is None else self._writer.stats()
