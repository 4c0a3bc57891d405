"""What the suite needs to know of a broker beyond its contract: a second process, a kill, a full disk, and the time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from pythia.broker import Broker, ConsumeOptions, Consumer, Failure, Published, Settled, Settlement
from pythia.brokers.memory import MemoryBroker
from pythia.brokers.sqlite import SqliteBroker, SqliteClock
from pythia.clock import VirtualClock
from pythia.message import Delivery, Envelope, new_id

T = TypeVar("T")

LEASE = 30.0
DEADLINE = 10.0  # real seconds after which a test that waits has failed


class Rig(Protocol):
    """One broker under test. ``another`` is what a second process would open; ``crash`` is what killing one does."""

    broker: Broker
    clock: VirtualClock

    async def another(self) -> Broker: ...
    async def crash(self, broker: Broker) -> None: ...
    async def advance(self, seconds: float) -> None: ...
    def refusing(self) -> contextlib.AbstractAsyncContextManager[None]: ...
    async def close(self) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
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
    def __init__(self, path: Path) -> None:
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


def requires(broker: Broker, *names: str) -> None:
    """Skip the test unless the broker can do all of it."""
    missing = [name for name in names if not getattr(broker.capabilities, name)]
    if missing:
        pytest.skip(f"{broker.capabilities.name} has no {', '.join(missing)}")


def options(**changes: Any) -> ConsumeOptions:
    return ConsumeOptions(**{"prefetch": 100, "lease": LEASE, "max_hold": None, "consumer": "test-1"} | changes)


def envelope(body: bytes = b"{}", **fields: Any) -> Envelope:
    return Envelope(body, **{"id": new_id()} | fields)


def numbered(count: int, **fields: Any) -> list[Envelope]:
    return [envelope(str(number).encode(), **fields) for number in range(count)]


def failure(**changes: Any) -> Failure:
    fields = {
        "reason": "attempts_exhausted",
        "detail": "ValueError: no",
        "error_type": "builtins.ValueError",
        "error_message": "no",
        "traceback": "Traceback …",
        "worker": "orders",
        "worker_id": "orders-1",
        "attempts": 5,
    }
    return Failure(**fields | changes)


async def soon(wanted: Awaitable[T]) -> T:
    """What is waited for, or a failed test."""
    async with asyncio.timeout(DEADLINE):
        return await wanted


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Exactly ``count`` deliveries, in the order of their coming."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await soon(consumer.receive(count - len(taken)))
    return taken


async def take_one(broker: Broker, consumer: Consumer) -> Delivery:
    (delivery,) = await take(consumer, 1)
    return delivery


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.envelope.body for delivery in deliveries]


async def settle(consumer: Consumer, delivery: Delivery, kind: str, **fields: Any) -> Settled:
    (answer,) = await soon(consumer.settle([Settlement(delivery, kind, **fields)]))
    return answer


async def is_left_waiting(broker: Broker, consumer: Consumer) -> bool:
    """Whether there is nothing for ``consumer`` now; drains it to find out."""
    receiving = asyncio.create_task(consumer.receive(10))
    for _ in range(3):  # a round trip each: whatever is there has come by then
        await soon(broker.ping())
        await broker.publish("elsewhere", [envelope()])
    waits = not receiving.done()
    await consumer.drain()
    await soon(receiving)
    return waits
