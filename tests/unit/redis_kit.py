"""The few things that every test of the Redis adapters does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pythia.broker import ConsumeOptions, Consumer, Settled, Settlement
from pythia.brokers.redis import RedisSettings
from pythia.brokers.redis.broker import RedisBroker
from pythia.brokers.redis.lists import RedisListBroker
from pythia.brokers.redis.streams import RedisStreamBroker
from pythia.message import Delivery, Envelope, new_id

T = TypeVar("T")
DEADLINE = 15.0
CLASSES: dict[str, type[RedisStreamBroker | RedisListBroker]] = {"stream": RedisStreamBroker, "list": RedisListBroker}


class Brokers:
    """Makes brokers, and closes them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: list[RedisBroker] = []

    async def __call__(self, mode: str, *, url: str | None = None, **settings: Any) -> RedisBroker:
        broker = CLASSES[mode](url or self._url, RedisSettings(**{"heartbeat": 1.0} | settings))
        self._made.append(broker)
        await broker.connect()
        return broker

    async def close(self) -> None:
        for broker in self._made:
            await broker.close()


def options(**changes: Any) -> ConsumeOptions:
    return ConsumeOptions(**{"prefetch": 100, "lease": 1.0, "max_hold": None, "consumer": "w"} | changes)


def envelope(body: bytes = b"{}", **fields: Any) -> Envelope:
    return Envelope(body, **{"id": new_id()} | fields)


async def soon(wanted: Awaitable[T]) -> T:
    async with asyncio.timeout(DEADLINE):
        return await wanted


async def take(consumer: Consumer, count: int = 1) -> list[Delivery]:
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await soon(consumer.receive(count - len(taken)))
    return taken


async def settle(consumer: Consumer, delivery: Delivery, kind: str, **fields: Any) -> Settled:
    (answer,) = await soon(consumer.settle([Settlement(delivery, kind, **fields)]))
    return answer


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread or process does."""
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.02)
