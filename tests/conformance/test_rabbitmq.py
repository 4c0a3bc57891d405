"""What only RabbitMQ has: exchanges, queues that others declared, a window of what is pushed, delays in its own queues."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import pytest

from pythia.broker import ConsumerCancelled, Output, Published, Settled, Settlement
from pythia.brokers.rabbitmq import RabbitBroker, RabbitSettings, delays, link, wire
from pythia.brokers.rabbitmq.copies import Copies
from pythia.brokers.rabbitmq.link import DRIVERS_PATIENCE, QUESTIONS_AT_ONCE, Link
from pythia.errors import BrokerRefused, PublishError, Unsupported
from tests.conformance.rigs import bodies, envelope, failure, numbered, options, settle, soon, take
from tests.kit import servers


@pytest.fixture
def url() -> str:
    return servers.require_rabbitmq()


@pytest.fixture
def q() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def server(url: str, q: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """Somebody else's channel; whatever is named after the test is deleted at its end."""
    connection = await aio_pika.connect(url)
    async with connection:
        yield await connection.channel()
        for name in (q, f"{q}.dead", f"{q}.x", f"{q}.x.dead", f"{q}.out"):
            async with connection.channel() as channel:
                await channel.queue_delete(name)
            async with connection.channel() as channel:
                await channel.exchange_delete(name)


@pytest.fixture
async def make(url: str) -> AsyncIterator[Callable[..., Any]]:
    made: list[RabbitBroker] = []

    async def make(**settings: Any) -> RabbitBroker:
        broker = RabbitBroker(url, RabbitSettings(**settings))
        made.append(broker)
        await broker.connect()
        return broker

    yield make
    for broker in made:
        await broker.close()


async def until(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not (holds() if not asyncio.iscoroutinefunction(holds) else await holds()):
            await asyncio.sleep(0.01)


# -- many queues --------------------------------------------------------------------------------------------------------


async def test_of_many_queues_a_few_at_a_time_are_asked_about(make, q, monkeypatch):
    """A thousand declared at once bring a server to a standstill."""
    broker = await make()
    open_channels, most = set(), 0
    channel, close = Link.channel, link.close

    async def opened(self):
        nonlocal most
        made = await channel(self)
        open_channels.add(made)
        most = max(most, len(open_channels))
        return made

    async def closed(made):
        await close(made)
        open_channels.discard(made)

    monkeypatch.setattr(Link, "channel", opened)
    monkeypatch.setattr(link, "close", closed)
    counts = await asyncio.gather(*(broker.depth(q) for _ in range(5 * QUESTIONS_AT_ONCE)))
    assert len(counts) == 5 * QUESTIONS_AT_ONCE
    assert 1 < most <= QUESTIONS_AT_ONCE


# -- topology ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "keys", "said", "unsaid"),
    [
        ("direct", ("eu", "us"), ["eu", "us"], "asia"),
        ("topic", ("orders.#", "*.urgent"), ["orders.eu.1", "mail.urgent"], "mail.slow"),
        ("fanout", None, ["anything", ""], None),
    ],
)
async def test_a_queue_is_bound_to_the_exchange_of_the_configuration(server, make, q, kind, keys, said, unsaid):
    broker = await make(exchange=f"{q}.x", exchange_type=kind, routing_keys=keys)
    async with broker.consume(q, options()) as consumer:
        for key in said:
            assert await broker.publish(key, [envelope(key.encode())], exchange=f"{q}.x") == [Published.CONFIRMED]
        if unsaid is not None:
            assert await broker.publish(unsaid, [envelope()], exchange=f"{q}.x") == [Published.REFUSED]
        assert sorted(bodies(await take(consumer, len(said)))) == sorted(key.encode() for key in said)


@pytest.mark.parametrize("what", ["exchange", "binding"])
async def test_an_exchange_or_a_binding_that_was_deleted_refuses_what_is_published_and_is_made_again_by_who_consumes_next(
    server, make, q, what
):
    """Nobody tells a consumer of it: its queue is there. Its producers hear it, and whoever connects next makes it anew."""
    broker = await make(exchange=f"{q}.x", exchange_type="direct", routing_keys=("eu",))
    async with broker.consume(q, options()):
        if what == "exchange":
            await server.exchange_delete(f"{q}.x")
        else:
            await (await server.get_queue(q)).unbind(f"{q}.x", "eu")
        assert await broker.publish("eu", [envelope()], exchange=f"{q}.x") == [Published.REFUSED]
    again = await make(exchange=f"{q}.x", exchange_type="direct", routing_keys=("eu",))
    async with again.consume(q, options()) as consumer:
        assert await again.publish("eu", [envelope(b"1")], exchange=f"{q}.x") == [Published.CONFIRMED]
        assert bodies(await take(consumer, 1)) == [b"1"]


async def test_a_message_to_no_queue_or_no_exchange_is_refused_and_hurts_nobody_else(server, make, q):
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        answers = await asyncio.gather(
            broker.publish(q, numbered(50)),
            broker.publish("nobody", [envelope()]),
            broker.publish("key", [envelope()], exchange=f"{q}.nowhere"),
            broker.publish(q, numbered(50)),
        )
        assert [set(some) for some in answers] == [
            {Published.CONFIRMED},
            {Published.REFUSED},
            {Published.REFUSED},
            {Published.CONFIRMED},
        ]
        assert len(await take(consumer, 100)) == 100


async def test_two_messages_of_one_id_in_flight_are_each_answered_for_themselves(server, make, q):
    """The driver finds a returned message by its id: the first would be taken for confirmed when the second is."""
    broker = await make()
    await server.declare_queue(f"{q}.out", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    twins = [envelope(b"1", id="same"), envelope(b"2", id="same"), envelope(b"3", id="same")]
    assert await broker.publish("nobody", twins) == [Published.REFUSED] * 3


async def test_a_delay_goes_to_a_queue_and_not_to_an_exchange(make):
    with pytest.raises(Unsupported, match="queue"):
        await (await make()).publish("key", [envelope()], exchange="x", delay=1.0)


async def test_without_declare_nothing_is_made_and_what_is_missing_is_said(server, make, q):
    broker = await make(declare=False)
    with pytest.raises(ConsumerCancelled, match=f"{q}.*broker.declare is false"):
        async with broker.consume(q, options()):
            pass
    assert (await broker.depth(q)).ready == 0
    async with (await make()).consume(q, options()):
        pass
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        assert bodies(await take(consumer, 1)) == [b"0"]


# -- queues that are there already -------------------------------------------------------------------------------------

THEIRS = [
    {"x-queue-type": "classic"},
    {"x-queue-type": "classic", "x-max-priority": 5},
    {"x-queue-type": "quorum", "x-max-length": 1000, "x-overflow": "reject-publish"},
    {"x-queue-type": "quorum", "x-delivery-limit": 5, "x-dead-letter-exchange": "amq.fanout"},
    {"x-message-ttl": 3_600_000},
]


@pytest.mark.parametrize("arguments", THEIRS, ids=str)
async def test_a_queue_with_other_arguments_is_consumed_as_it_is(server, make, q, arguments):
    await server.declare_queue(q, durable=True, arguments=arguments)
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(2))
        first, second = await take(consumer, 2)
        await settle(consumer, first, "retry", delay=0.3)
        await settle(consumer, second, "dead_letter", record=failure())
        (again,) = await take(consumer, 1)
        assert (again.attempt, again.envelope.id) == (2, first.envelope.id)
        await settle(consumer, again, "ack")
    assert await broker.dead_letters(q).count() == 1


@pytest.mark.parametrize("flags", [{"durable": False}, {"durable": True, "auto_delete": True}], ids=str)
async def test_a_queue_that_is_not_durable_is_consumed_too(server, make, q, flags):
    await server.declare_queue(q, **flags)
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        assert len(await take(consumer, 1)) == 1


async def test_arguments_are_found_out_without_changing_anything(server, make, q):
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 7, "x-single-active-consumer": True, "x-max-length": 9}
    await server.declare_queue(q, durable=True, arguments=arguments)
    broker = await make()
    assert await broker._looking().arguments(q) == arguments
    await server.declare_queue(q, durable=True, arguments=arguments)  # still the same


@pytest.mark.parametrize(
    ("written", "key"),
    [({"x-queue-type": "quorum"}, "rabbitmq.queue_type"), ({"x-max-length": 5}, "rabbitmq.arguments")],
)
async def test_what_the_user_wrote_and_the_queue_contradicts_is_refused_with_what_to_do(server, make, q, written, key):
    await server.declare_queue(q, durable=True, arguments={"x-queue-type": "classic"})
    broker = await make(written=written, arguments={k: v for k, v in written.items() if k != "x-queue-type"})
    with pytest.raises(BrokerRefused, match=f"{key} says") as caught:
        async with broker.consume(q, options()):
            pass
    assert caught.value.exit_code == 78


async def test_a_queue_that_would_drop_what_was_delivered_too_often_is_refused_unless_allowed(server, make, q):
    await server.declare_queue(q, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
    with pytest.raises(BrokerRefused, match=r"delivered 3 times.*rabbitmq\.allow_drop"):
        async with (await make()).consume(q, options()):
            pass
    broker = await make(allow_drop=True)
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        assert len(await take(consumer, 1)) == 1
    risks = (await broker.survey([q, f"{q}.nobody"])).risks
    assert [risk for risk in risks if "3 times" in risk] != []
    assert len([risk for risk in risks if "allow_drop is true" in risk]) == 1


async def test_the_survey_tells_what_is_risky_about_a_queue(server, make, q):
    await server.declare_queue(q, durable=True, arguments={"x-queue-type": "classic", "x-max-length": 5})
    survey = await (await make()).survey([q, f"{q}.nobody"])
    assert any("classic" in risk for risk in survey.risks)
    assert any("x-max-length" in risk for risk in survey.risks)
    assert not any("nobody" in risk for risk in survey.risks)


async def test_the_driver_does_not_give_up_a_connection_whose_loop_was_blocked(make):
    broker = await make(heartbeat=1)
    link = broker._speaking
    assert vars(link._wire)[DRIVERS_PATIENCE] == math.inf, "the driver has this attribute, and it is ours"
    await asyncio.sleep(0)
    time.sleep(5)  # its own patience is 6 s, the server's 2
    await broker.ping()
    assert link is broker._speaking
    assert link.is_open


@pytest.mark.parametrize("direct", [True, False])
async def test_acks_that_were_written_just_before_the_end_are_not_forgotten(make, q, direct):
    """By a quorum queue, which holds them back while it is busy."""
    broker = await make(direct=direct)
    for _ in range(6):
        async with broker.consume(q, options(prefetch=200, concurrency=200)) as consumer:
            await broker.publish(q, numbered(200))
            taken = await take(consumer, 200)
            await consumer.drain()
            for delivery in (*taken[1::2], *taken[::2]):  # each in a frame of its own
                assert await consumer.settle([Settlement(delivery, "ack")]) == [Settled.DONE]
        assert not any(delivery.redelivered for delivery in taken)
    await broker.publish(q, [envelope(b"end")])
    async with broker.consume(q, options()) as consumer:
        assert bodies(await take(consumer, 1)) == [b"end"]


async def test_dead_letters_of_the_server_are_shown_with_what_it_said(server, make, q):
    """A queue of theirs whose dead letters the server put where ours are."""
    await server.declare_queue(f"{q}.dead", durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{q}.dead", "x-message-ttl": 1}
    await server.declare_queue(q, durable=True, arguments=arguments)
    await server.default_exchange.publish(aio_pika.Message(b"{}", message_id="m1", headers={"a": 1}), routing_key=q)
    broker = await make()

    async def arrived():
        return await broker.dead_letters(q).count() == 1

    await until(arrived)
    (letter,) = await broker.dead_letters(q).list()
    assert (letter.id, letter.reason, letter.attempts, letter.origin_queue) == ("m1", None, None, q)
    assert letter.envelope.headers["a"] == 1


# -- what is pushed ----------------------------------------------------------------------------------------------------


async def test_no_more_is_pushed_than_handlers_can_start(server, make, q):
    broker = await make()
    async with broker.consume(q, options(concurrency=3, prefetch=500)) as consumer:
        await broker.publish(q, numbered(20))
        held = await take(consumer, 3)
        other = await make()
        async with other.consume(q, options(concurrency=50)) as elsewhere:
            assert len(await take(elsewhere, 17)) == 17, "the rest is another's"
        await consumer.settle([Settlement(delivery, "ack") for delivery in held])


async def test_the_window_widens_for_who_asks_for_more_and_never_beyond_the_prefetch(server, make, q):
    broker = await make()
    await server.declare_queue(q, durable=True, arguments={"x-queue-type": "quorum"})
    async with broker.consume(q, options(concurrency=1, prefetch=40)) as consumer:
        await broker.publish(q, numbered(100))
        held = await take(consumer, 40)
        receiving = asyncio.create_task(consumer.receive(100))
        other = await make()
        async with other.consume(q, options(concurrency=100)) as elsewhere:
            assert len(await take(elsewhere, 60)) == 60
        assert not receiving.done()
        await consumer.settle([Settlement(held[0], "release")])
        assert len(await soon(receiving)) >= 1


async def test_what_nobody_asks_for_goes_back_to_others_within_moments(server, make, q):
    broker, other = await make(), await make()
    async with broker.consume(q, options(concurrency=5)):
        await broker.publish(q, numbered(5))  # pushed to a consumer that never asks
        async with other.consume(q, options(concurrency=5)) as elsewhere:
            assert sorted(bodies(await take(elsewhere, 5))) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_window_is_whole_again_once_what_filled_it_is_settled(server, make, q):
    broker = await make()
    async with broker.consume(q, options(concurrency=4, prefetch=8)) as consumer:
        await broker.publish(q, numbered(40))
        done = 0
        while done < 40:
            batch = await take(consumer, min(8, 40 - done))
            await consumer.settle([Settlement(delivery, "ack") for delivery in batch])
            done += len(batch)
    assert (await broker.depth(q)).ready == 0


# -- copies and delays -------------------------------------------------------------------------------------------------


async def test_a_copy_that_is_not_confirmed_leaves_its_source_ours(server, make, q, monkeypatch):
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        (delivery,) = await take(consumer, 1)
        monkeypatch.setattr(Copies, "_confirmed", lambda self, _delivery: False)
        assert await settle(consumer, delivery, "retry", delay=5.0) is Settled.REFUSED
        monkeypatch.undo()
        assert await settle(consumer, delivery, "retry", delay=5.0) is Settled.DONE
        assert await settle(consumer, delivery, "ack") is Settled.STALE
    assert (await broker.depth(q)).ready == 0, "asking again published nothing again"


async def test_an_output_to_a_queue_that_was_never_made_has_it_made(server, make, q):
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        (delivery,) = await take(consumer, 1)
        assert await settle(consumer, delivery, "ack", outputs=[Output(f"{q}.out", envelope(b"o"))]) is Settled.DONE
    assert (await broker.depth(f"{q}.out")).ready == 1


async def test_a_dead_letters_queue_that_was_deleted_is_made_again(server, make, q):
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        (delivery,) = await take(consumer, 1)
        await server.queue_delete(f"{q}.dead")
        assert await settle(consumer, delivery, "dead_letter", record=failure()) is Settled.DONE
    assert await broker.dead_letters(q).count() == 1


async def test_a_message_that_comes_before_it_is_due_is_sent_on_and_nobody_sees_it(server, make, q):
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        due = time.time() + 0.8
        headers = {wire.DUE: repr(due), wire.TO: q, "a": "b", wire.ATTEMPT: 3}  # aio-pika writes single floats
        early = aio_pika.Message(b"x", message_id="m1", headers=headers)
        await server.default_exchange.publish(early, routing_key=q)
        (delivery,) = await take(consumer, 1)
        assert time.time() >= due - 0.02
        assert (delivery.attempt, delivery.envelope.id, dict(delivery.envelope.headers)) == (3, "m1", {"a": "b"})
        await settle(consumer, delivery, "ack")


async def test_a_long_delay_waits_in_a_coarse_queue_with_its_moment(server, make, q):
    broker = await make()
    async with broker.consume(q, options()):
        before = await _ready(server, delays.coarse(960))
        assert await broker.publish(q, numbered(1), delay=1000.0) == [Published.CONFIRMED]
        assert await _ready(server, delays.coarse(960)) == before + 1
    taken = await _take_from(server, delays.coarse(960), q)
    assert taken.headers[wire.DUE] == pytest.approx(time.time() + 1000.0, abs=60)


async def test_what_comes_back_to_a_queue_that_is_gone_is_kept_and_fetched_by_who_consumes_it_next(server, make, q):
    broker = await make()
    async with broker.consume(q, options()) as consumer:
        await broker.publish(q, numbered(1))
        (delivery,) = await take(consumer, 1)
        await settle(consumer, delivery, "retry", delay=0.3)
    await server.queue_delete(q)
    async with asyncio.timeout(10):
        while not await _is_in(server, delays.UNROUTED, q):
            await asyncio.sleep(0.05)
    async with broker.consume(q, options()) as consumer:
        (again,) = await take(consumer, 1)
        assert (again.envelope.id, again.attempt) == (delivery.envelope.id, 2)
        await settle(consumer, again, "ack")


async def test_a_delay_to_a_queue_that_does_not_exist_is_refused(make, q):
    assert await (await make()).publish(q, numbered(1), delay=1.0) == [Published.REFUSED]


async def test_all_our_objects_of_a_virtual_host_are_at_most_24(make, url, q, server):
    broker = await make()
    async with broker.consume(q, options()):
        names = {delays.level(n) for n in range(delays.LEVELS)} | {delays.RETURN, delays.UNROUTED}
        for name in names:
            await server.get_exchange(name, ensure=True)
        for name in (*delays.every_queue(quorum=True), delays.UNROUTED):
            await server.get_queue(name, ensure=True)


# -- headers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2**70, float("inf"), float("nan")])
async def test_a_header_that_amqp_cannot_carry_is_refused_before_anything_is_sent(server, make, q, value):
    broker = await make()
    async with broker.consume(q, options()):
        with pytest.raises(PublishError, match="header 'n'") as caught:
            await broker.publish(q, [envelope(), envelope(headers={"n": value})])
        assert not caught.value.in_doubt
        assert (await broker.depth(q)).ready == 0


async def _ready(server, queue: str) -> int:
    declared = await server.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count


async def _take_from(server, queue: str, to: str) -> aio_pika.abc.AbstractIncomingMessage:
    """The message of the test's own in a queue that others use too; the others go back."""
    channel = await server._connection.channel()
    try:
        source = await channel.get_queue(queue, ensure=False)
        while (message := await source.get(fail=False)) is not None:
            if message.headers.get(wire.TO) == to:
                await message.ack()
                return message
    finally:
        await channel.close()
    raise AssertionError(f"nothing for {to} in {queue}")


async def _is_in(server, queue: str, to: str) -> bool:
    channel = await server._connection.channel()
    try:
        source = await channel.get_queue(queue, ensure=False)
        while (message := await source.get(fail=False)) is not None:
            if message.headers.get(wire.TO) == to:
                return True
    finally:
        await channel.close()
    return False
