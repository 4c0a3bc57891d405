"""A broker that keeps nothing says so, and is exactly that: who is there hears a message once, and what is dropped is counted."""

from __future__ import annotations

import pytest

from pythia.broker import Published, Settled
from tests.conformance.rigs import bodies, failure, numbered, options, settle, take, until

pytestmark = [pytest.mark.fleeting, pytest.mark.usefixtures("forgetful")]


async def test_it_promises_nothing_that_it_cannot_hold(broker):
    can = broker.capabilities
    assert (can.guarantee, can.durable, can.keeps, can.leased, can.delay) == (
        "at-most-once",
        False,
        False,
        False,
        False,
    )
    assert (can.dead_letters, can.dead_queue, can.counts_deliveries, can.transactional) == (False, None, False, False)


async def test_who_is_not_there_misses_it_and_who_said_it_is_told(broker):
    assert await broker.publish("q", numbered(2)) == [Published.REFUSED] * 2
    async with broker.consume("q", options()) as consumer:
        assert await broker.publish("q", [*numbered(3)[2:]]) == [Published.CONFIRMED]
        assert bodies(await take(consumer, 1)) == [b"2"]


async def test_everybody_who_is_there_hears_everything_in_its_order(rig, broker):
    other = await rig.another()
    async with broker.consume("q", options()) as one, other.consume("q", options()) as two:
        await broker.publish("q", numbered(20))
        expected = [str(number).encode() for number in range(20)]
        assert bodies(await take(one, 20)) == bodies(await take(two, 20)) == expected


@pytest.mark.parametrize("kind", ["retry", "defer"])
async def test_what_failed_comes_again_after_its_delay_while_this_process_lives(rig, broker, kind):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", numbered(1))
        (delivery,) = await take(consumer, 1)
        settled = rig.clock.time()
        assert await settle(consumer, delivery, kind, delay=0.3) is Settled.DONE
        (again,) = await take(consumer, 1)
        assert rig.clock.time() - settled >= 0.3 - rig.grain
        assert (again.attempt, again.redelivered) == (2 if kind == "retry" else 1, True)
        assert again.envelope.body == b"0"


@pytest.mark.parametrize("kind", ["ack", "drop", "dead_letter"])
async def test_what_is_settled_for_good_is_gone_and_settled_once(broker, kind):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", numbered(2))
        first, second = await take(consumer, 2)
        assert await settle(consumer, first, kind, record=failure()) is Settled.DONE
        assert await settle(consumer, first, "retry") is Settled.STALE
        assert await settle(consumer, second, "ack") is Settled.DONE


async def test_no_more_than_the_prefetch_is_kept_ahead_and_the_rest_is_counted(broker):
    async with broker.consume("q", options(prefetch=3)) as consumer:
        await broker.publish("q", numbered(10))

        async def heard() -> bool:
            return broker.stats()["dropped"] == 7

        await until(heard)
        assert bodies(await take(consumer, 3)) == [b"0", b"1", b"2"]


async def test_what_is_unsettled_when_the_consumer_leaves_is_dropped_and_counted(broker):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", numbered(4))
        held = await take(consumer, 2)
        await settle(consumer, held[0], "ack")
    assert broker.stats()["dropped"] >= 1
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", [*numbered(10)[9:]])
        assert bodies(await take(consumer, 1)) == [b"9"]
