"""Queues with messages in them, made with the raw clients, as a foreign producer would; and taken away again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import aio_pika
import pika
import redis

from benchmarks.consume.work import BODY, STEADY_RATE, body_sent_now

FLIGHT = 500
FASTSTREAM_FIELD, GROUP = "__data__", "bench"


def filled(url: str, name: str, kind: str, count: int) -> contextlib.AbstractContextManager[None]:
    """A queue of that type, or a stream where the URL is Redis's, with ``count`` messages, inside."""
    if url.startswith("amqp"):
        return rabbitmq(url, name, kind, count)
    return stream(url, name, count, for_faststream=False)


@contextlib.contextmanager
def emptied(url: str, name: str) -> Iterator[None]:
    """For who fills queues itself: what it leaves behind under that name is taken away."""
    try:
        yield
    finally:
        if url.startswith("amqp"):
            _take_away(url, [f"{name}{ending}" for ending in ("", ".DQ", ".XQ", ".dead_letter")], [name])
        else:
            with redis.Redis.from_url(url) as client:
                _delete_keys(client, name)


def _delete_keys(client: redis.Redis, name: str) -> None:
    for key in client.scan_iter(f"*{name}*"):
        client.delete(key)


def _take_away(url: str, queues: Sequence[str], exchanges: Sequence[str] = ()) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
        for exchange in exchanges:
            channel.exchange_delete(exchange)


@contextlib.contextmanager
def rabbitmq(url: str, name: str, kind: str, count: int, body: bytes = BODY) -> Iterator[None]:
    """A durable queue of that type with ``count`` persistent messages, inside."""
    asyncio.run(_publish(url, name, kind, count, body))
    try:
        yield
    finally:
        _take_away(url, [name, f"{name}.dead"])


async def _publish(url: str, name: str, kind: str, count: int, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": kind})
        for at in range(0, count, FLIGHT):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(
                        aio_pika.Message(
                            body,
                            message_id=f"{name}-{number}",
                            content_type="application/json",
                            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        ),
                        name,
                    )
                    for number in range(at, min(at + FLIGHT, count))
                )
            )


@contextlib.contextmanager
def rabbitmq_steadily(url: str, name: str, kind: str, count: int) -> Iterator[None]:
    """An empty queue that, once somebody consumes it, gets ``STEADY_RATE`` messages a second, inside."""
    with rabbitmq(url, name, kind, 0), pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)

        def is_consumed() -> bool:
            return bool(channel.queue_declare(name, passive=True).method.consumer_count)

        with _steadily(count, is_consumed, lambda: channel.basic_publish("", name, body_sent_now(), properties)):
            yield


@contextlib.contextmanager
def stream_steadily(url: str, name: str, count: int, *, for_faststream: bool) -> Iterator[None]:
    """The same on a stream."""
    with stream(url, name, 0, for_faststream=for_faststream), redis.Redis.from_url(url) as client:

        def is_consumed() -> bool:
            with contextlib.suppress(redis.ResponseError):  # there is no stream yet
                waiting = any(row["cmd"] == "xreadgroup" for row in client.client_list())
                return bool(client.xinfo_groups(name)) and waiting
            return False

        def say() -> None:
            client.xadd(name, _fields(body_sent_now(), for_faststream=for_faststream))

        with _steadily(count, is_consumed, say):
            yield


@contextlib.contextmanager
def _steadily(count: int, is_consumed: Callable[[], bool], say: Callable[[], object]) -> Iterator[None]:
    """Both are called on a thread of their own."""
    over = threading.Event()

    def publish() -> None:
        while not over.wait(0.02) and not is_consumed():
            pass
        began = time.monotonic()
        for number in range(count):
            if over.wait(max(0.0, began + number / STEADY_RATE - time.monotonic())):
                return
            say()

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        yield
    finally:
        over.set()
        publishing.join()


def _fields(body: bytes, *, for_faststream: bool) -> dict[str, bytes]:
    """An entry with the one field that FastStream reads, or with ``body``."""
    if not for_faststream:
        return {"body": body}
    said = {"data": body.decode(), "headers": {"content-type": "application/json"}}
    return {FASTSTREAM_FIELD: json.dumps(said).encode()}


@contextlib.contextmanager
def stream(url: str, name: str, count: int, body: bytes = BODY, *, for_faststream: bool) -> Iterator[None]:
    """A stream with ``count`` entries, inside; with the one field that FastStream reads, or with ``body``."""
    client = redis.Redis.from_url(url)
    fields = _fields(body, for_faststream=for_faststream)
    for at in range(0, count, FLIGHT):
        with client.pipeline(transaction=False) as flight:
            for _ in range(min(FLIGHT, count - at)):
                flight.xadd(name, fields)
            flight.execute()
    if for_faststream:
        client.xgroup_create(name, GROUP, id="0", mkstream=True)  # its own would begin behind what is there
    try:
        yield
    finally:
        _delete_keys(client, name)
        client.close()
