"""Where the cases are played, looked at from outside Pythia: with clients of our own, that know what is where."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pika
import pika.exceptions
import redis

from pythia.brokers.redis import script
from tests.crashes.child import OUTPUT, QUEUE

Counts = Mapping[str, int]
NEXT_LEVEL = "pythia.delay.00"  # where a copy waits for our delay


class Venue(Protocol):
    """One broker. ``suffix`` names a case, whose queues are nobody else's."""

    quiet_seconds: float  # for so long there must be nothing to see, until a case is over

    def url(self, suffix: str, folder: Path) -> str: ...
    def prepare(self, suffix: str) -> None: ...  # before anything is published
    def left(self, suffix: str, folder: Path) -> Counts: ...  # every place that holds the message, dead letters apart
    def dead(self, suffix: str, folder: Path) -> int: ...
    def outputs(self, suffix: str, folder: Path) -> int: ...
    def delayed_anywhere(self) -> int: ...  # what is on its way back to a queue, and cannot be told by queue
    def clean(self, suffix: str) -> None: ...
    def close(self) -> None: ...


class SqliteVenue:
    """A file for each case."""

    quiet_seconds = 0.1
    _STATES = ("ready", "delayed", "leased", "blocked")

    def url(self, suffix: str, folder: Path) -> str:
        return f"sqlite:///{folder / 'queue.db'}"

    def prepare(self, suffix: str) -> None:
        return

    def left(self, suffix: str, folder: Path) -> Counts:
        rows = self._rows(
            folder, "SELECT state, count(*) FROM messages WHERE queue LIKE ? GROUP BY state", f"{QUEUE}-%"
        )
        return {self._STATES[state]: count for state, count in rows}

    def dead(self, suffix: str, folder: Path) -> int:
        return int(self._rows(folder, "SELECT count(*) FROM dead_letters")[0][0])

    def outputs(self, suffix: str, folder: Path) -> int:
        return int(self._rows(folder, "SELECT count(*) FROM messages WHERE queue LIKE ?", f"{OUTPUT}-%")[0][0])

    @staticmethod
    def _rows(folder: Path, query: str, *values: str) -> list[tuple[int, ...]]:
        with contextlib.closing(sqlite3.connect(folder / "queue.db", timeout=10.0)) as connection:
            try:
                return connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # the publisher died before it had made any
                    return [] if "GROUP" in query else [(0,)]
                raise

    def delayed_anywhere(self) -> int:
        return 0

    def clean(self, suffix: str) -> None:
        return

    def close(self) -> None:
        return


class RabbitVenue:
    """A virtual host that nobody else uses meanwhile."""

    quiet_seconds = 0.7  # longer than a copy waits: that it does cannot be seen

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = pika.BlockingConnection(pika.URLParameters(f"{url}?heartbeat=0"))
        self._channel = self._connection.channel()

    def url(self, suffix: str, folder: Path) -> str:
        return self._url

    def prepare(self, suffix: str) -> None:
        for queue in (f"{QUEUE}-{suffix}", f"{OUTPUT}-{suffix}"):
            self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    def left(self, suffix: str, folder: Path) -> Counts:
        ready = self._ready(f"{QUEUE}-{suffix}")
        return {"queue": ready} if ready else {}

    def dead(self, suffix: str, folder: Path) -> int:
        return self._ready(f"{QUEUE}-{suffix}.dead")

    def outputs(self, suffix: str, folder: Path) -> int:
        return self._ready(f"{OUTPUT}-{suffix}")

    def delayed_anywhere(self) -> int:
        return self._ready(NEXT_LEVEL)

    def _ready(self, queue: str) -> int:
        try:
            return int(self._channel.queue_declare(queue, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker:
            self._channel = self._connection.channel()
            return 0

    def clean(self, suffix: str) -> None:
        for queue in (f"{QUEUE}-{suffix}", f"{QUEUE}-{suffix}.dead", f"{OUTPUT}-{suffix}"):
            self._channel.queue_delete(queue)

    def close(self) -> None:
        self._connection.close()


class RedisVenue:
    """A server that others use too; our keys have the case's suffix."""

    quiet_seconds = 0.1

    def __init__(self, url: str, mode: str) -> None:
        self._url = f"{url}?mode={mode}"
        self._mode = mode
        self._client: Any = redis.Redis.from_url(url)
        for known in script._KNOWN.values():
            self._client.script_load(known.source)  # so that no case is the first

    def url(self, suffix: str, folder: Path) -> str:
        return self._url

    def prepare(self, suffix: str) -> None:
        return

    def left(self, suffix: str, folder: Path) -> Counts:
        queue, found = f"{QUEUE}-{suffix}", {}
        if self._mode == "stream":
            found["stream"] = self._client.xlen(queue)
            with contextlib.suppress(redis.ResponseError):  # nobody has made the group yet
                found["pending"] = self._client.xpending(queue, "pythia")["pending"]
        else:
            found["list"] = self._client.llen(queue)
            for key in self._client.scan_iter(match=f"{{{queue}}}:processing:*", count=10_000):
                found["processing"] = found.get("processing", 0) + self._client.llen(key)
        found["delayed"] = self._client.zcard(f"{{{queue}}}:delayed")
        return {place: count for place, count in found.items() if count}

    def dead(self, suffix: str, folder: Path) -> int:
        return int(self._client.xlen(f"{{{QUEUE}-{suffix}}}:dead"))

    def outputs(self, suffix: str, folder: Path) -> int:
        queue = f"{OUTPUT}-{suffix}"
        return int(self._client.xlen(queue) if self._mode == "stream" else self._client.llen(queue))

    def delayed_anywhere(self) -> int:
        return 0

    def clean(self, suffix: str) -> None:
        for key in self._client.scan_iter(match=f"*{suffix}*", count=10_000):
            self._client.delete(key)
        self._client.srem(f"pythia:queues:{self._mode}", f"{QUEUE}-{suffix}", f"{OUTPUT}-{suffix}")

    def close(self) -> None:
        self._client.close()


def venue_of(broker: str) -> Venue:
    """As the environment says where the servers are (``tests/kit/servers.py`` finds them)."""
    match broker:
        case "sqlite":
            return SqliteVenue()
        case "rabbitmq":
            return RabbitVenue(os.environ["PYTHIA_TEST_RABBITMQ_URL"])
        case _:
            return RedisVenue(os.environ["PYTHIA_TEST_REDIS_URL"], broker.removeprefix("redis-"))
