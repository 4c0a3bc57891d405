"""What only the memory broker has: faults on request, kills, cuts, stores by name, and other threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pythia.broker import ConsumeOptions, Published, Settled, Settlement
from pythia.brokers import open_broker
from pythia.brokers.memory import Faults, MemoryBroker
from pythia.clock import VirtualClock
from pythia.errors import BrokerUnavailable
from pythia.message import Envelope


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
async def broker(clock):
    broker = MemoryBroker(clock=clock)
    await broker.connect()
    yield broker
    await broker.close()


def options(**changes):
    return ConsumeOptions(**{"prefetch": 100, "lease": 30.0, "max_hold": None, "consumer": "c"} | changes)


def messages(count):
    return [Envelope(b"x", id=f"m{n}") for n in range(count)]


async def soon(wanted):
    async with asyncio.timeout(10):
        return await wanted


def unavailable(*_):
    raise BrokerUnavailable("asked for by a test")


async def test_a_broker_of_its_own_is_private_and_a_named_one_is_shared():
    private, one, two, other = MemoryBroker(), *map(open_broker, ("memory://a", "memory://a", "memory://b"))
    for broker in (private, one, two, other):
        await broker.connect()
    await one.publish("q", messages(1))
    depths = [(await broker.depth("q")).ready for broker in (private, one, two, other)]
    assert depths == [0, 1, 1, 0]


async def test_a_publish_from_another_thread_wakes_a_consumer():
    name = "memory://threads"
    broker = open_broker(name)
    await broker.connect()

    async def publish():
        other = open_broker(name)
        await other.connect()
        await other.publish("q", messages(1))

    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: asyncio.run(publish()))
        thread.start()
        (delivery,) = await soon(receiving)
        thread.join()
        await consumer.settle([Settlement(delivery, "ack")])


async def test_a_crash_with_its_lease_gives_back_only_when_that_is_over(broker, clock):
    await broker.publish("q", messages(1))
    lost = []
    async with broker.consume("q", options(on_lost=lambda *told: lost.append(told))) as consumer:
        (stale,) = await soon(consumer.receive(1))
        broker.crash(at_once=False)
        with pytest.raises(BrokerUnavailable):
            await soon(consumer.receive(1))
        assert await consumer.settle([Settlement(stale, "ack")]) == [Settled.STALE]
    await broker.connect()
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        await clock.advance(29.9)
        assert not receiving.done()
        await clock.advance(0.1)
        (again,) = await soon(receiving)
    assert (again.attempt, again.deliveries) == (1, 2)


async def test_a_crash_at_once_tells_nobody_and_gives_back_now(broker):
    await broker.publish("q", messages(2))
    lost = []
    async with broker.consume("q", options(on_lost=lambda *told: lost.append(told))) as consumer:
        await soon(consumer.receive(2))
        broker.crash()
    assert lost == []
    await broker.connect()
    assert (await broker.depth("q")).ready == 2


async def test_a_cut_tells_the_owner_and_fails_until_connected_again(broker):
    await broker.publish("q", messages(1))
    lost = []
    async with broker.consume("q", options(on_lost=lambda *told: lost.append(told))) as consumer:
        (delivery,) = await soon(consumer.receive(1))
        receiving = asyncio.create_task(consumer.receive(1))
        await asyncio.sleep(0)
        broker.cut("pulled")
        with pytest.raises(BrokerUnavailable, match="pulled"):
            await soon(receiving)
        assert await consumer.settle([Settlement(delivery, "ack")]) == [Settled.STALE]
        with pytest.raises(BrokerUnavailable):
            await broker.publish("q", messages(1))
    assert lost == [((delivery,), "pulled")]
    await broker.connect()
    assert (await broker.depth("q")).ready == 1


async def test_a_consumer_that_stops_renewing_loses_what_it_holds_and_is_told(broker, clock):
    await broker.publish("q", messages(2))
    lost = []
    async with broker.consume("q", options(on_lost=lambda ds, reason: lost.extend(ds))) as consumer:
        (first,) = await soon(consumer.receive(1))
        await clock.advance(100.0)
        consumer.stop_renewing()
        (second,) = await soon(consumer.receive(1))
        await clock.advance(30.0)
        assert lost == [first, second]
        assert broker.stats() == {"leases_lost": 2}
        assert await consumer.settle([Settlement(first, "ack")]) == [Settled.STALE]


async def test_a_connect_can_be_made_to_fail(broker):
    await broker.close()
    broker.faults.connect = unavailable
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    broker.faults.connect = None
    await broker.connect()


async def test_a_receive_can_be_made_to_fail(broker):
    broker.faults.receive = unavailable
    async with broker.consume("q", options()) as consumer:
        with pytest.raises(BrokerUnavailable):
            await consumer.receive(1)


async def test_publishes_can_be_refused_left_in_doubt_or_fail():
    answers = iter([None, Published.REFUSED, Published.UNKNOWN])
    broker = MemoryBroker(faults=Faults(publish=lambda _queue, _envelope: next(answers)))
    await broker.connect()
    assert await broker.publish("q", messages(3)) == [Published.CONFIRMED, Published.REFUSED, Published.UNKNOWN]
    assert (await broker.depth("q")).ready == 2
    broker.faults.publish = unavailable
    with pytest.raises(BrokerUnavailable):
        await broker.publish("q", messages(1))
    assert (await broker.depth("q")).ready == 2


async def test_settlements_can_be_refused_stale_or_lose_their_answer(broker):
    await broker.publish("q", messages(3))
    answers = iter([Settled.REFUSED, Settled.STALE, None])
    broker.faults.settle = lambda _settlement: next(answers)
    async with broker.consume("q", options()) as consumer:
        batch = [Settlement(delivery, "ack") for delivery in await consumer.receive(3)]
        assert await consumer.settle(batch) == [Settled.REFUSED, Settled.STALE, Settled.DONE]
        assert (await broker.depth("q")).in_flight == 2
        broker.faults.settle, broker.faults.settled = None, unavailable
        with pytest.raises(BrokerUnavailable):
            await consumer.settle(batch[:1])
        assert (await broker.depth("q")).in_flight == 1, "it was carried out; only the answer was lost"
