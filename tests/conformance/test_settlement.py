"""Each settlement does what it says, once, for whoever still owns the delivery, and together with its outputs or not at all."""

from __future__ import annotations

import asyncio

import pytest

from pythia.broker import Output, Published, Settled, Settlement
from tests.conformance.rigs import (
    bodies,
    envelope,
    failure,
    holds,
    numbered,
    options,
    requires,
    settle,
    soon,
    take,
)


@pytest.mark.parametrize("kind", ["ack", "drop"])
async def test_what_is_acked_or_dropped_is_gone(broker, kind):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        assert await settle(consumer, delivery, kind) is Settled.DONE
    await holds(broker, "q", ready=0, in_flight=0, delayed=0, dead=0)


@pytest.mark.fleeting
async def test_a_retry_counts_an_attempt(broker):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", numbered(1))
        for attempt in (1, 2, 3):
            (delivery,) = await take(consumer, 1)
            assert delivery.attempt == attempt
            assert await settle(consumer, delivery, "retry") is Settled.DONE


@pytest.mark.fleeting
@pytest.mark.parametrize("kind", ["defer", "release"])
async def test_a_defer_or_a_release_counts_none(broker, kind):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", numbered(1))
        for _ in range(3):
            (delivery,) = await take(consumer, 1)
            assert delivery.attempt == 1
            assert await settle(consumer, delivery, kind) is Settled.DONE


async def test_what_is_released_comes_before_what_is_younger(broker):
    requires(broker, "ordered", "keeps_place")
    await broker.publish("q", numbered(3))
    async with broker.consume("q", options(prefetch=2)) as consumer:  # nothing younger is on its way already
        held = await take(consumer, 2)
        await consumer.settle([Settlement(delivery, "release") for delivery in held])
        again = await take(consumer, 2)
        await consumer.settle([Settlement(delivery, "ack") for delivery in again])
        assert bodies([*again, *await take(consumer, 1)]) == [b"0", b"1", b"2"]


async def test_a_dead_letter_leaves_the_queue(broker):
    requires(broker, "dead_letters")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        assert await settle(consumer, delivery, "dead_letter", record=failure()) is Settled.DONE
    await holds(broker, "q", ready=0, in_flight=0, dead=1)


async def test_a_batch_is_answered_item_by_item_in_order(broker):
    await broker.publish("q", numbered(6))
    async with broker.consume("q", options()) as consumer:
        held = await take(consumer, 6)
        await settle(consumer, held[2], "ack")
        kinds = ["ack", "retry", "ack", "release", "dead_letter", "drop"]
        batch = [Settlement(delivery, kind, delay=60.0) for delivery, kind in zip(held, kinds, strict=True)]
        answers = await soon(consumer.settle(batch))
    done, stale = Settled.DONE, Settled.STALE
    assert list(answers) == [done, done, stale, done, done, done]
    await holds(broker, "q", ready=1, in_flight=0, delayed=1, dead=1)


async def test_a_second_settlement_is_stale_and_changes_nothing(broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        batch = [Settlement(delivery, "ack"), Settlement(delivery, "ack")]
        assert sorted(answer.value for answer in await consumer.settle(batch)) == ["done", "stale"]
        for kind in ("ack", "retry", "defer", "release", "drop", "dead_letter"):
            assert await settle(consumer, delivery, kind, record=failure()) is Settled.STALE
    await holds(broker, "q", ready=0, in_flight=0, delayed=0, dead=0)


@pytest.mark.parametrize("kind", ["ack", "retry", "defer", "release", "drop", "dead_letter"])
async def test_outputs_are_there_once_the_source_is_settled(broker, kind):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        outputs = [Output("out", envelope(b"1")), Output("out", envelope(b"2")), Output("log", envelope(b"3"))]
        assert await settle(consumer, delivery, kind, outputs=outputs, record=failure()) is Settled.DONE
    async with broker.consume("out", options()) as consumer:
        assert bodies(await take(consumer, 2)) == [b"1", b"2"]
    await holds(broker, "log", ready=1)


async def test_outputs_of_a_stale_settlement_are_not_written(broker):
    requires(broker, "transactional")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        await settle(consumer, delivery, "ack")
        again = await settle(consumer, delivery, "ack", outputs=[Output("out", envelope())])
    assert again is Settled.STALE
    await holds(broker, "out", ready=0)


@pytest.mark.own_server
async def test_a_refused_settlement_leaves_the_delivery_ours_to_settle_again(rig, broker):
    await broker.publish("q", numbered(2))
    async with broker.consume("q", options()) as consumer:
        first, second = await take(consumer, 2)
        async with rig.refusing():
            batch = [Settlement(first, "ack", outputs=[Output("out", envelope())]), Settlement(second, "retry")]
            assert list(await soon(consumer.settle(batch))) == [Settled.REFUSED, Settled.REFUSED]
            await holds(broker, "q", in_flight=2)
            await holds(broker, "out", ready=0)
        assert list(await soon(consumer.settle(batch))) == [Settled.DONE, Settled.DONE]
    await holds(broker, "q", ready=1)
    await holds(broker, "out", ready=1)


@pytest.mark.own_server
async def test_a_refused_publish_takes_nothing(rig, broker):
    async with rig.refusing():
        assert await soon(broker.publish("q", numbered(2))) == [Published.REFUSED] * 2
    await holds(broker, "q", ready=0)
    assert await broker.publish("q", numbered(1)) == [Published.CONFIRMED]


@pytest.mark.own_server
async def test_a_receive_outlasts_a_time_in_which_nothing_can_be_written(rig, broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        async with rig.refusing():
            receiving = asyncio.create_task(consumer.receive(1))
            await soon(broker.publish("q", numbered(1)))
        (delivery,) = await soon(receiving)
        assert await settle(consumer, delivery, "ack") is Settled.DONE
    await holds(broker, "q", ready=0, in_flight=0)
