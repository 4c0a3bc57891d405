"""A connection that is cut, silent or refused is noticed and told; what was held comes back, and nothing is made up."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit, urlunsplit

import pytest

from pythia.broker import Published, Settled, Settlement
from pythia.brokers import open_broker
from pythia.errors import BrokerRefused, BrokerUnavailable, PublishError
from tests.conformance.real_rigs import config_of
from tests.conformance.rigs import bodies, envelope, failure, holds, numbered, options, settle, soon, take, until
from tests.kit.proxy import Proxy

HEARTBEAT = 1


pytestmark = pytest.mark.usefixtures("real")


@pytest.fixture
def proxy(rig):
    with Proxy.before(rig.url, 5672 if rig.url.startswith("amqp") else 6379) as proxy:
        yield proxy


@pytest.fixture
async def frail(rig, proxy):
    """A broker whose connections go through the proxy."""
    broker = rig.make(
        proxy.url(rig.url), **{"broker.heartbeat_seconds": HEARTBEAT, "broker.connect_timeout_seconds": 1}
    )
    await broker.connect()
    return broker


async def reconnected(frail) -> None:
    async def connects() -> bool:
        try:
            await frail.connect()
            await frail.ping()
        except BrokerUnavailable:
            return False
        return True

    await until(connects)


@pytest.mark.fleeting
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_cut_connection_is_told_to_who_watches_and_who_receives(frail, proxy, how):
    with pytest.raises(BrokerUnavailable):
        async with frail.consume("q", options()) as consumer:
            watching = asyncio.create_task(consumer.watch())
            receiving = asyncio.create_task(consumer.receive(1))
            await frail.ping()
            proxy.cut(how)
            for waiting in (watching, receiving):
                with pytest.raises(BrokerUnavailable):
                    await soon(waiting)
            await soon(consumer.receive(1))


@pytest.mark.fleeting
async def test_a_cut_is_told_to_who_watches_while_nobody_receives(frail, proxy):
    async with frail.consume("q", options()) as consumer:
        watching = asyncio.create_task(consumer.watch())
        await frail.ping()
        proxy.cut()
        with pytest.raises(BrokerUnavailable):
            await soon(watching)


@pytest.mark.fleeting
async def test_a_connection_on_which_nothing_comes_any_more_is_noticed(frail, proxy):
    async with frail.consume("q", options()) as consumer:
        watching = asyncio.create_task(consumer.watch())
        await frail.ping()
        proxy.blackhole()
        with pytest.raises(BrokerUnavailable):
            await soon(watching)
        proxy.heal()


async def test_what_was_held_when_the_connection_was_cut_comes_back_at_once_uncounted(rig, broker, frail, proxy):
    await broker.publish("q", numbered(3))
    async with frail.consume("q", options(lease=60.0)) as consumer:
        held = await take(consumer, 3)
        proxy.cut()
        try:
            answer = await settle(consumer, held[1], "ack")
        except BrokerUnavailable:
            answer = Settled.STALE
        assert answer is Settled.STALE
    await reconnected(frail)
    async with frail.consume("q", options(lease=60.0)) as consumer:
        again = await take(consumer, 3)  # long before the lease is over
        assert bodies(again) == [b"0", b"1", b"2"]
        assert [(delivery.attempt, delivery.redelivered) for delivery in again] == [(1, True)] * 3
        for delivery in again:
            assert await settle(consumer, delivery, "ack") is Settled.DONE
    await holds(broker, "q", ready=0, in_flight=0)


async def test_a_publish_whose_answer_is_lost_is_in_doubt(broker, frail, proxy):
    await frail.publish("q", numbered(1))
    before = proxy.bytes["up"]
    proxy.blackhole("down")
    publishing = asyncio.create_task(frail.publish("q", [envelope(b"in doubt")]))
    await until(lambda: _sent(proxy, before))
    await holds(broker, "q", ready=2)
    proxy.cut()
    try:
        answers = await soon(publishing)
    except PublishError as error:
        assert error.in_doubt is True
    else:
        assert answers == [Published.UNKNOWN]
    proxy.heal()
    await holds(broker, "q", ready=2)  # sent once: nobody sends it again behind our back


async def _sent(proxy, before: int) -> bool:
    return proxy.bytes["up"] > before


@pytest.mark.fleeting
async def test_a_server_that_cannot_be_reached_is_unavailable_until_it_can(frail, proxy):
    await frail.close()
    proxy.refuse()
    with pytest.raises(BrokerUnavailable):
        await soon(frail.connect())
    proxy.heal()
    await reconnected(frail)


@pytest.mark.fleeting
async def test_a_server_that_accepts_and_says_nothing_is_unavailable(frail, proxy):
    await frail.close()
    proxy.blackhole()
    with pytest.raises(BrokerUnavailable):
        await soon(frail.connect())


@pytest.mark.fleeting
async def test_a_wrong_password_is_refused_in_a_sentence_that_does_not_hold_it(rig):
    parts = urlsplit(rig.url)
    wrong = f"guest:canary-7h3@{parts.netloc.rpartition('@')[2]}"
    broker = open_broker(urlunsplit(parts._replace(netloc=wrong)), config=config_of())
    with pytest.raises(BrokerRefused) as caught:
        await soon(broker.connect())
    await broker.close()
    error: BaseException | None = caught.value
    assert len(str(error).split()) > 4
    while error is not None:
        assert "canary" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


async def test_a_message_whose_delivery_is_lost_on_its_way_comes_again(broker, frail, proxy):
    """The server has handed it out and nobody got it: it is not left with whoever never heard of it."""
    handed_out, tries = False, 0
    while not handed_out:
        handed_out, tries = await _published_to_who_hears_nothing(broker, frail, proxy), tries + 1
        async with frail.consume("q", options(lease=60.0)) as consumer:
            (again,) = await take(consumer, 1)  # long before the lease is over
            assert (again.envelope.body, again.attempt) == (b"1", 1)
            assert await settle(consumer, again, "ack") is Settled.DONE
        assert handed_out or tries < 10, "the server never handed it out"
    await holds(broker, "q", ready=0, in_flight=0)


async def _published_to_who_hears_nothing(broker, frail, proxy) -> bool:
    """Whether the server handed it out: who asks again and again may have been between two questions."""
    with contextlib.suppress(BrokerUnavailable):
        async with frail.consume("q", options(lease=60.0)) as consumer:
            receiving = asyncio.create_task(consumer.receive(1))
            for _ in range(3):  # so long the reader may ask for other things first
                await frail.ping()
            proxy.blackhole("down")
            await broker.publish("q", [envelope(b"1")])
            await until(lambda: _holds_an_answer_back(proxy))
            depth = await broker.depth("q")
            proxy.cut()
            with pytest.raises(BrokerUnavailable):
                await soon(receiving)
    proxy.heal()
    await reconnected(frail)
    return depth.ready == 0


async def _holds_an_answer_back(proxy) -> bool:
    return proxy.held > 0


@pytest.mark.parametrize("kind", ["ack", "retry", "dead_letter"])
async def test_a_settlement_whose_answer_is_lost_loses_nothing_and_is_carried_out_once_where_it_is_one_step(
    rig, broker, frail, proxy, kind
):
    """RabbitMQ has no transactions: there the copy may be written and the source come again."""
    await broker.publish("q", numbered(2))
    with contextlib.suppress(BrokerUnavailable):
        async with frail.consume("q", options(lease=60.0)) as consumer:
            first, held = await take(consumer, 2)
            await settle(
                consumer, first, kind, record=failure()
            )  # a fresh server does not know the script yet, and asks
            before = proxy.bytes["up"]
            proxy.blackhole("down")
            settling = asyncio.create_task(settle(consumer, held, kind, record=failure()))
            if rig.name.startswith("redis"):
                await holds(broker, "q", in_flight=0)
            else:
                await until(lambda: _sent(proxy, before))
            proxy.cut()
            with contextlib.suppress(BrokerUnavailable):
                assert await soon(settling) in {Settled.STALE, Settled.DONE}
    proxy.heal()
    await reconnected(frail)
    left, counted = await emptied(frail), {"ack": 0, "retry": 2, "dead_letter": 2}[kind]
    if rig.name.startswith("redis"):
        assert left == counted
    else:
        assert counted <= left <= counted + 1


async def emptied(broker) -> int:
    """How many messages there are, dead letters among them; acks what is handed out."""
    async with broker.consume("q", options(lease=60.0)) as consumer:
        count = 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(1.0):
                    (delivery,) = await consumer.receive(1)
                assert await settle(consumer, delivery, "ack") is Settled.DONE
                count += 1
    return count + len(await broker.dead_letters("q").list(limit=10))


async def test_a_link_on_which_few_bytes_come_at_a_time_and_late_is_not_given_up(frail, proxy):
    async with frail.consume("q", options()) as consumer:
        await frail.publish("elsewhere", [envelope()])
        proxy.slow(slices=8)
        proxy.delay(0.05)
        watching = asyncio.create_task(consumer.watch())
        assert await frail.publish("q", numbered(5)) == [Published.CONFIRMED] * 5
        for one in await take(consumer, 5):
            assert one.redelivered is False
            assert await settle(consumer, one, "ack") is Settled.DONE
        assert not watching.done()
        watching.cancel()
        proxy.heal()


@pytest.mark.parametrize("count", [1, 7, 40, 300, 1500])
async def test_what_was_on_its_way_when_a_link_was_cut_in_mid_frame_is_in_doubt_and_nothing_is_lost(
    broker, frail, proxy, count
):
    await broker.publish("q", numbered(10))
    confirmed = 10
    with contextlib.suppress(BrokerUnavailable):
        async with frail.consume("q", options(lease=60.0)) as consumer:
            held = await take(consumer, 10)
            proxy.cut_after(count)
            with contextlib.suppress(BrokerUnavailable, PublishError):
                confirmed += (await soon(frail.publish("q", [envelope(b"11" * 2000)]))).count(Published.CONFIRMED)
            with contextlib.suppress(BrokerUnavailable):
                await soon(consumer.settle([Settlement(one, "release") for one in held]))
            await until(lambda: _is_cut(proxy))
    proxy.heal()
    await reconnected(frail)
    async with frail.consume("q", options(lease=60.0)) as consumer:
        again = await take(consumer, confirmed)
        assert {one.attempt for one in again} == {1}
        assert {b"%d" % number for number in range(10)} <= {one.envelope.body for one in again}


async def _is_cut(proxy) -> bool:
    return proxy.cuts > 0
