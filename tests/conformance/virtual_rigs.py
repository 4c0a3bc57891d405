"""The brokers that live in this process, in virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from pythia.broker import Broker, Published, Settled
from pythia.brokers.memory import MemoryBroker
from pythia.brokers.sqlite import SqliteBroker, SqliteClock
from pythia.clock import VirtualClock

DELAY, LEASE, GRAIN = 60.0, 30.0, 1e-3


class MemoryRig:
    virtual, delay, lease, grain = True, DELAY, LEASE, GRAIN

    def __init__(self) -> None:
        self.name = "memory"
        self.clock = VirtualClock()
        self.broker = MemoryBroker(clock=self.clock)
        self._brokers = [self.broker]

    async def another(self) -> Broker:
        broker = MemoryBroker(clock=self.clock, store=self.broker.store)
        await broker.connect()
        self._brokers.append(broker)
        return broker

    async def crash(self, broker: Broker) -> None:
        assert isinstance(broker, MemoryBroker)
        broker.crash(at_once=False)

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        faults = self.broker.faults
        faults.settle, faults.publish = lambda _: Settled.REFUSED, lambda _queue, _envelope: Published.REFUSED
        yield
        faults.settle = faults.publish = None

    async def close(self) -> None:
        for broker in self._brokers:
            await broker.close()


class SqliteRig:
    virtual, delay, lease, grain = True, DELAY, LEASE, GRAIN

    def __init__(self, path: Path) -> None:
        self.name = "sqlite"
        self.clock = VirtualClock()
        self._path = path
        self.broker = self._make()
        self._alive = [self.broker]

    def _make(self) -> SqliteBroker:
        return SqliteBroker(self._path, clock=SqliteClock.injected(self.clock))

    async def another(self) -> Broker:
        broker = self._make()
        await broker.connect()
        self._alive.append(broker)
        return broker

    async def crash(self, broker: Broker) -> None:
        """Let the thread end without giving anything back."""
        assert isinstance(broker, SqliteBroker)
        writer = broker.writer()
        await writer.write(lambda _store: writer._holders.clear())
        await writer.stop()
        self._alive.remove(broker)

    async def advance(self, seconds: float) -> None:
        """In steps in which every living process comes to renew its leases, as it would in real time."""
        while seconds > 0:
            await self.clock.advance(min(seconds, LEASE / 6))
            seconds -= LEASE / 6
            for broker in self._alive:
                if broker._writer is not None:  # connected
                    await broker.writer().write(lambda _store: None)

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """A file that cannot be written for a while; full or read-only makes no difference."""
        await self._query_only("ON")
        yield
        await self._query_only("OFF")

    async def _query_only(self, switch: str) -> None:
        await self.broker.writer().read(lambda store: store.connection.execute(f"PRAGMA query_only={switch}"))

    async def close(self) -> None:
        for broker in self._alive:
            await broker.close()
