"""Brokers of one's own, with what the fault tests do to them: cut, restarted, asked what is left in them.

RabbitMQ takes seven seconds to boot: all tests share one node and each has a virtual host of its own. A Redis is started for
each test.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import Protocol

import aio_pika

from tests.kit.servers import PrivateRabbit, PrivateRedis, require_private_redis, shared_rabbit

DURABLE = ("rabbitmq", "redis-stream", "redis-list")
OURS = "pythia."
RELEASED = "pythia-released"  # with whom a stream's entries wait that were handed back


class Venue(Protocol):
    """``url`` is what a worker connects to."""

    name: str
    url: str
    port: int

    def cut(self) -> None: ...  # close every connection of a client
    def stop(self) -> None: ...
    def start(self) -> None: ...  # on the same data; returns when it serves
    def left(self, queue: str) -> dict[str, int]: ...  # every place with messages in it, but the dead letters
    def unsettled(self, queue: str) -> int: ...  # handed out and not settled


class RabbitVenue:
    name = "rabbitmq"

    def __init__(self, rabbit: PrivateRabbit) -> None:
        self.rabbit = rabbit
        self.vhost = f"v{secrets.token_hex(4)}"
        rabbit.add_vhost(self.vhost)
        self.url = rabbit.url_of("guest", "guest", self.vhost)
        self.port = rabbit.port

    def cut(self) -> None:
        self.rabbit.ctl("close_all_connections", "--vhost", self.vhost, "cut by a test")

    def stop(self) -> None:
        self.rabbit.stop()

    def start(self) -> None:
        self.rabbit.start()

    def left(self, queue: str) -> dict[str, int]:
        rows = self.rabbit.list_queues("name", "messages", vhost=self.vhost)
        return {row["name"]: row["messages"] for row in rows if row["messages"] and row["name"] != f"{queue}.dead"}

    def unsettled(self, queue: str) -> int:
        rows = self.rabbit.list_queues("name", "messages_unacknowledged", vhost=self.vhost)
        return sum(row["messages_unacknowledged"] for row in rows)

    def declare(self, queue: str) -> None:
        """As its owner would, if that is not Pythia."""

        async def declare() -> None:
            connection = await aio_pika.connect(self.url)
            async with connection, connection.channel() as channel:
                await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})

        asyncio.run(declare())

    def objects(self) -> list[str]:
        """The names of our own queues and exchanges in this virtual host."""
        names = [row["name"] for row in self.rabbit.list_queues("name", vhost=self.vhost)]
        exchanges = self.rabbit.ctl("list_exchanges", "-p", self.vhost, "--no-table-headers", "name").split()
        return [name for name in (*names, *exchanges) if name.startswith(OURS)]

    def close(self) -> None:
        self.rabbit.start()  # whatever the test did to it
        self.rabbit.ctl("delete_vhost", self.vhost)


class RedisVenue:
    def __init__(self, mode: str, redis: PrivateRedis) -> None:
        self.name = f"redis-{mode}"
        self.redis = redis
        self.url = f"{redis.url}?mode={mode}"
        self.port = redis.port

    def cut(self) -> None:
        self.redis.cli("CLIENT", "KILL", "TYPE", "normal")

    def stop(self) -> None:
        self.redis.stop()

    def start(self) -> None:
        self.redis.start()

    def left(self, queue: str) -> dict[str, int]:
        counts = {key: self._size(key) for key in self.redis.cli("KEYS", "*").split() if queue in key}
        counts = {key: count for key, count in counts.items() if count and not key.endswith((":dead", ":consumers"))}
        if self.name == "redis-stream" and (pending := self.unsettled(queue)):
            counts["pending"] = pending
        return counts

    def unsettled(self, queue: str) -> int:
        if self.name == "redis-stream":
            holders = self.redis.cli("XPENDING", queue, "pythia").split()[
                3:
            ]  # after the count, the first and the last id
            counts = zip(holders[::2], holders[1::2], strict=True)
            return sum(int(count) for holder, count in counts if holder != RELEASED)
        return sum(self._size(key) for key in self.redis.cli("KEYS", "*:processing:*").split())

    def _size(self, key: str) -> int:
        command = {"list": "LLEN", "stream": "XLEN", "zset": "ZCARD"}.get(self.redis.cli("TYPE", key).strip())
        return int(self.redis.cli(command, key)) if command else 0

    def close(self) -> None:
        self.redis.close()


@contextlib.contextmanager
def venue_of(name: str) -> Iterator[RabbitVenue | RedisVenue]:
    """The venue of this name, clean, and gone afterwards."""
    if name == "rabbitmq":
        venue: RabbitVenue | RedisVenue = RabbitVenue(shared_rabbit())
    else:
        require_private_redis()
        redis = PrivateRedis(appendonly=True)
        redis.start()
        venue = RedisVenue(name.removeprefix("redis-"), redis)
    try:
        yield venue
    finally:
        venue.close()
