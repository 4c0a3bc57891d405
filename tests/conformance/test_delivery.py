"""Messages come out as they went in: in order, within the limit, to one consumer at a time, and back when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pythia.broker import Published, Settled, Settlement
from pythia.errors import BrokerUnavailable
from pythia.message import Delivery
from tests.conformance.rigs import (
    bodies,
    envelope,
    failure,
    holds,
    is_left_waiting,
    numbered,
    options,
    requires,
    settle,
    soon,
    take,
)


async def test_a_publish_is_confirmed_for_each_message(broker):
    assert await broker.publish("q", numbered(3)) == [Published.CONFIRMED] * 3
    await holds(broker, "q", ready=3)


@pytest.mark.fleeting
async def test_publishing_nothing_does_nothing(broker):
    assert list(await broker.publish("q", [])) == []


async def test_preparing_a_queue_takes_nothing_from_it_and_from_nobody(broker):
    await broker.publish("q", numbered(4))
    async with broker.consume("q", options(prefetch=1)) as consumer:
        (first,) = await take(consumer, 1)
        await broker.prepare("q")
        await broker.prepare("q")
        await holds(broker, "q", ready=3)
        assert await settle(consumer, first, "ack") is Settled.DONE
    async with broker.consume("q", options()) as consumer:
        assert bodies(await take(consumer, 3)) == [b"1", b"2", b"3"]


@pytest.mark.fleeting
async def test_a_broker_that_is_not_connected_prepares_nothing(broker):
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await broker.prepare("q")


async def test_receive_gives_no_more_than_its_limit(broker):
    await broker.publish("q", numbered(5))
    async with broker.consume("q", options(concurrency=100)) as consumer:
        seen = 0
        while seen < 5:
            some = len(await soon(consumer.receive(3)))
            assert 1 <= some <= 3
            seen += some
    assert seen == 5


async def test_no_more_than_prefetch_is_held_at_once(broker):
    await broker.publish("q", numbered(5))
    async with broker.consume("q", options(prefetch=3)) as consumer:
        held = await take(consumer, 3, limit=100)
        assert bodies(held) == [b"0", b"1", b"2"]
        receiving = asyncio.create_task(consumer.receive(100))
        await asyncio.wait((receiving,), timeout=0.1)
        assert not receiving.done()
        assert await settle(consumer, held[0], "ack") is Settled.DONE
        assert bodies(await soon(receiving)) == [b"3"]


async def test_what_a_full_consumer_does_not_take_is_there_for_another(rig, broker):
    other = await rig.another()
    await broker.publish("q", numbered(5))
    async with broker.consume("q", options(prefetch=2)) as full, other.consume("q", options()) as second:
        held = await take(full, 2, limit=100)
        rest = await take(second, 3)
        assert sorted(bodies([*held, *rest])) == [b"0", b"1", b"2", b"3", b"4"]
        for delivery in held:
            assert await settle(full, delivery, "ack") is Settled.DONE
    await holds(broker, "q", ready=3)


@pytest.mark.fleeting
async def test_several_consumers_of_one_broker_are_apart(broker):
    async with broker.consume("a", options()) as one, broker.consume("b", options()) as two:
        await broker.publish("a", numbered(2))
        await broker.publish("b", numbered(2))
        (first,), (second,) = await take(one, 1), await take(two, 1)
        assert (first.queue, second.queue) == ("a", "b")
        assert await settle(two, second, "ack") is Settled.DONE
        await two.drain()
        assert await settle(one, first, "ack") is Settled.DONE
        assert bodies(await take(one, 1)) == [b"1"]


async def test_a_lone_consumer_sees_messages_in_the_order_of_their_publishing(broker):
    requires(broker, "ordered")
    await broker.publish("q", numbered(50))
    async with broker.consume("q", options()) as consumer:
        seen = []
        for _ in range(50):
            (delivery,) = await take(consumer, 1)
            seen.append(int(delivery.envelope.body))
            await settle(consumer, delivery, "ack")
    assert seen == list(range(50))


async def test_higher_priorities_come_first_and_none_counts_as_zero(broker):
    requires(broker, "priority")
    levels = [None, 1, 9, 0, 9]
    await broker.publish("q", [envelope(str(n).encode(), priority=level) for n, level in enumerate(levels)])
    async with broker.consume("q", options()) as consumer:
        deliveries = await take(consumer, 5)
    assert bodies(deliveries) == [b"2", b"4", b"1", b"0", b"3"]
    assert deliveries[3].envelope.priority is None


@pytest.mark.fleeting
async def test_a_waiting_consumer_is_woken_by_a_publish(broker):
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(10))
        await broker.publish("q", numbered(1))
        assert bodies(await soon(receiving)) == [b"0"]


@pytest.mark.fleeting
async def test_a_waiting_consumer_is_woken_by_a_publish_of_another_process(rig, broker):
    other = await rig.another()
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(10))
        await other.publish("q", numbered(1))
        assert bodies(await soon(receiving)) == [b"0"]


@pytest.mark.fleeting
async def test_queues_are_apart(broker):
    await broker.publish("a", numbered(1))
    async with broker.consume("b", options()) as consumer:
        assert await is_left_waiting(broker, consumer)


async def test_two_consumers_share_a_queue_without_duplicates(rig, broker):
    other = await rig.another()
    await broker.publish("q", numbered(200))
    seen: list[int] = []

    async def work(consumer):
        while deliveries := await consumer.receive(7):
            seen.extend(int(delivery.envelope.body) for delivery in deliveries)
            await consumer.settle([Settlement(delivery, "ack") for delivery in deliveries])
            if len(seen) == 200:
                await asyncio.gather(one.drain(), two.drain())

    async with broker.consume("q", options()) as one, other.consume("q", options()) as two:
        await soon(asyncio.gather(work(one), work(two)))
    assert sorted(seen) == list(range(200))


async def test_leaving_a_consumer_gives_back_what_is_unsettled_uncounted(broker):
    await broker.publish("q", numbered(3))
    async with broker.consume("q", options()) as consumer:
        held = await take(consumer, 3)
        await settle(consumer, held[1], "ack")
    async with broker.consume("q", options()) as consumer:
        again = await take(consumer, 2)
    assert bodies(again) == [b"0", b"2"]
    assert [delivery.attempt for delivery in again] == [1, 1]
    assert all(delivery.redelivered for delivery in again)


async def test_a_settlement_after_the_consumer_was_left_is_stale(broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
    async with broker.consume("q", options()) as later:
        assert await settle(later, delivery, "ack") is Settled.STALE
        assert len(await take(later, 1)) == 1


@pytest.mark.fleeting
async def test_drain_makes_a_waiting_receive_return_nothing(broker):
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(10))
        await broker.ping()
        await consumer.drain()
        assert list(await soon(receiving)) == []
        assert list(await soon(consumer.receive(10))) == []
        await consumer.drain()


async def test_a_drained_consumer_takes_nothing_but_still_settles(broker):
    await broker.publish("q", numbered(3))
    async with broker.consume("q", options()) as consumer:
        (held,) = await soon(consumer.receive(1))
        await consumer.drain()
        assert list(await soon(consumer.receive(10))) == []
        await holds(broker, "q", ready=2)
        assert await settle(consumer, held, "ack") is Settled.DONE
    await holds(broker, "q", ready=2)


async def test_a_drain_in_the_middle_of_a_flood_loses_nothing(broker):
    await broker.publish("q", numbered(100))
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(50))
        await asyncio.sleep(0)
        await consumer.drain()
        await soon(receiving)
    await holds(broker, "q", ready=100, in_flight=0)


async def a_turn(_receiving: asyncio.Task[Sequence[Delivery]]) -> None:
    await asyncio.sleep(0)


async def an_answer(receiving: asyncio.Task[Sequence[Delivery]]) -> None:
    """Until what the task waits for has come, and before the task's next step: there is room for a cancellation there."""
    while not receiving.done() and ((waited := receiving._fut_waiter) is None or not waited.done()):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("moment", "rounds"), [(a_turn, 20), (an_answer, 5)])
async def test_a_cancelled_receive_loses_nothing(broker, moment, rounds):
    async with broker.consume("q", options()) as consumer:
        for number in range(rounds):
            receiving = asyncio.create_task(consumer.receive(10))
            await asyncio.sleep(0)
            publishing = asyncio.create_task(broker.publish("q", [envelope(str(number).encode())]))
            await soon(moment(receiving))
            receiving.cancel()
            await asyncio.wait((receiving,))
            await publishing
            if not receiving.cancelled():
                await consumer.settle([Settlement(delivery, "release") for delivery in receiving.result()])
        assert sorted(int(body) for body in bodies(await take(consumer, rounds))) == list(range(rounds))


async def test_a_cancelled_publish_takes_nobody_else_down(broker):
    publishing = asyncio.create_task(broker.publish("q", numbered(10)))
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.wait((publishing,))
    assert await broker.publish("q", numbered(1)) == [Published.CONFIRMED]
    assert (await broker.depth("q")).ready in (1, 11)


QUESTIONS = {
    "depth": lambda broker: broker.depth("q"),
    "count": lambda broker: broker.dead_letters("q").count(),
    "list": lambda broker: broker.dead_letters("q").list(),
    "ping": lambda broker: broker.ping(),
    "publish": lambda broker: broker.publish("q", numbered(1)),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_cancelled_question_takes_nobody_else_down(broker, question):
    requires(broker, "dead_letters")
    async with broker.consume("q", options()) as consumer:
        for turns in range(12):  # cut short at every stage of it
            asking = asyncio.create_task(_ask(broker, question))
            await asyncio.sleep(turns * 0.0005)
            asking.cancel()
            await soon(asyncio.gather(asking, return_exceptions=True))
            await soon(_ask(broker, question))
        await soon(consumer.drain())
    await soon(broker.ping())


async def _ask(broker, question):
    return await QUESTIONS[question](broker)


async def test_the_number_of_deliveries_is_told(broker):
    requires(broker, "counts_deliveries")
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        for count in (1, 2, 3):
            (delivery,) = await take(consumer, 1)
            assert (delivery.deliveries, delivery.redelivered) == (count, count > 1)
            await settle(consumer, delivery, "release")


async def test_one_stored_message_has_one_identity(broker):
    await broker.publish("q", [envelope(b"a", id="same"), envelope(b"b", id="same")])
    async with broker.consume("q", options()) as consumer:
        first, second = await take(consumer, 2)
        if first.identity is None:
            pytest.skip("this broker cannot tell")
        assert first.identity != second.identity
        await settle(consumer, first, "retry")
        (again,) = await take(consumer, 1)
        assert again.identity == first.identity


async def test_what_is_there_survives_closing_and_connecting_again(broker):
    await broker.publish("q", numbered(2))
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await broker.publish("q", numbered(1))
    await broker.close()
    await broker.connect()
    await broker.connect()
    await holds(broker, "q", ready=2)


async def test_closing_the_broker_gives_back_what_its_consumers_hold(rig, broker):
    other = await rig.another()
    await broker.publish("q", numbered(2))
    async with broker.consume("q", options()) as consumer:
        await take(consumer, 2)
        await broker.close()
        assert (await other.depth("q")).ready == 2
    await broker.connect()


@pytest.mark.fleeting
async def test_a_consumer_of_a_closed_broker_says_so(broker):
    async with broker.consume("q", options()) as consumer:
        await broker.close()
        with pytest.raises(BrokerUnavailable):
            await soon(consumer.receive(1))
    await broker.connect()


@pytest.mark.fleeting
async def test_a_broker_that_was_never_connected_says_so(rig, broker):
    await broker.close()
    letters = [broker.dead_letters("q").count()] if broker.capabilities.dead_letters else []
    queues = [broker.queues()] if broker.capabilities.lists_queues else []
    for attempt in (broker.ping(), broker.depth("q"), *queues, *letters):
        with pytest.raises(BrokerUnavailable, match="connect"):
            await attempt
    with pytest.raises(BrokerUnavailable, match="connect"):
        async with broker.consume("q", options()):
            pass
    await broker.connect()


async def test_a_hundred_messages_of_one_id_are_a_hundred_messages(broker):
    """An id names nothing to a broker: two producers may have given the same, or one that was in doubt gave it twice."""
    sent = [envelope(b"%d" % number, id="same") for number in range(100)]
    assert await broker.publish("q", sent) == [Published.CONFIRMED] * 100
    async with broker.consume("q", options()) as consumer:
        taken = await take(consumer, 100)
        assert sorted(map(int, bodies(taken))) == list(range(100))
        for one in taken[:50]:
            assert await settle(consumer, one, "ack") is Settled.DONE
        for one in taken[50:]:
            assert await settle(consumer, one, "dead_letter", record=failure()) is Settled.DONE
    await holds(broker, "q", ready=0, in_flight=0, dead=50)
