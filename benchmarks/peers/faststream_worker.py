"""One worker process of FastStream: reads a task as ``pythia.proof.child`` does and writes the same lines.

    python -m benchmarks.peers.faststream_worker (best|plain) (steady|poisoned)

*best* is what FastStream's documentation offers against loss. RabbitMQ: a quorum queue, ``NACK_ON_ERROR``, a prefetch limit, a
dead-letter exchange (the delivery limit is a policy of the server). Redis: ``NACK_ON_ERROR``, reads bounded by ``max_records``,
and beside the subscriber a second one with ``min_idle_time``, which claims what others left pending. *plain* is a subscriber
with nothing but the names that it needs. Both may run as many handlers at once as Pythia does; on RabbitMQ *plain* has no limit.

FastStream tells a handler no attempt: 1 is written, and who reads counts. A settlement is noted when ``ack()`` has returned.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage
from faststream.rabbit.schemas import ExchangeType
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import RedisStreamMessage

from benchmarks.peers.work import CONCURRENCY, DEAD_LETTERS, GROUP, work
from pythia.proof.ledger import Ledger, digest_of

RECONNECT_SECONDS = 1.0


class Recorder:
    """Does the work and notes what begins and how it ends."""

    def __init__(self, folder: str, *, poison: bool) -> None:
        self._ledger = Ledger(Path(folder), f"handler-{os.getpid()}.log")
        self._ledger.note("up")
        self._numbers = count()
        self._poison = poison

    async def handle(self, message: Any, name: str, body: bytes) -> None:
        number = next(self._numbers)
        self._ledger.note("started", number, name, 1, digest_of(body))
        self._note_ack(message, number)
        try:
            await work(json.loads(body), poison=self._poison)
        except asyncio.CancelledError:
            self._ledger.note("interrupted", number)
            raise
        except Exception:
            self._ledger.note("failed", number)
            raise
        self._ledger.note("finished", number)

    def _note_ack(self, message: Any, number: int) -> None:
        acknowledge = message.ack

        async def ack(*arguments: Any, **named: Any) -> None:
            await acknowledge(*arguments, **named)
            self._ledger.note("settled", number, "ack")

        message.ack = ack


def rabbit(task: Mapping[str, Any], recorder: Recorder, *, best: bool) -> FastStream:
    """An application on a quorum queue."""
    name, flags = task["flags"]["queues"][0], task["flags"]
    url = f"{flags['broker.url']}?heartbeat={flags['broker.heartbeat_seconds']}"
    queue = RabbitQueue(name, durable=True, queue_type=QueueType.QUORUM)
    prefetch = Channel(prefetch_count=CONCURRENCY)
    if best:
        broker = RabbitBroker(url, default_channel=prefetch, reconnect_interval=RECONNECT_SECONDS)
        subscriber = broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
    else:
        broker = RabbitBroker(url)
        subscriber = broker.subscriber(queue)

    @subscriber
    async def handle(message: RabbitMessage) -> None:
        await recorder.handle(message, str(message.message_id), message.body)

    app = FastStream(broker)

    async def declare_dead_letters() -> None:
        await broker.connect()
        exchange = await broker.declare_exchange(RabbitExchange(DEAD_LETTERS, type=ExchangeType.FANOUT, durable=True))
        dead = await broker.declare_queue(RabbitQueue(f"{name}.dead", durable=True, queue_type=QueueType.QUORUM))
        await dead.bind(exchange)

    if best:
        app.on_startup(declare_dead_letters)
    return app


def redis(task: Mapping[str, Any], recorder: Recorder, *, best: bool) -> FastStream:
    """An application on a stream."""
    name, lease = task["flags"]["queues"][0], task["flags"]["lease_seconds"]
    broker = RedisBroker(task["flags"]["broker.url"].partition("?")[0])
    me = f"main-{os.getpid()}"
    if best:
        own = StreamSub(name, group=GROUP, consumer=me, max_records=CONCURRENCY)
        idle = int(1000 * lease)
        left = StreamSub(name, group=GROUP, consumer=f"claims-{os.getpid()}", min_idle_time=idle)
        subscribers = [
            broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR, max_workers=CONCURRENCY)
            for stream in (own, left)
        ]
    else:
        subscribers = [broker.subscriber(stream=StreamSub(name, group=GROUP, consumer=me), max_workers=CONCURRENCY)]

    async def handle(message: RedisStreamMessage) -> None:
        fields = message.raw_message["data"]
        await recorder.handle(message, fields[b"pythia-id"].decode(), fields[b"body"])

    for subscriber in subscribers:
        subscriber(handle)
    return FastStream(broker)


def end_with_parent(parent: int) -> None:
    """Nobody is left behind when the benchmark is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(70)

    threading.Thread(target=watch, daemon=True).start()


def main(settings: str, handler: str) -> None:
    end_with_parent(os.getppid())
    task = json.loads(sys.stdin.readline())
    recorder = Recorder(task["folder"], poison=handler == "poisoned")
    make = rabbit if task["flags"]["broker.url"].startswith("amqp") else redis
    asyncio.run(make(task, recorder, best=settings == "best").run())


if __name__ == "__main__":
    main(*sys.argv[1:])
