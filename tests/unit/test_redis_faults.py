"""A server that is emptied, starved, restarted or short of rights: noticed, told, survived; on one of the tests' own."""

from __future__ import annotations

import asyncio
import time

import pytest

from pythia.broker import ConsumerCancelled, Failure, Output, Published, Settled, Settlement
from pythia.brokers.redis import RedisSettings
from pythia.brokers.redis.driver import Address
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.pubsub import RedisPubSubBroker
from pythia.brokers.redis.server import Server
from pythia.errors import BrokerRefused, BrokerUnavailable
from tests.unit.redis_kit import envelope, options, settle, soon, take, until

pytest_plugins = ["tests.unit.redis_fixtures"]

BOTH = pytest.mark.parametrize("mode", ["stream", "list"])

ACL = (
    *("on", ">secret", "~orders*", "~{orders}*", "~pythia:*", "-@all"),
    *("+ping", "+info", "+client|setname", "+client|id", "+client|unblock", "+evalsha", "+eval", "+time"),
    *("+xadd", "+xreadgroup", "+xack", "+xdel", "+xclaim", "+xpending", "+xgroup|create", "+xgroup|createconsumer"),
    *("+xgroup|delconsumer", "+xinfo|groups", "+xinfo|consumers", "+xlen", "+xrange", "+exists"),
    *("+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zcard", "+zcount"),
    *("+sadd", "+smembers", "+setrange", "+get", "+set", "+del"),
)
ACL_LISTS = (
    *("+blmove", "+lpush", "+rpush", "+rpop", "+lrem", "+lpos", "+llen", "+lrange"),
    *("+zscore", "+zremrangebyscore"),
)


@pytest.mark.parametrize(
    ("mode", "how"), [("stream", "FLUSHALL"), ("stream", "DEL"), ("stream", "group"), ("list", "FLUSHALL")]
)
async def test_a_queue_that_is_taken_away_is_told_and_made_anew(redis, brokers, mode, how):
    broker = await brokers(mode)
    async with broker.consume("q", options()) as consumer:
        watching = asyncio.create_task(consumer.watch())
        receiving = asyncio.create_task(consumer.receive(1))
        await broker.ping()
        redis.cli(*{"FLUSHALL": ["FLUSHALL"], "DEL": ["DEL", "q"], "group": ["XGROUP", "DESTROY", "q", "pythia"]}[how])
        for told in (watching, receiving):
            with pytest.raises(ConsumerCancelled, match="'q'"):
                await soon(told)
    await broker.publish("q", [envelope(b"1")])
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", [envelope(b"2")])
        assert sorted(one.envelope.body for one in await take(consumer, 2)) == [b"1", b"2"]
        assert await broker.queues() == ["q"]


async def test_a_group_that_is_not_ours_to_make_is_waited_for(redis, brokers):
    broker = await brokers("stream", declare=False)
    with pytest.raises(ConsumerCancelled, match="declare"):
        async with broker.consume("q", options()):
            pass
    assert redis.cli("EXISTS", "q").strip() == "0", "nothing was made"
    redis.cli("XGROUP", "CREATE", "q", "pythia", "0", "MKSTREAM")
    async with broker.consume("q", options()) as consumer:
        redis.cli("XADD", "q", "*", "body", "x")
        await take(consumer)


@BOTH
async def test_what_was_held_when_every_connection_was_killed_comes_back_at_once(redis, brokers, mode):
    broker = await brokers(mode)
    await broker.publish("q", [envelope(b"%d" % number) for number in range(5)])
    with pytest.raises(BrokerUnavailable):
        async with broker.consume("q", options(lease=600.0)) as consumer:
            held = await take(consumer, 3)
            redis.cli("CLIENT", "KILL", "TYPE", "normal")
            await soon(consumer.watch())
    await broker.connect()
    async with broker.consume("q", options(lease=600.0)) as consumer:
        again = await take(consumer, 5)
        assert [one.envelope.body for one in again] == [b"0", b"1", b"2", b"3", b"4"]
        assert [one.redelivered for one in again] == [True] * 3 + [False] * 2
        assert await settle(consumer, held[0], "ack") is Settled.STALE


@BOTH
async def test_scripts_that_the_server_forgot_are_sent_again(redis, brokers, mode):
    broker = await brokers(mode)
    await broker.publish("q", [envelope(), envelope()])
    async with broker.consume("q", options()) as consumer:
        first, second = await take(consumer, 2)
        redis.cli("SCRIPT", "FLUSH")
        batch = [Settlement(first, "ack"), Settlement(second, "retry")]
        assert await soon(consumer.settle(batch)) == [Settled.DONE, Settled.DONE]
        assert (await take(consumer))[0].attempt == 2


@BOTH
async def test_a_server_without_memory_is_drained_and_nothing_is_acked_before_it_is_kept(redis, brokers, mode):
    broker = await brokers(mode)
    await broker.publish("q", [envelope(b"%d" % number) for number in range(6)])
    record = Failure(reason="rejected", detail="no")
    redis.fill_up(True)
    assert await broker.publish("q", [envelope()]) == [Published.REFUSED]
    assert "OOM" in broker.stats()["trouble"]
    with pytest.raises(BrokerUnavailable, match="OOM"):
        await broker.ping()
    if mode == "stream":
        redis.fill_up(False)
    async with broker.consume("q", options()) as consumer:
        redis.fill_up(True)
        held = await take(consumer, 6)
        outputs = [Output("out", envelope())]
        batch = [
            *(Settlement(held[0], "ack"), Settlement(held[1], "retry"), Settlement(held[2], "retry", delay=9.0)),
            *(Settlement(held[3], "dead_letter", record=record), Settlement(held[4], "ack", outputs=outputs)),
            Settlement(held[5], "release"),
        ]
        done, refused = Settled.DONE, Settled.REFUSED
        assert await soon(consumer.settle(batch)) == [done, refused, refused, refused, refused, done]
        assert (await broker.depth("q")).in_flight == 4
        (again,) = await take(consumer)
        assert (again.envelope.body, again.redelivered) == (b"5", True)
        redis.fill_up(False)
        assert await soon(consumer.settle(batch[1:5])) == [done] * 4
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (2, 0, 1, 1)


@BOTH
async def test_a_worker_that_starts_on_a_full_server_still_lives_beyond_its_lease(redis, brokers, mode):
    broker = await brokers(mode)
    await broker.publish("q", [envelope()])
    if mode == "stream":
        redis.cli("XGROUP", "CREATE", "q", "pythia", "0")
    redis.fill_up(True)
    lost = []
    async with broker.consume("q", options(lease=0.3, on_lost=lambda *told: lost.append(told))) as consumer:
        (held,) = await take(consumer)
        before = broker.stats()["lease_renewals"]
        await until(lambda: broker.stats()["lease_renewals"] >= before + 6)  # two leases
        assert await settle(consumer, held, "ack") is Settled.DONE
    assert lost == []


@BOTH
async def test_a_key_of_another_type_is_named_and_refused(redis, brokers, mode):
    redis.cli("SET", "q", "x")
    broker = await brokers(mode)
    with pytest.raises(BrokerRefused, match="'q'"):
        await broker.publish("q", [envelope()])
    with pytest.raises(BrokerRefused, match="'q'"):
        async with broker.consume("q", options()) as consumer:
            await soon(consumer.receive(1))


@BOTH
async def test_everything_works_with_no_more_rights_than_the_documentation_names(redis, brokers, mode):
    redis.cli("ACL", "SETUSER", "worker", "reset", *ACL, *(ACL_LISTS if mode == "list" else ()))
    broker = await brokers(mode, url=redis.url.replace("redis://", "redis://worker:secret@"))
    await broker.ping()
    record = Failure(reason="rejected", detail="no")
    assert await broker.publish("orders", [envelope() for _ in range(5)]) == [Published.CONFIRMED] * 5
    await broker.publish("orders", [envelope()], delay=0.1)
    async with broker.consume("orders", options(lease=0.3)) as consumer:
        held = await take(consumer, 6)
        kinds = ["ack", "retry", "defer", "release", "dead_letter", "dead_letter"]
        batch = [
            Settlement(one, kind, delay=0.1 if kind == "defer" else 0.0, record=record)
            for one, kind in zip(held, kinds, strict=True)
        ]
        batch[0] = Settlement(held[0], "ack", outputs=[Output("orders.out", envelope())])
        assert await soon(consumer.settle(batch)) == [Settled.DONE] * 6
        for one in await take(consumer, 3):
            assert await settle(consumer, one, "ack") is Settled.DONE
        receiving = asyncio.create_task(consumer.receive(1))
        await broker.ping()
        await consumer.drain()
        assert await soon(receiving) == ()
    letters = broker.dead_letters("orders")
    first, second = await letters.list()
    assert (await letters.replay([first.id]), await letters.purge([second.id])) == (1, 1)
    effects = broker.idempotency()
    await effects.claim("k", "a", 9.0)
    await effects.done("k", "a", 9.0)
    await effects.release("k", "a")
    assert (await broker.depth("orders")).ready == 1
    assert await broker.queues() == ["orders", "orders.out"]
    assert any("CONFIG" in risk for risk in (await broker.survey(["orders"])).risks)
    assert broker.stats()["trouble"] is None
    with pytest.raises(BrokerRefused, match="NOPERM"):
        await broker.publish("elsewhere", [envelope()])
    words = redis.cli("ACL", "LOG").splitlines()
    denied = {words[at + 1] for at, word in enumerate(words) if word == "object"}
    assert denied == {"config|get", "elsewhere"}, "nothing else was tried that is not permitted"


async def test_a_server_that_stands_still_is_noticed_and_used_again(redis, brokers):
    broker = await brokers("stream")
    await broker.publish("q", [envelope()])
    redis.suspend()
    try:
        with pytest.raises(BrokerUnavailable):
            await soon(broker.ping())
    finally:
        redis.resume()
    await broker.connect()
    async with broker.consume("q", options()) as consumer:
        await take(consumer)


async def test_a_loop_that_was_blocked_beyond_the_time_for_an_answer_still_reads_it(redis):
    link = await Link.open(Address(redis.url, RedisSettings(heartbeat=0.1)), "test")
    asking = asyncio.create_task(link.ask(("PING",), ("ECHO", "x")))
    await asyncio.sleep(0)  # the caller asks
    await asyncio.sleep(0)  # the connection sends
    time.sleep(0.5)
    assert await asking == [b"PONG", b"x"]
    await link.close()


async def reading(redis, consumer):
    """A receive whose read waits at the server."""
    receiving = asyncio.create_task(consumer.receive(5))
    await until(lambda: "cmd=xreadgroup" in redis.cli("CLIENT", "LIST"))
    return receiving


async def test_an_entry_that_came_while_the_loop_was_blocked_beyond_its_lease_is_handed_out_once(redis, brokers):
    """Nobody renewed the lease of what nobody had seen yet."""
    broker = await brokers("stream")
    async with broker.consume("q", options(lease=0.5)) as consumer:
        receiving = await reading(redis, consumer)
        redis.cli("XADD", "q", "*", "body", "1")
        time.sleep(0.7)
        (held,) = await soon(receiving)
        looking = asyncio.create_task(consumer.receive(5))
        redis.cli("XADD", "q", "*", "body", "2")
        (other,) = await soon(looking)
        assert other.envelope.body == b"2", "not the first one again: its lease is new"
        assert [await settle(consumer, one, "ack") for one in (held, other)] == [Settled.DONE] * 2


async def test_an_entry_that_somebody_took_over_before_a_blocked_loop_saw_it_is_not_handed_out(redis, brokers):
    broker = await brokers("stream")
    async with broker.consume("q", options(lease=2.0)) as consumer:
        receiving = await reading(redis, consumer)
        taken = redis.cli("XADD", "q", "*", "body", "1").strip()
        time.sleep(1.1)  # more than half of it
        redis.cli("XCLAIM", "q", "pythia", "somebody-else", "0", taken)
        redis.cli("XADD", "q", "*", "body", "2")
        held = await soon(receiving) or await soon(consumer.receive(5))
        assert [one.envelope.body for one in held] == [b"2"]


async def test_an_entry_that_was_deleted_before_a_blocked_loop_saw_it_is_handed_out_and_counted(redis, brokers):
    broker = await brokers("stream")
    async with broker.consume("q", options(lease=2.0)) as consumer:
        receiving = await reading(redis, consumer)
        gone = redis.cli("XADD", "q", "*", "body", "1").strip()
        time.sleep(1.1)
        redis.cli("XDEL", "q", gone)
        (held,) = await soon(receiving)
        assert held.envelope.body == b"1"
        assert broker.stats()["vanished"] == 1
        assert await settle(consumer, held, "ack") is Settled.DONE


async def test_an_answer_that_does_not_come_ends_the_connection_and_one_that_comes_in_parts_does_not(redis):
    link = await Link.open(Address(redis.url, RedisSettings(heartbeat=0.25)), "test")
    assert await link.ask(*[("BLPOP", "nothing", "0.1")] * 10) == [None] * 10, "a second in all, 0.1 s each"
    with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.5 s"):
        await link.ask(("BLPOP", "nothing", "0"))
    assert not link.is_usable
    with pytest.raises(BrokerUnavailable, match="no answer"):
        await link.ask(("PING",))


async def test_what_a_producer_trims_away_is_counted_and_what_is_in_hand_is_not_lost(redis, brokers):
    broker = await brokers("stream")
    await broker.publish("q", [envelope(b"%d" % number) for number in range(4)])
    async with broker.consume("q", options(lease=0.3)) as consumer:
        held = await take(consumer, 3)
        redis.cli("XTRIM", "q", "MAXLEN", "0")
        await until(lambda: broker.stats()["vanished"] == 3)
        batch = [Settlement(held[0], "ack"), Settlement(held[1], "retry"), Settlement(held[2], "release")]
        assert await soon(consumer.settle(batch)) == [Settled.DONE] * 3
        again = await take(consumer, 2)
        assert sorted((one.envelope.body, one.attempt) for one in again) == [(b"1", 2), (b"2", 1)]
    assert broker.stats()["leases_lost"] == 0


async def test_a_pending_entry_that_somebody_deleted_is_counted_not_delivered(redis, brokers):
    broker = await brokers("stream")
    redis.cli("XADD", "q", "1-1", "body", "x")
    redis.cli("XGROUP", "CREATE", "q", "pythia", "0")
    redis.cli("XREADGROUP", "GROUP", "pythia", "dead", "STREAMS", "q", ">")
    redis.cli("XDEL", "q", "1-1")
    redis.cli("XADD", "q", "1-2", "body", "y")
    async with broker.consume("q", options(lease=0.05)) as consumer:
        (one,) = await take(consumer)
        assert one.envelope.body == b"y"
        receiving = asyncio.create_task(consumer.receive(1))
        await until(lambda: broker.stats()["vanished"] == 1)
        await consumer.drain()
        await soon(receiving)
    assert redis.cli("XPENDING", "q", "pythia").splitlines()[0] == "1", "only what is held still waits"


async def test_a_consumer_that_somebody_deleted_is_told_and_goes_on_and_what_it_held_stays_in_the_stream(
    redis, brokers
):
    """With the consumer goes the server's note of what it held: nobody is given that again, and nobody deletes it."""
    broker = await brokers("stream")
    lost = []
    await broker.publish("q", [envelope(b"1"), envelope(b"2")])
    async with broker.consume("q", options(lease=0.6, on_lost=lambda *told: lost.append(told))) as consumer:
        held = await take(consumer, 2)
        words = redis.cli("XINFO", "CONSUMERS", "q", "pythia").splitlines()
        for name in [words[at + 1] for at, word in enumerate(words) if word == "name"]:
            redis.cli("XGROUP", "DELCONSUMER", "q", "pythia", name)
        await until(lambda: lost)
        assert await settle(consumer, held[0], "ack") is Settled.STALE
        await broker.publish("q", [envelope(b"3")])
        (new,) = await take(consumer)
        assert new.envelope.body == b"3"
        assert await settle(consumer, new, "ack") is Settled.DONE
    assert broker.stats()["leases_lost"] == 2
    assert redis.cli("XLEN", "q").strip() == "2", "an operator can still find them"


async def test_another_group_reads_every_message_and_no_retry_of_ours_twice(redis, brokers):
    billing, audit = await brokers("stream", group="billing"), await brokers("stream", group="audit")
    async with billing.consume("q", options()) as ours, audit.consume("q", options()) as theirs:
        await billing.publish("q", [envelope(b"%d" % number) for number in range(3)])
        held = await take(ours, 3)
        await soon(ours.settle([Settlement(held[0], "ack"), Settlement(held[1], "retry"), Settlement(held[2], "ack")]))
        seen = await take(theirs, 3)
        assert [one.envelope.body for one in seen] == [b"0", b"1", b"2"]
        receiving = asyncio.create_task(theirs.receive(10))
        (again,) = await take(ours)
        assert (again.envelope.body, again.attempt) == (b"1", 2)
        await audit.publish("q", [envelope(b"3")])
        assert [one.envelope.body for one in await soon(receiving)] == [b"3"], "the copy is none of their business"


async def test_a_retry_of_a_group_that_was_renamed_is_not_lost(redis, brokers):
    old, new = await brokers("stream", group="old"), await brokers("stream", group="new")
    await old.publish("q", [envelope()])
    async with old.consume("q", options()) as consumer:
        (held,) = await take(consumer)
        await settle(consumer, held, "retry")
    async with new.consume("q", options()) as consumer:
        assert (await take(consumer))[0].attempt == 2


async def test_a_consumer_that_was_taken_for_dead_finds_out_and_what_it_held_is_given_back(redis, brokers):
    broker, other = await brokers("list"), await brokers("list")
    lost = []
    await broker.publish("q", [envelope(b"1")])
    with pytest.raises(ConsumerCancelled, match="registered"):
        async with broker.consume("q", options(lease=1.0, on_lost=lambda *told: lost.append(told))) as zombie:
            (ours,) = await take(zombie)
            redis.cli("ZADD", "{q}:consumers", "1", zombie.incarnation)  # as if it had been silent since 1970
            async with other.consume("q", options(lease=0.1)) as heir:
                (theirs,) = await take(heir)
                assert (theirs.envelope.body, theirs.redelivered) == (b"1", True)
                assert await settle(zombie, ours, "ack") is Settled.STALE
                assert await settle(heir, theirs, "ack") is Settled.DONE
            await soon(zombie.watch())
    depth = await broker.depth("q")
    assert (depth.ready, depth.in_flight) == (0, 0)


async def test_a_message_that_a_dead_consumers_read_brought_late_is_found(redis, brokers):
    broker = await brokers("list")
    redis.cli("ZADD", "{q}:consumers", "-5", "ghost")
    redis.cli("LPUSH", "{q}:processing:ghost", "late")
    redis.cli("ZADD", "{q}:consumers", f"{-4_000_000_000_000}", "ghost")
    async with broker.consume("q", options(lease=0.3)) as consumer:
        (held,) = await take(consumer)
        assert (held.envelope.body, held.redelivered) == (b"late", True)


async def test_a_server_that_is_too_old_is_refused_at_once(redis, brokers, monkeypatch):
    monkeypatch.setattr(Server, "version", property(lambda _: "5.0.14"))
    with pytest.raises(BrokerRefused, match=r"5\.0\.14.*6\.2"):
        await brokers("stream")


async def test_a_survey_tells_what_may_lose_messages(redis, brokers):
    redis.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis.cli("XGROUP", "CREATE", "q", "audit", "0", "MKSTREAM")
    broker = await brokers("stream")
    try:
        risks = " | ".join((await broker.survey(["q", "unknown"])).risks)
    finally:
        redis.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    for word in ("allkeys-lru", "appendonly", "'audit'"):
        assert word in risks
    assert redis.cli("KEYS", "*").split() == ["q"], "looking makes nothing"


async def test_a_channel_needs_few_rights(redis):
    rights = ("&orders*", "-@all", "+ping", "+info", "+client|setname", "+client|id")
    redis.cli(
        "ACL", "SETUSER", "listener", "reset", "on", ">secret", *rights, "+subscribe", "+publish", "+pubsub|numsub"
    )
    broker = RedisPubSubBroker(redis.url.replace("redis://", "redis://listener:secret@"), RedisSettings())
    await broker.connect()
    async with broker.consume("orders", options()) as consumer:
        assert await broker.publish("orders", [envelope(b"x")]) == [Published.CONFIRMED]
        assert (await take(consumer))[0].envelope.body == b"x"
        assert (await broker.depth("orders")).consumers == 1
    with pytest.raises(BrokerRefused, match="NOPERM"):
        async with broker.consume("elsewhere", options()):
            pass
    await broker.close()
