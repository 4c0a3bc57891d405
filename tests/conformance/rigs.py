"""What the suite needs to know of a broker beyond its contract: a second process, a kill, a full disk, and the time.

Time is virtual where the broker takes a clock: then a test asserts that nothing comes a moment too early. A real server
has its own: there a test waits for what it expects, and asserts how early it came and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import pytest

from pythia.broker import Broker, ConsumeOptions, Consumer, Failure, QueueDepth, Settled, Settlement
from pythia.clock import Clock
from pythia.message import Delivery, Envelope, new_id

T = TypeVar("T")

LEASE = 30.0  # where no test waits for its end
DEADLINE = 20.0  # real seconds after which a test that waits has failed


class Rig(Protocol):
    """One broker under test. ``another`` is what a second process would open; ``crash`` is what killing one does.

    ``delay`` and ``lease`` are seconds that a test may ``advance`` through; ``grain`` is how exactly the broker counts them.
    """

    name: str
    broker: Broker
    clock: Clock
    virtual: bool
    delay: float
    lease: float
    grain: float

    async def another(self) -> Broker: ...
    async def crash(self, broker: Broker) -> None: ...
    async def advance(self, seconds: float) -> None: ...
    def refusing(self) -> contextlib.AbstractAsyncContextManager[None]: ...
    async def close(self) -> None: ...


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


async def take(consumer: Consumer, count: int, limit: int | None = None) -> list[Delivery]:
    """Exactly ``count`` deliveries, in the order of their coming; asks for ``limit`` at once, if that is said."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await soon(consumer.receive(limit or count - len(taken)))
    assert len(taken) == count
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
    await asyncio.wait((receiving,), timeout=0.1)  # a server may answer another connection later
    waits = not receiving.done()
    await consumer.drain()
    await soon(receiving)
    return waits


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = DEADLINE) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.02)


def told(depth: QueueDepth, **expected: Any) -> bool:
    """Whether every count that this broker can tell is as expected."""
    return all(getattr(depth, name) in (None, value) for name, value in expected.items())


async def holds(broker: Broker, queue: str, **expected: Any) -> None:
    """That the queue holds this much, in what the broker can tell; a server may come to know of it a little later."""
    depth = await broker.depth(queue)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5.0):
            while not told(depth, **expected):
                await asyncio.sleep(0.02)
                depth = await broker.depth(queue)
    assert told(depth, **expected), f"expected {expected}, found {depth}"


@contextlib.asynccontextmanager
async def killed(dying: contextlib.AbstractAsyncContextManager[Consumer]) -> AsyncIterator[Consumer]:
    """A consumer whose process the test kills: leaving it is the ruins' business, and must not hang or give anything back."""
    consumer = await dying.__aenter__()
    try:
        yield consumer
    finally:
        await soon(dying.__aexit__(None, None, None))
