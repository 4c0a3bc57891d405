"""What a broker says of itself is true, and what it cannot tell is None."""

from __future__ import annotations

from pythia.broker import QueueDepth
from tests.conformance.rigs import failure, numbered, options, settle, take


async def test_an_unknown_queue_is_empty(broker):
    depth = await broker.depth("nobody")
    assert (depth.ready, depth.in_flight, depth.delayed, depth.dead, depth.consumers) == (0, 0, 0, 0, 0)


async def test_every_message_is_counted_where_it_is(rig, broker):
    await broker.publish("q", numbered(10))
    await broker.publish("q", numbered(3), delay=60.0)
    async with broker.consume("q", options()) as consumer, broker.consume("q", options()):
        held = await take(consumer, 4)
        await settle(consumer, held[0], "ack")
        await settle(consumer, held[1], "dead_letter", record=failure())
        await settle(consumer, held[2], "retry", delay=60.0)
        assert await broker.depth("q") == QueueDepth(
            queue="q",
            ready=6,
            in_flight=1,
            delayed=4,
            dead=1,
            oldest_age_seconds=0.0,
            consumers=2,
            durable=broker.capabilities.durable,
        )
    await rig.advance(61.0)
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight, depth.delayed, depth.consumers) == (11, 0, 0, 0)


async def test_queues_are_known_once_published_to_or_consumed_from(broker):
    await broker.publish("b", numbered(1))
    async with broker.consume("a", options()):
        pass
    assert list(await broker.queues()) == ["a", "b"]


async def test_ping_answers(broker):
    await broker.ping()


async def test_counters_are_numbers_that_only_grow(rig, broker):
    before = dict(broker.stats())
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        await take(consumer, 1)
        await rig.advance(60.0)
    after = broker.stats()
    assert after["leases_lost"] == before["leases_lost"] == 0
    if "lease_renewals" in before:
        assert after["lease_renewals"] > before["lease_renewals"]
