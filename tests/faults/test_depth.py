"""How much a queue holds is told right by a server that was restarted."""

from __future__ import annotations

from pythia.broker import ConsumeOptions, QueueDepth, Settlement
from pythia.brokers import open_broker
from pythia.core.publishing import make_envelope
from tests.acceptance.service_kit import until
from tests.kit import servers

QUEUE, OPTIONS = "counted", ConsumeOptions(prefetch=50, lease=5.0, max_hold=None, consumer="test")


async def depth_after(url: str, *, published: int = 0, handled: int = 0) -> QueueDepth:
    """Publish so many, have so many done."""
    broker = open_broker(url)
    await broker.connect()
    async with broker.consume(QUEUE, OPTIONS) as consumer:
        await broker.publish(QUEUE, [make_envelope(number) for number in range(published)])
        while handled:
            batch = await consumer.receive(min(handled, OPTIONS.prefetch))
            await consumer.settle([Settlement(delivery, "ack") for delivery in batch])
            handled -= len(batch)
    depth = await broker.depth(QUEUE)
    await broker.close()
    return depth


async def test_a_stream_is_not_longer_than_it_is_when_its_server_lost_count() -> None:
    """Redis 7.0 forgets, over a restart, what a group had read since the last rewrite of the append-only file."""
    servers.require_private_redis()
    with servers.PrivateRedis(appendonly=True) as redis:
        url = f"{redis.url}?mode=stream"
        assert (await depth_after(url, published=300, handled=100)).ready == 200
        redis.cli("BGREWRITEAOF")
        until(lambda: "aof_rewrite_in_progress:0" in redis.cli("INFO", "persistence"), "the file is rewritten")
        assert (await depth_after(url, published=50, handled=70)).ready == 180
        redis.restart(kill=True)
        assert (await depth_after(url)).ready == 180
        assert (await depth_after(url, handled=180)).ready == 0
