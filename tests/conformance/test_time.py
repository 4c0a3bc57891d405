"""Delays are kept and not early; a lease is kept for as long as its consumer lives, and not longer than it may be."""

from __future__ import annotations

import asyncio

import pytest

from pythia.broker import Output, Settled
from pythia.errors import BrokerUnavailable
from tests.conformance.rigs import (
    bodies,
    envelope,
    failure,
    holds,
    killed,
    numbered,
    options,
    requires,
    settle,
    soon,
    take,
)


async def test_a_delayed_message_comes_at_its_time_and_not_before(rig, broker):
    requires(broker, "delay")
    published = rig.clock.time()
    await broker.publish("q", numbered(1), delay=rig.delay)
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        if rig.virtual:
            await rig.advance(rig.delay - 0.1)
            depth = await broker.depth("q")
            assert (depth.ready, depth.delayed, receiving.done()) == (0, 1, False)
            await rig.advance(0.1)
        (delivery,) = await soon(receiving)
    assert rig.clock.time() - published >= rig.delay - rig.grain
    assert delivery.envelope.body == b"0"
    assert delivery.first_seen == pytest.approx(published + rig.delay, abs=2.0), "its age counts from when it was due"


@pytest.mark.parametrize("kind", ["retry", "defer"])
async def test_a_delayed_settlement_comes_back_at_its_time_and_not_before(rig, broker, kind):
    requires(broker, "delay")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        settled = rig.clock.time()
        await settle(consumer, delivery, kind, delay=rig.delay)
        receiving = asyncio.create_task(consumer.receive(1))
        if rig.virtual:
            await rig.advance(rig.delay - 0.1)
            assert not receiving.done()
            assert (await broker.depth("q")).delayed == 1
            await rig.advance(0.1)
        (again,) = await soon(receiving)
    assert rig.clock.time() - settled >= rig.delay - rig.grain
    assert again.attempt == (2 if kind == "retry" else 1)
    assert again.first_seen == pytest.approx(delivery.first_seen, abs=rig.grain)
    assert again.envelope.id == delivery.envelope.id


async def test_delayed_messages_come_in_the_order_of_their_times(rig, broker):
    requires(broker, "delay")
    for share in (1.5, 0.5, 1.0):
        await broker.publish("q", [envelope(str(share).encode())], delay=share * rig.delay)
    async with broker.consume("q", options()) as consumer:
        seen = []
        for _ in range(3):
            if rig.virtual:
                await rig.advance(rig.delay / 2)
            seen += bodies(await take(consumer, 1))
    assert seen == [b"0.5", b"1.0", b"1.5"]


async def test_a_waiting_retry_holds_nobody_up(rig, broker):
    requires(broker, "delay")
    await broker.publish("q", numbered(2))
    async with broker.consume("q", options(prefetch=1)) as consumer:
        (first,) = await take(consumer, 1)
        await settle(consumer, first, "retry", delay=3600.0)
        assert bodies(await take(consumer, 1)) == [b"1"]


@pytest.mark.parametrize("kind", ["retry", "defer"])
async def test_a_delayed_settlement_survives_the_worker(rig, broker, kind):
    requires(broker, "delay")
    worker = await rig.another()
    await broker.publish("q", [envelope(b"x", id="m1", headers={"a": "b"})])
    async with worker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        settled = rig.clock.time()
        await settle(consumer, delivery, kind, delay=rig.delay)
    await worker.close()
    await broker.close()  # nobody is there while it waits
    if rig.virtual:
        await rig.advance(rig.delay / 2)
    await broker.connect()
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        if rig.virtual:
            assert not receiving.done()
            await rig.advance(rig.delay / 2)
        (again,) = await soon(receiving)
    assert rig.clock.time() - settled >= rig.delay - rig.grain
    assert (again.envelope.id, again.envelope.body, dict(again.envelope.headers)) == ("m1", b"x", {"a": "b"})
    assert again.attempt == (2 if kind == "retry" else 1)


async def test_a_living_consumer_keeps_what_it_holds_beyond_its_lease(rig, broker):
    requires(broker, "leased")
    other = await rig.another()
    await broker.publish("q", numbered(1))
    leased = options(lease=rig.lease)
    async with broker.consume("q", leased) as consumer, other.consume("q", leased) as thief:
        (delivery,) = await take(consumer, 1)
        stealing = asyncio.create_task(thief.receive(1))
        await rig.advance(rig.lease * (4 if rig.virtual else 2))
        assert not stealing.done()
        assert await settle(consumer, delivery, "ack") is Settled.DONE
        await thief.drain()
        assert list(await soon(stealing)) == []


async def test_what_a_killed_consumer_held_comes_back_uncounted_to_another(rig, broker):
    other = await rig.another()
    await broker.publish("q", numbered(2))
    leased = options(lease=rig.lease)
    async with killed(other.consume("q", leased)) as dying:
        held = await take(dying, 2)
        await rig.crash(other)
        async with broker.consume("q", leased) as heir:
            if rig.virtual:
                receiving = asyncio.create_task(heir.receive(10))
                await rig.advance(rig.lease - 1.0)
                assert not receiving.done()
                assert (await broker.depth("q")).in_flight == 2
                await rig.advance(1.1)
                again = await soon(receiving)
            else:
                again = await take(heir, 2)
    assert bodies(again) == bodies(held) == [b"0", b"1"]
    assert [(delivery.attempt, delivery.redelivered) for delivery in again] == [(1, True)] * 2


KINDS = ("ack", "retry", "defer", "release", "drop", "dead_letter")


async def test_nothing_is_written_for_a_delivery_that_was_lost_whatever_its_settlement(rig, broker):
    other = await rig.another()
    await broker.publish("q", numbered(len(KINDS)))
    leased = options(lease=rig.lease)
    async with killed(other.consume("q", leased)) as zombie:
        lost = await take(zombie, len(KINDS))
        await rig.crash(other)
        async with broker.consume("q", leased) as consumer:
            if rig.virtual:
                await rig.advance(rig.lease + 1.0)
            ours = await take(consumer, len(KINDS))
            for one in (consumer, zombie):  # whoever tries
                for kind, stale in zip(KINDS, lost, strict=True):
                    fields = {"outputs": [Output("out", envelope())], "record": failure()}
                    assert await _settled_or_gone(one, stale, kind, **fields) is Settled.STALE, kind
            await holds(broker, "out", ready=0)
            await holds(broker, "q", ready=0, in_flight=len(KINDS), delayed=0, dead=0)
            for delivery in ours:
                assert await settle(consumer, delivery, "ack") is Settled.DONE


async def _settled_or_gone(consumer, delivery, kind, **fields) -> Settled:
    """The answer; no connection to ask over is as good as being told that it is another's."""
    try:
        return await settle(consumer, delivery, kind, **fields)
    except BrokerUnavailable:
        return Settled.STALE


async def test_what_is_held_for_too_long_is_lost_and_its_owner_told(rig, broker):
    requires(broker, "leased")
    lost, told_of_it = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_lost(deliveries, reason):
        lost.append((tuple(deliveries), reason))
        loop.call_soon_threadsafe(told_of_it.set)

    watched = options(lease=rig.lease, max_hold=2 * rig.lease, on_lost=on_lost)
    await broker.publish("q", numbered(2))
    async with broker.consume("q", watched) as consumer:
        first, second = await take(consumer, 2)
        taken = rig.clock.time()
        if rig.virtual:
            await rig.advance(2 * rig.lease - 1.0)
            assert lost == []
        assert await settle(consumer, second, "ack") is Settled.DONE
        if rig.virtual:
            await rig.advance(1.0 + rig.lease + rig.lease / 3)
        await soon(told_of_it.wait())
        assert rig.clock.time() - taken >= 2 * rig.lease - 0.2, "receipt is a moment before the return of `receive`"
        ((deliveries, reason),) = lost
        assert deliveries == (first,)
        assert reason
        (again,) = await take(consumer, 1)
        assert again.identity == first.identity
        assert await settle(consumer, first, "ack") is Settled.STALE
        assert await settle(consumer, again, "ack") is Settled.DONE


async def test_the_age_of_the_oldest_ready_message_is_told(rig, broker):
    if (await broker.depth("q")).ready is None:
        pytest.skip(f"{rig.name} cannot tell")
    assert (await broker.depth("q")).oldest_age_seconds is None
    start = rig.clock.time()
    await broker.publish("q", [envelope(priority=1)])
    await rig.advance(rig.delay / 2)
    await broker.publish("q", [envelope(priority=2)])
    await rig.advance(rig.delay / 4)
    age, passed = (await broker.depth("q")).oldest_age_seconds, rig.clock.time() - start
    if age is None:
        pytest.skip(f"{rig.name} cannot tell")
    assert rig.delay * 0.75 - rig.grain <= age <= passed + rig.grain
    await broker.publish("other", numbered(1), delay=60.0)
    assert (await broker.depth("other")).oldest_age_seconds is None
