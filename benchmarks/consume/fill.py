"""Queues with messages in them, made with the raw clients, as a foreign producer would; and taken away again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import aio_pika
import pika
import redis

from benchmarks.consume.work import BODY

FLIGHT = 500
FASTSTREAM_FIELD, GROUP = "__data__", "bench"


@contextlib.contextmanager
def rabbitmq(url: str, name: str, kind: str, count: int) -> Iterator[None]:
    """A durable queue of that type with ``count`` persistent messages, inside."""
    asyncio.run(_publish(url, name, kind, count))
    try:
        yield
    finally:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            for queue in (name, f"{name}.dead"):
                channel.queue_delete(queue)


async def _publish(url: str, name: str, kind: str, count: int) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": kind})
        for at in range(0, count, FLIGHT):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(
                        aio_pika.Message(
                            BODY,
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
def stream(url: str, name: str, count: int, *, for_faststream: bool) -> Iterator[None]:
    """A stream with ``count`` entries, inside; with the one field that FastStream reads, or with ``body``."""
    client = redis.Redis.from_url(url)
    fields: dict[str, bytes]
    if for_faststream:
        fields = {
            FASTSTREAM_FIELD: json.dumps(
                {"data": BODY.decode(), "headers": {"content-type": "application/json"}}
            ).encode()
        }
    else:
        fields = {"body": BODY}
    for at in range(0, count, FLIGHT):
        with client.pipeline(transaction=False) as flight:
            for _ in range(min(FLIGHT, count - at)):
                flight.xadd(name, fields)
            flight.execute()
    if for_faststream:
        client.xgroup_create(name, GROUP, id="0")  # its own would begin behind what is there
    try:
        yield
    finally:
        for key in client.scan_iter(f"*{name}*"):
            client.delete(key)
        client.close()
