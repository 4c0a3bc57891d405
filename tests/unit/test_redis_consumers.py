"""What a consumer of ours does beyond the contract's words: leases, delays, wakes, copies; and what pub/sub does not do."""

from __future__ import annotations

import asyncio
import json

import pytest

from pythia.broker import Published, Settled, Settlement
from pythia.brokers.redis import RedisSettings
from pythia.brokers.redis.pubsub import RedisPubSubBroker
from pythia.errors import BrokerUnavailable, PublishError, Unsupported
from tests.unit.redis_kit import envelope, options, settle, soon, take, until

pytest_plugins = ["tests.unit.redis_fixtures"]

BOTH = pytest.mark.parametrize("mode", ["stream", "list"])


@pytest.fixture
async def channel(redis):
    broker = RedisPubSubBroker(redis.url, RedisSettings(heartbeat=1.0))
    await broker.connect()
    yield broker
    await broker.close()


async def test_a_blocked_event_loop_keeps_its_leases(redis, brokers):
    broker = await brokers("stream")
    await broker.publish("q", [envelope()])
    async with broker.consume("q", options(lease=0.3)) as consumer:
        (held,) = await take(consumer)
        renewed = broker.stats()["lease_renewals"]
        while broker.stats()["lease_renewals"] < renewed + 5:  # the loop stands still all the while
            assert redis.cli("XPENDING", "q", "pythia", "IDLE", "300", "-", "+", "9").strip() == ""
        assert await settle(consumer, held, "ack") is Settled.DONE


@BOTH
async def test_a_delayed_message_comes_soon_after_its_time_however_many_there_are(redis, brokers, mode):
    broker = await brokers(mode)
    await broker.publish("q", [envelope(b"%d" % number) for number in range(350)], delay=0.2)
    assert (await broker.depth("q")).delayed == 350
    async with broker.consume("q", options(prefetch=1000)) as consumer:
        assert len(await take(consumer, 350)) == 350
    assert redis.cli("ZCARD", "{q}:delayed").strip() == "0"


@BOTH
async def test_a_foreign_message_is_copied_byte_for_byte_with_its_delay_and_into_the_dead_letters(redis, brokers, mode):
    broker = await brokers(mode)
    body = b'{"a": "\xff"}'
    if mode == "stream":
        redis.cli("XADD", "q", "*", "body", "{}", "kind", "x", "traceparent", "00-1")
    else:
        redis.cli("LPUSH", "q", stdin=body)
    async with broker.consume("q", options()) as consumer:
        (first,) = await take(consumer)
        await settle(consumer, first, "retry", delay=0.05)
        (again,) = await take(consumer)
        assert (again.attempt, again.envelope.id, again.envelope.body) == (2, first.envelope.id, first.envelope.body)
        assert again.envelope.headers == first.envelope.headers
        assert again.first_seen == first.first_seen
        await settle(consumer, again, "dead_letter")
    (letter,) = await broker.dead_letters("q").list()
    assert (letter.id, dict(letter.envelope.headers)) == (first.envelope.id, dict(first.envelope.headers))
    assert await broker.dead_letters("q").replay([letter.id]) == 1
    async with broker.consume("q", options()) as consumer:
        (fresh,) = await take(consumer)
    assert (fresh.attempt, fresh.envelope.id, fresh.envelope.body) == (1, first.envelope.id, first.envelope.body)
    assert dict(fresh.envelope.headers) == dict(first.envelope.headers)


async def test_a_foreign_entry_of_many_fields_keeps_them_all_through_a_retry_and_a_replay(redis, brokers):
    broker = await brokers("stream")
    said = {f"f{number}": f"{number}" for number in range(5000)}
    redis.cli("XADD", "q", "*", *(word for row in said.items() for word in row))
    async with broker.consume("q", options()) as consumer:
        (first,) = await take(consumer)
        assert json.loads(first.envelope.body) == said
        await settle(consumer, first, "retry", delay=0.01)
        (again,) = await take(consumer)
        await settle(consumer, again, "dead_letter")
        assert await broker.dead_letters("q").replay([first.envelope.id]) == 1
        (fresh,) = await take(consumer)
        assert json.loads(fresh.envelope.body) == said


async def test_a_dead_letters_longer_name_stays_when_an_older_one_is_gone(redis, brokers):
    broker = await brokers("stream")
    async with broker.consume("q", options()) as consumer:
        for body in (b"1", b"2"):
            await broker.publish("q", [envelope(body, id="same")])
            (held,) = await take(consumer)
            await settle(consumer, held, "dead_letter")
    letters = broker.dead_letters("q")
    first, second = [letter.id for letter in await letters.list()]
    assert first == "same"
    assert await letters.purge([first]) == 1
    assert (await letters.get(second)).envelope.body == b"2"
    assert (await letters.get("same")).envelope.body == b"2"
    assert await letters.replay([second, "same"]) == 1


async def test_a_foreign_dead_letter_has_none_for_what_nobody_recorded(redis, brokers):
    broker = await brokers("stream")
    redis.cli("XADD", "{q}:dead", "*", "body", "x", "h", "1")
    (letter,) = await broker.dead_letters("q").list()
    assert (letter.envelope.body, dict(letter.envelope.headers)) == (b"x", {"h": "1"})
    names = ("reason", "detail", "attempts", "error_type", "error_message", "traceback", "dead_at", "worker")
    assert [getattr(letter, name) for name in names] == [None] * len(names)


async def test_a_release_wakes_the_waiting_consumers_of_this_process(redis, brokers):
    broker = await brokers("stream")
    await broker.publish("q", [envelope()])
    async with broker.consume("q", options()) as one, broker.consume("q", options()) as two:
        (held,) = await take(one)
        waiting = asyncio.create_task(two.receive(1))
        await until(lambda: "blocked_clients:1" in redis.cli("INFO", "clients"))
        await settle(one, held, "release")
        (again,) = await soon(waiting)
        assert again.deliveries == 2


async def test_a_consumer_that_leaves_leaves_nothing_of_its_own(redis, brokers):
    for mode in ("stream", "list"):
        broker = await brokers(mode)
        await broker.publish(mode, [envelope()])
        async with broker.consume(mode, options()) as consumer:
            (held,) = await take(consumer)
            await settle(consumer, held, "ack")
    assert redis.cli("XINFO", "CONSUMERS", "stream", "pythia").strip() == ""
    assert sorted(redis.cli("KEYS", "*").split()) == ["pythia:queues:list", "pythia:queues:stream", "stream"]


async def test_a_header_that_cannot_be_written_down_is_a_publish_error_and_nothing_is_sent(redis, brokers):
    broker = await brokers("stream")
    with pytest.raises(PublishError) as caught:
        await broker.publish("q", [envelope(), envelope(headers={"x": object()})])
    assert caught.value.in_doubt is False
    assert redis.cli("EXISTS", "q").strip() == "0"


async def test_a_publish_whose_answer_was_lost_is_unknown_and_never_sent_twice(redis, brokers):
    broker = await brokers("stream")
    redis.suspend()
    try:
        assert await soon(broker.publish("q", [envelope()])) == [Published.UNKNOWN]
    finally:
        redis.resume()
    with pytest.raises(BrokerUnavailable):
        await broker.publish("q", [envelope()])
    await broker.connect()
    await until(lambda: redis.cli("XLEN", "q").strip() == "1")


async def test_a_channel_says_that_it_delivers_at_most_once_and_that_nobody_listens(channel):
    assert (channel.capabilities.guarantee, channel.capabilities.keeps) == ("at-most-once", False)
    assert await channel.publish("c", [envelope()]) == [Published.REFUSED]
    assert "nobody listens" in channel.stats()["trouble"]
    assert "at most once" in channel.capabilities.detail
    with pytest.raises(Unsupported, match="mode=stream"):
        await channel.publish("c", [envelope()], delay=1.0)


async def test_what_a_channel_brings_beyond_the_buffer_is_dropped_and_counted(redis, channel):
    async with channel.consume("c", options(prefetch=2)) as consumer:
        held = await take_two(redis, channel, consumer)
        for number in range(5):
            redis.cli("PUBLISH", "c", f"{number}")
        await until(lambda: channel.stats()["dropped"] == 3)
        assert await soon(consumer.settle([Settlement(one, "ack") for one in held])) == [Settled.DONE] * 2
        assert [one.envelope.body for one in await take(consumer, 2)] == [b"0", b"1"]
    assert channel.stats()["dropped"] == 5, "what it held when it left is gone, too"


async def take_two(redis, channel, consumer):
    for _ in range(2):
        redis.cli("PUBLISH", "c", "x")
    return await take(consumer, 2)


async def test_a_retry_from_a_channel_comes_from_this_process(channel):
    async with channel.consume("c", options()) as consumer:
        assert await channel.publish("c", [envelope(b"x", headers={"a": 1})]) == [Published.CONFIRMED]
        (first,) = await take(consumer)
        assert await settle(consumer, first, "retry", delay=0.05) is Settled.DONE
        (again,) = await take(consumer)
        assert (again.attempt, again.redelivered, dict(again.envelope.headers)) == (2, True, {"a": 1})
        assert await settle(consumer, first, "ack") is Settled.STALE
