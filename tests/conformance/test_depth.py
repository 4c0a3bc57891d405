"""What a broker says of itself is true, and what it cannot tell is None."""

from __future__ import annotations

import pytest

from pythia.broker import QueueDepth
from tests.conformance.rigs import failure, holds, numbered, options, requires, settle, take, told, until


async def test_an_unknown_queue_is_empty(broker):
    depth = await broker.depth("nobody")
    assert depth.queue == "nobody"
    assert told(depth, ready=0, in_flight=0, delayed=0, dead=0, consumers=0)


async def test_every_message_is_counted_where_it_is(rig, broker):
    requires(broker, "delay", "dead_letters")
    await broker.publish("q", numbered(10))
    await broker.publish("q", numbered(3), delay=60.0)
    async with broker.consume("q", options(prefetch=4)) as consumer:
        held = await take(consumer, 4)
        await settle(consumer, held[0], "dead_letter", record=failure())
        await settle(consumer, held[1], "retry", delay=60.0)
        (again,) = await take(consumer, 1)
        await settle(consumer, again, "ack")
        await consumer.drain()
        await holds(broker, "q", ready=5, in_flight=2, delayed=4, dead=1)
        depth = await broker.depth("q")
        assert depth.durable in {None, broker.capabilities.durable}
        assert depth.oldest_age_seconds is None or 0.0 <= depth.oldest_age_seconds < 10.0
        if rig.virtual:
            expected = {"ready": 5, "in_flight": 2, "delayed": 4, "dead": 1, "consumers": 1, "oldest_age_seconds": 0.0}
            assert depth == QueueDepth(queue="q", durable=broker.capabilities.durable, **expected)
    await holds(broker, "q", ready=7, in_flight=0, delayed=4, dead=1, consumers=0)


async def test_what_is_due_is_ready(rig, broker):
    requires(broker, "delay")
    await broker.publish("q", numbered(3), delay=rig.delay)
    async with broker.consume(
        "q", options(prefetch=1)
    ):  # somebody has to be there, on a server that does nothing by itself
        await rig.advance(rig.delay + rig.grain)
        await until(lambda: _all_there(broker))


async def _all_there(broker) -> bool:
    depth = await broker.depth("q")
    return depth.ready + (depth.in_flight or 0) in {2, 3}  # one may be in the consumer's hand


async def test_the_consumers_of_a_queue_are_counted(rig, broker):
    other = await rig.another()
    async with broker.consume("q", options()), other.consume("q", options()):
        await holds(broker, "q", consumers=2)
    await holds(broker, "q", consumers=0)


async def test_queues_are_known_once_published_to_or_consumed_from(broker):
    requires(broker, "lists_queues")
    await broker.publish("b", numbered(1))
    async with broker.consume("a", options()):
        pass
    assert list(await broker.queues()) == ["a", "b"]


@pytest.mark.fleeting
async def test_ping_answers(broker):
    await broker.ping()


async def test_counters_are_numbers_that_only_grow(rig, broker):
    before = dict(broker.stats())
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options(lease=rig.lease)) as consumer:
        await take(consumer, 1)
        await rig.advance(rig.lease * 2 if rig.virtual else rig.lease)
    after = broker.stats()
    numbers = {name: value for name, value in after.items() if isinstance(value, int) and not isinstance(value, bool)}
    assert all(value >= before.get(name, 0) for name, value in numbers.items())
    if broker.capabilities.leased:
        assert after["leases_lost"] == before["leases_lost"] == 0
    if "lease_renewals" in before:
        assert after["lease_renewals"] > before["lease_renewals"]


@pytest.mark.fleeting
async def test_a_healthy_broker_has_no_trouble_and_is_not_blocked(broker):
    stats = broker.stats()
    assert (stats.get("trouble"), stats.get("blocked")) == (None, None)


@pytest.mark.fleeting
async def test_a_survey_is_sentences_for_a_person(broker):
    survey = await broker.survey(["q", "never-seen"])
    for sentence in (*survey.offers, *survey.risks):
        assert isinstance(sentence, str)
        assert len(sentence.split()) > 2
    if broker.capabilities.lists_queues:
        assert list(await broker.queues()) == [], "looking makes no queue"
