"""Within an ordering key one message is out at a time, in the order of publishing, over every consumer of the queue."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from pythia.broker import Settled, Settlement
from tests.conformance.rigs import (
    bodies,
    envelope,
    failure,
    is_left_waiting,
    numbered,
    options,
    requires,
    settle,
    soon,
    take,
)


@pytest.fixture(autouse=True)
def keys(broker):
    requires(broker, "ordering_keys")


async def test_one_message_of_a_key_is_out_at_a_time(broker):
    await broker.publish("q", numbered(3, ordering_key="k"))
    async with broker.consume("q", options()) as consumer:
        for number in range(3):
            (delivery,) = await soon(consumer.receive(10))
            assert delivery.envelope.body == str(number).encode()
            await settle(consumer, delivery, "ack")


async def test_other_keys_and_messages_without_one_go_on(broker):
    await broker.publish("q", [envelope(b"a1", ordering_key="a"), envelope(b"a2", ordering_key="a")])
    await broker.publish("q", [envelope(b"b1", ordering_key="b"), envelope(b"free")])
    async with broker.consume("q", options()) as consumer:
        assert bodies(await take(consumer, 3)) == [b"a1", b"b1", b"free"]


async def test_a_key_is_held_over_consumers(rig, broker):
    other = await rig.another()
    await broker.publish("q", numbered(2, ordering_key="k"))
    async with broker.consume("q", options()) as one, other.consume("q", options()) as two:
        (first,) = await soon(one.receive(10))
        receiving = asyncio.create_task(two.receive(10))
        await other.ping()
        assert not receiving.done()
        await settle(one, first, "ack")
        assert bodies(await soon(receiving)) == [b"1"]


@pytest.mark.parametrize("kind", ["retry", "defer"])
async def test_a_failing_message_is_not_overtaken_within_its_key(rig, broker, kind):
    await broker.publish("q", numbered(2, ordering_key="k"))
    async with broker.consume("q", options()) as consumer:
        (first,) = await soon(consumer.receive(10))
        await settle(consumer, first, kind, delay=rig.delay)
        depth = await broker.depth("q")
        assert (depth.ready, depth.delayed) == (0, 2)
        await rig.advance(rig.delay + 0.1)
        assert bodies(await soon(consumer.receive(10))) == [b"0"]


async def test_a_released_message_is_not_overtaken_within_its_key(broker):
    await broker.publish("q", numbered(2, ordering_key="k"))
    async with broker.consume("q", options()) as consumer:
        (first,) = await soon(consumer.receive(10))
        await settle(consumer, first, "release")
        assert bodies(await soon(consumer.receive(10))) == [b"0"]


@pytest.mark.parametrize("kind", ["ack", "drop", "dead_letter"])
async def test_the_next_goes_when_the_first_is_gone(broker, kind):
    await broker.publish("q", numbered(2, ordering_key="k"))
    async with broker.consume("q", options()) as consumer:
        (first,) = await soon(consumer.receive(10))
        assert (await broker.depth("q")).ready == 1
        assert await settle(consumer, first, kind, record=failure()) is Settled.DONE
        assert bodies(await soon(consumer.receive(10))) == [b"1"]


async def test_a_delayed_message_holds_up_the_younger_ones_of_its_key(rig, broker):
    await broker.publish("q", [envelope(b"0", ordering_key="k")], delay=rig.delay)
    await broker.publish("q", [envelope(b"1", ordering_key="k")])
    async with broker.consume("q", options()) as consumer:
        assert await is_left_waiting(broker, consumer)
    await rig.advance(rig.delay + 1.0)
    async with broker.consume("q", options()) as consumer:
        assert bodies(await soon(consumer.receive(10))) == [b"0"]


async def test_a_younger_message_keeps_its_own_delay(rig, broker):
    await broker.publish("q", [envelope(b"0", ordering_key="k")])
    await broker.publish("q", [envelope(b"1", ordering_key="k")], delay=rig.delay)
    async with broker.consume("q", options()) as consumer:
        (first,) = await soon(consumer.receive(10))
        await settle(consumer, first, "ack")
        assert (await broker.depth("q")).delayed == 1
        await rig.advance(rig.delay + 0.1)
        assert bodies(await soon(consumer.receive(10))) == [b"1"]


async def test_a_killed_consumer_gives_its_key_back(rig, broker):
    requires(broker, "leased")
    other = await rig.another()
    await broker.publish("q", numbered(2, ordering_key="k"))
    dying = other.consume("q", options(lease=rig.lease))
    await soon((await dying.__aenter__()).receive(10))
    await rig.crash(other)
    await rig.advance(rig.lease + 1)
    async with broker.consume("q", options()) as consumer:
        assert bodies(await soon(consumer.receive(10))) == [b"0"]
    await dying.__aexit__(None, None, None)


async def test_the_same_key_in_two_queues_is_two_keys(broker):
    await broker.publish("a", [envelope(ordering_key="k")])
    await broker.publish("b", [envelope(ordering_key="k")])
    async with broker.consume("a", options()) as one, broker.consume("b", options()) as two:
        assert len(await soon(one.receive(10))) == len(await soon(two.receive(10))) == 1


async def test_many_keys_over_two_consumers_stay_in_order(rig, broker):
    other = await rig.another()
    await broker.publish("q", [envelope(str(n).encode(), ordering_key=f"k{n % 7}") for n in range(140)])
    seen: dict[str, list[int]] = defaultdict(list)

    async def work(consumer):
        while deliveries := await consumer.receive(5):
            keys = [delivery.envelope.ordering_key for delivery in deliveries]
            assert len(set(keys)) == len(keys)
            for delivery in deliveries:
                seen[delivery.envelope.ordering_key].append(int(delivery.envelope.body))
            await consumer.settle([Settlement(delivery, "ack") for delivery in deliveries])
            if sum(map(len, seen.values())) == 140:
                await asyncio.gather(one.drain(), two.drain())

    async with broker.consume("q", options()) as one, other.consume("q", options()) as two:
        await soon(asyncio.gather(work(one), work(two)))
    assert all(numbers == sorted(numbers) for numbers in seen.values())
