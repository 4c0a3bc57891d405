"""Each settlement does what it says, once, for whoever still owns the delivery, and together with its outputs or not at all."""

from __future__ import annotations

import asyncio

import pytest

from pythia.broker import Output, Published, Settled, Settlement
from tests.conformance.rigs import (
    bodies,
    envelope,
    failure,
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
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (0, 0, 0, 0)


async def test_a_retry_counts_an_attempt(broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        for attempt in (1, 2, 3):
            (delivery,) = await take(consumer, 1)
            assert delivery.attempt == attempt
            assert await settle(consumer, delivery, "retry") is Settled.DONE


@pytest.mark.parametrize("kind", ["defer", "release"])
async def test_a_defer_or_a_release_counts_none(broker, kind):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        for _ in range(3):
            (delivery,) = await take(consumer, 1)
            assert delivery.attempt == 1
            assert await settle(consumer, delivery, kind) is Settled.DONE


async def test_what_is_released_comes_before_what_is_younger(broker):
    requires(broker, "ordered")
    await broker.publish("q", numbered(3))
    async with broker.consume("q", options()) as consumer:
        held = await take(consumer, 2)
        await consumer.settle([Settlement(delivery, "release") for delivery in held])
        assert bodies(await take(consumer, 3)) == [b"0", b"1", b"2"]


async def test_a_dead_letter_leaves_the_queue(broker):
    requires(broker, "dead_letters")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        assert await settle(consumer, delivery, "dead_letter", record=failure()) is Settled.DONE
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight, depth.dead) == (0, 0, 1)


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
    depth = await broker.depth("q")
    assert (depth.ready, depth.delayed, depth.dead) == (1, 1, 1)


async def test_a_second_settlement_is_stale_and_changes_nothing(broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        batch = [Settlement(delivery, "ack"), Settlement(delivery, "ack")]
        assert sorted(answer.value for answer in await consumer.settle(batch)) == ["done", "stale"]
        for kind in ("ack", "retry", "defer", "release", "drop", "dead_letter"):
            assert await settle(consumer, delivery, kind, record=failure()) is Settled.STALE
    depth = await broker.depth("q")
    assert (depth.ready, depth.delayed, depth.dead) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["ack", "retry", "defer", "release", "drop", "dead_letter"])
async def test_outputs_are_there_once_the_source_is_settled(broker, kind):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        outputs = [Output("out", envelope(b"1")), Output("out", envelope(b"2")), Output("log", envelope(b"3"))]
        assert await settle(consumer, delivery, kind, outputs=outputs, record=failure()) is Settled.DONE
    async with broker.consume("out", options()) as consumer:
        assert bodies(await take(consumer, 2)) == [b"1", b"2"]
    assert (await broker.depth("log")).ready == 1


async def test_outputs_of_a_stale_settlement_are_not_written(broker):
    requires(broker, "transactional")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        await settle(consumer, delivery, "ack")
        again = await settle(consumer, delivery, "ack", outputs=[Output("out", envelope())])
    assert again is Settled.STALE
    assert (await broker.depth("out")).ready == 0


async def test_a_refused_settlement_leaves_the_delivery_ours_to_settle_again(rig, broker):
    await broker.publish("q", numbered(2))
    async with broker.consume("q", options()) as consumer:
        first, second = await take(consumer, 2)
        async with rig.refusing():
            batch = [Settlement(first, "ack", outputs=[Output("out", envelope())]), Settlement(second, "retry")]
            assert list(await soon(consumer.settle(batch))) == [Settled.REFUSED, Settled.REFUSED]
            assert (await broker.depth("q")).in_flight == 2
            assert (await broker.depth("out")).ready == 0
        assert list(await soon(consumer.settle(batch))) == [Settled.DONE, Settled.DONE]
    assert (await broker.depth("q")).ready == 1
    assert (await broker.depth("out")).ready == 1


async def test_a_refused_publish_takes_nothing(rig, broker):
    async with rig.refusing():
        assert await soon(broker.publish("q", numbered(2))) == [Published.REFUSED] * 2
    assert (await broker.depth("q")).ready == 0
    assert await broker.publish("q", numbered(1)) == [Published.CONFIRMED]


async def test_a_receive_outlasts_a_time_in_which_nothing_can_be_written(rig, broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        async with rig.refusing():
            receiving = asyncio.create_task(consumer.receive(1))
            await soon(broker.publish("q", numbered(1)))
        (delivery,) = await soon(receiving)
        assert await settle(consumer, delivery, "ack") is Settled.DONE
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight) == (0, 0)
