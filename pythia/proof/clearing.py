"""Takes the queue of a run away again, with all that belongs to it; what a server shares between queues stays."""

from __future__ import annotations

from pythia.broker import Broker

PREFIX = "pythia.verify."


async def clear(broker: Broker, url: str, queue: str) -> None:
    """Delete ``queue``. Only ever one of our own."""
    if not queue.startswith(PREFIX):
        raise ValueError(f"{queue} is no queue of a run")
    match broker.capabilities.name.partition("-")[0]:
        case "rabbitmq":
            await _clear_rabbitmq(url, queue)
        case "redis":
            await _clear_redis(url, queue)
        case _:
            dead = broker.dead_letters(queue)
            await dead.purge([letter.id async for letter in dead.scan()])


async def _clear_rabbitmq(url: str, queue: str) -> None:
    import aio_pika  # noqa: PLC0415 - only for this broker

    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        for name in (queue, f"{queue}.dead"):
            await channel.queue_delete(name)


async def _clear_redis(url: str, queue: str) -> None:
    import redis.asyncio as redis  # noqa: PLC0415 - only for this broker

    async with redis.Redis.from_url(url.partition("?")[0]) as client:
        async for key in client.scan_iter(match=f"*{queue}*", count=1000):
            await client.delete(key)
        async for key in client.scan_iter(match="pythia:queues:*"):
            await client.srem(key, queue)
