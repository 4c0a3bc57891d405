"""Delays are kept and not early; a lease is kept for as long as its consumer lives, and not longer than it may be."""

from __future__ import annotations

import asyncio

import pytest

from pythia.broker import Output, Settled
from tests.conformance.rigs import LEASE, bodies, envelope, failure, numbered, options, requires, settle, soon, take


async def test_a_delayed_message_comes_at_its_time_and_not_before(rig, broker):
    requires(broker, "delay")
    await broker.publish("q", numbered(1), delay=60.0)
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        await rig.advance(59.9)
        depth = await broker.depth("q")
        assert (depth.ready, depth.delayed, receiving.done()) == (0, 1, False)
        await rig.advance(0.1)
        assert bodies(await soon(receiving)) == [b"0"]


@pytest.mark.parametrize("kind", ["retry", "defer"])
async def test_a_delayed_settlement_comes_back_at_its_time_and_not_before(rig, broker, kind):
    requires(broker, "delay")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        await settle(consumer, delivery, kind, delay=10.0)
        receiving = asyncio.create_task(consumer.receive(1))
        await rig.advance(9.9)
        assert not receiving.done()
        assert (await broker.depth("q")).delayed == 1
        await rig.advance(0.1)
        (again,) = await soon(receiving)
    assert again.attempt == (2 if kind == "retry" else 1)
    assert again.first_seen == delivery.first_seen


async def test_delayed_messages_come_in_the_order_of_their_times(rig, broker):
    requires(broker, "delay")
    for delay in (30.0, 10.0, 20.0):
        await broker.publish("q", [envelope(str(delay).encode())], delay=delay)
    async with broker.consume("q", options()) as consumer:
        seen = []
        for _ in range(3):
            await rig.advance(10.0)
            seen += bodies(await take(consumer, 1))
    assert seen == [b"10.0", b"20.0", b"30.0"]


async def test_a_waiting_retry_holds_nobody_up(rig, broker):
    await broker.publish("q", numbered(2))
    async with broker.consume("q", options()) as consumer:
        (first,) = await take(consumer, 1)
        await settle(consumer, first, "retry", delay=3600.0)
        assert bodies(await take(consumer, 1)) == [b"1"]


async def test_a_living_consumer_keeps_what_it_holds_beyond_its_lease(rig, broker):
    requires(broker, "leased")
    other = await rig.another()
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer, other.consume("q", options()) as thief:
        (delivery,) = await take(consumer, 1)
        stealing = asyncio.create_task(thief.receive(1))
        await rig.advance(4 * LEASE)
        assert not stealing.done()
        assert await settle(consumer, delivery, "ack") is Settled.DONE
        await thief.drain()
        assert list(await soon(stealing)) == []


async def test_what_a_killed_consumer_held_comes_back_with_its_lease_uncounted(rig, broker):
    requires(broker, "leased")
    other = await rig.another()
    await broker.publish("q", numbered(2))
    async with broker.consume("q", options()) as heir:
        dying = other.consume("q", options())
        await take(await dying.__aenter__(), 2)
        await rig.crash(other)
        receiving = asyncio.create_task(heir.receive(10))
        await rig.advance(LEASE - 1)
        assert not receiving.done()
        assert (await broker.depth("q")).in_flight == 2
        await rig.advance(1.1)
        again = await soon(receiving)
        await dying.__aexit__(None, None, None)
    assert bodies(again) == [b"0", b"1"]
    assert [(delivery.attempt, delivery.redelivered) for delivery in again] == [(1, True)] * 2


@pytest.mark.parametrize("kind", ["ack", "retry", "defer", "release", "drop", "dead_letter"])
async def test_nothing_is_written_for_a_delivery_that_was_lost(rig, broker, kind):
    requires(broker, "leased")
    other = await rig.another()
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        zombie = other.consume("q", options())
        (stale,) = await take(await zombie.__aenter__(), 1)
        await rig.crash(other)
        await rig.advance(LEASE + 1)
        (ours,) = await take(consumer, 1)
        answer = await settle(consumer, stale, kind, outputs=[Output("out", envelope())], record=failure())
        assert answer is Settled.STALE
        assert (await broker.depth("out")).ready == 0
        depth = await broker.depth("q")
        assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (0, 1, 0, 0)
        assert await settle(consumer, ours, "ack") is Settled.DONE
        await zombie.__aexit__(None, None, None)


async def test_what_is_held_for_too_long_is_lost_and_its_owner_told(rig, broker):
    requires(broker, "leased")
    lost = []
    watched = options(max_hold=60.0, on_lost=lambda deliveries, reason: lost.append((tuple(deliveries), reason)))
    await broker.publish("q", numbered(2))
    async with broker.consume("q", watched) as consumer:
        first, second = await take(consumer, 2)
        await rig.advance(59.0)
        assert await settle(consumer, second, "ack") is Settled.DONE
        assert lost == []
        await rig.advance(1.0 + LEASE + LEASE / 3)
        ((deliveries, reason),) = lost
        assert deliveries == (first,)
        assert reason
        (again,) = await take(consumer, 1)
        assert again.identity == first.identity
        assert await settle(consumer, first, "ack") is Settled.STALE
        assert await settle(consumer, again, "ack") is Settled.DONE


async def test_the_age_of_the_oldest_ready_message_is_told(rig, broker):
    assert (await broker.depth("q")).oldest_age_seconds is None
    await broker.publish("q", [envelope(priority=1)])
    await rig.advance(5.0)
    await broker.publish("q", [envelope(priority=2)])
    await rig.advance(2.0)
    assert (await broker.depth("q")).oldest_age_seconds == pytest.approx(7.0)
    await broker.publish("other", numbered(1), delay=60.0)
    assert (await broker.depth("other")).oldest_age_seconds is None
