"""RabbitMQ and Redis, in real time, each test in a scope of its own on a server that others use too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
import redis.asyncio as redis

from pythia.broker import Broker
from pythia.brokers import open_broker
from pythia.clock import SystemClock
from pythia.config import WorkerConfig
from tests.conformance.scoped import Scope, Scoped
from tests.kit import servers

DELAY, LEASE, GRAIN = 0.5, 1.0, 0.01

RABBIT_SETTINGS = {
    "rabbitmq": {},
    "rabbitmq-classic": {  # and the other way of reading
        "rabbitmq.queue_type": "classic",
        "rabbitmq.arguments": {"x-max-priority": 10},
        "rabbitmq.deliveries": "driver",
    },
}
REDIS_MODES = {"redis-stream": "stream", "redis-list": "list", "redis-pubsub": "pubsub"}


def config_of(**settings: Any) -> WorkerConfig:
    """A configuration of these settings alone."""
    return WorkerConfig.load(os.devnull, **settings)


class RealRig:
    """What both servers have in common."""

    virtual, delay, lease, grain = False, DELAY, LEASE, GRAIN

    def __init__(self, name: str, url: str, scope: Scope, **settings: Any) -> None:
        self.name = name
        self.url = url
        self.clock = SystemClock()
        self.scope = scope
        self._settings = settings
        self._alive: list[Scoped] = []
        self.broker = self.make(url)

    def make(self, url: str, **settings: Any) -> Scoped:
        """A broker on these messages, not connected yet, reached by ``url`` and with further settings."""
        broker = Scoped(open_broker(url, config=config_of(**self._settings, **settings)), self.scope)
        self._alive.append(broker)
        return broker

    async def another(self) -> Broker:
        broker = self.make(self.url)
        await broker.connect()
        return broker

    async def crash(self, broker: Broker) -> None:
        """What kill -9 does to a process: its sockets close, and no word is said."""
        assert isinstance(broker, Scoped)
        broker.inner.abandon()

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        for broker in self._alive:
            await broker.close()
        await self.clean()

    async def clean(self) -> None:
        """Delete whatever the test made on the server."""
        raise NotImplementedError


class RabbitRig(RealRig):
    def __init__(self, name: str, url: str) -> None:
        scope = Scope(prefix=f"t{secrets.token_hex(4)}.", declares=True)
        super().__init__(name, url, scope, **RABBIT_SETTINGS[name])

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        pytest.skip("a RabbitMQ that is short of memory blocks its publishers; it does not refuse them")
        yield

    async def clean(self) -> None:
        connection = await aio_pika.connect(self.url)
        async with connection, connection.channel() as channel:
            for queue in self.scope.made:
                for name in (queue, f"{queue}.dead"):
                    await channel.queue_delete(self.scope.inside(name))


class RedisRig(RealRig):
    def __init__(self, name: str, url: str, own: servers.PrivateRedis | None = None) -> None:
        scope = Scope(prefix=f"t{secrets.token_hex(4)}.", declares=False)
        super().__init__(name, f"{url}?mode={REDIS_MODES[name]}", scope)
        self._client = redis.Redis.from_url(url)
        self._own = own

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """A server that is out of memory for a while."""
        assert self._own is not None, "only a server of one's own is starved: mark the test with own_server"
        await self._client.config_set("maxmemory", "1")
        yield
        await self._client.config_set("maxmemory", "0")

    async def close(self) -> None:
        await super().close()
        await self._client.aclose()
        if self._own is not None:
            self._own.close()

    async def clean(self) -> None:
        async for key in self._client.scan_iter(match=f"*{self.scope.prefix}*", count=1000):
            await self._client.delete(key)
        async for key in self._client.scan_iter(match="pythia:queues*"):
            names = [name for name in await self._client.smembers(key) if name.decode().startswith(self.scope.prefix)]
            if names:
                await self._client.srem(key, *names)


def real_rig(name: str, *, own_server: bool) -> RealRig:
    """The rig of this name; with ``own_server`` on one that the test may break, where that is cheap."""
    if name in RABBIT_SETTINGS:
        return RabbitRig(name, servers.require_rabbitmq())
    if not own_server:
        return RedisRig(name, servers.require_redis())
    servers.require_private_redis()
    own = servers.PrivateRedis()
    own.start()
    return RedisRig(name, own.url, own)
