"""A dead letter says everything that is known; looking changes nothing; a replay is a fresh start of the same message."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from pythia.broker import Settlement
from pythia.errors import BrokerError
from pythia.message import Envelope
from tests.conformance.rigs import bodies, envelope, failure, holds, numbered, options, requires, settle, soon, take


@pytest.fixture(autouse=True)
def dead_letters(broker):
    requires(broker, "dead_letters")


async def bury(broker, envelopes, queue="q", **record):
    await broker.publish(queue, envelopes)
    async with broker.consume(queue, options(prefetch=5000)) as consumer:
        held = await take(consumer, len(envelopes))
        await soon(consumer.settle([Settlement(d, "dead_letter", record=failure(**record)) for d in held]))
    return held


def everything(letter):
    """What can be seen of a dead letter, as a value."""
    envelope = {name: getattr(letter.envelope, name) for name in Envelope.__slots__}
    return {field.name: getattr(letter, field.name) for field in fields(letter)} | {"envelope": envelope}


async def test_a_dead_letter_says_everything_that_is_known(rig, broker):
    sent = envelope(b"\x00body", headers={"a": 1}, correlation_id="c", timestamp=rig.clock.time() - 5.0, priority=3)
    first_seen = rig.clock.time()
    await broker.publish("q", [sent])
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        if rig.virtual:
            await rig.advance(10.0)
        died = rig.clock.time()
        await settle(consumer, delivery, "dead_letter", record=failure(reason="rejected", detail="unknown sku"))
    (letter,) = await broker.dead_letters("q").list()
    assert letter.id == sent.id
    assert (letter.reason, letter.detail, letter.attempts) == ("rejected", "unknown sku", 5)
    assert (letter.error_type, letter.error_message, letter.traceback) == ("builtins.ValueError", "no", "Traceback …")
    assert (letter.worker, letter.worker_id, letter.origin_queue) == ("orders", "orders-1", "q")
    assert letter.published_at == sent.timestamp
    near = 1e-6 if rig.virtual else 5.0
    assert letter.first_seen_at == pytest.approx(first_seen, abs=near)
    assert letter.dead_at == pytest.approx(died, abs=near)
    kept = letter.envelope
    assert (kept.body, dict(kept.headers), kept.correlation_id, kept.priority) == (b"\x00body", {"a": 1}, "c", 3)


async def test_what_nobody_recorded_is_none(broker):
    await broker.publish("q", numbered(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
        await settle(consumer, delivery, "dead_letter", record=failure(error_type=None, traceback=None, worker=""))
    (letter,) = await broker.dead_letters("q").list()
    assert (letter.error_type, letter.traceback, letter.worker) == (None, None, None)


async def test_dead_letters_are_listed_page_by_page_oldest_first(broker):
    sent = numbered(5)
    await bury(broker, sent)
    letters = broker.dead_letters("q")
    assert await letters.count() == 5
    first = await letters.list(limit=2)
    second = await letters.list(limit=2, after=first[-1].id)
    third = await letters.list(limit=2, after=second[-1].id)
    assert [letter.id for letter in (*first, *second, *third)] == [message.id for message in sent]
    assert list(await letters.list(after=third[-1].id)) == []


async def test_a_page_after_a_letter_that_is_gone_is_an_error_not_the_wrong_page(broker):
    with pytest.raises(BrokerError, match="'nobody'"):
        await broker.dead_letters("q").list(after="nobody")


async def test_looking_changes_nothing(broker):
    await bury(broker, numbered(3))
    letters = broker.dead_letters("q")
    before = await letters.list()
    await letters.get(before[0].id)
    assert [letter.id for letter in await letters.list()] == [letter.id for letter in before]
    assert (await letters.get(before[1].id)).envelope.body == b"1"
    assert await letters.get("nobody") is None


async def test_a_hundred_listings_change_nothing(broker):
    await bury(broker, numbered(3))
    letters = broker.dead_letters("q")
    before = [everything(letter) for letter in await letters.list()]
    for _ in range(100):
        assert [everything(letter) for letter in await letters.list()] == before
    assert await letters.count() == 3
    assert [everything(letter) async for letter in letters.scan()] == before


async def test_a_scan_is_every_letter_in_one_pass(broker):
    sent = numbered(250)
    await bury(broker, sent)
    assert [letter.id async for letter in broker.dead_letters("q").scan()] == [message.id for message in sent]
    assert await broker.dead_letters("q").count() == 250


async def test_two_who_look_at_once_both_see_everything(rig, broker):
    sent = numbered(20)
    await bury(broker, sent)
    other = await rig.another()
    for _ in range(5):
        one, two = await soon(asyncio.gather(broker.dead_letters("q").list(), other.dead_letters("q").list()))
        assert [letter.id for letter in one] == [letter.id for letter in two] == [message.id for message in sent]


@pytest.mark.parametrize("how", ["replay", "purge"])
async def test_two_who_act_at_once_move_each_letter_once(rig, broker, how):
    sent = numbered(30)
    await bury(broker, sent)
    other = await rig.another()
    ids = [message.id for message in sent]
    acts = [getattr(who.dead_letters("q"), how)(ids) for who in (broker, other)]
    assert sum(await soon(asyncio.gather(*acts))) == 30
    assert await broker.dead_letters("q").count() == 0
    await holds(broker, "q", ready=30 if how == "replay" else 0, dead=0)


async def test_a_dead_letter_keeps_every_kind_of_header_and_a_binary_body(broker):
    headers = {"text": "é", "number": 7, "nested": {"list": [1, None, b"\xff"]}, "none": None}
    await bury(broker, [envelope(b"\xff\x00", headers=headers, correlation_id="c", reply_to="r", ordering_key="k")])
    (letter,) = await broker.dead_letters("q").list()
    await broker.dead_letters("q").replay([letter.id])
    async with broker.consume("q", options()) as consumer:
        (back,) = await take(consumer, 1)
    for kept in (letter.envelope, back.envelope):
        assert (kept.body, dict(kept.headers)) == (b"\xff\x00", headers)
        assert (kept.correlation_id, kept.reply_to, kept.ordering_key) == ("c", "r", "k")


async def test_what_died_after_retries_comes_back_at_its_first_attempt_with_none_of_our_marks(broker):
    await broker.publish("q", [envelope(b"x", id="m1", headers={"mine": "1"})])
    async with broker.consume("q", options()) as consumer:
        for _ in range(2):
            (delivery,) = await take(consumer, 1)
            await settle(consumer, delivery, "retry")
        (delivery,) = await take(consumer, 1)
        assert delivery.attempt == 3
        await settle(consumer, delivery, "dead_letter", record=failure(attempts=3))
        assert (await broker.dead_letters("q").get("m1")).attempts == 3
        assert await broker.dead_letters("q").replay(["m1"]) == 1
        (back,) = await take(consumer, 1)
        assert (back.attempt, back.envelope.id, dict(back.envelope.headers)) == (1, "m1", {"mine": "1"})


async def test_a_replay_is_the_same_message_at_its_first_attempt(rig, broker):
    sent = envelope(b"b", headers={"h": [1]}, timestamp=rig.clock.time() - 3600.0)
    await bury(broker, [sent])
    await rig.advance(7200.0 if rig.virtual else 5 * rig.grain)
    back = rig.clock.time()
    assert await broker.dead_letters("q").replay([sent.id, "nobody"]) == 1
    assert await broker.dead_letters("q").count() == 0
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
    kept = delivery.envelope
    assert (kept.id, kept.body, dict(kept.headers), delivery.attempt) == (sent.id, b"b", {"h": [1]}, 1)
    assert rig.clock.time() + rig.grain >= delivery.first_seen >= back - rig.grain, "an old one must not expire at once"
    assert rig.clock.time() + rig.grain >= kept.timestamp >= back - rig.grain


async def test_a_replay_may_go_to_another_queue(broker):
    (held,) = await bury(broker, numbered(1))
    assert await broker.dead_letters("q").replay([held.envelope.id], to="other") == 1
    await holds(broker, "q", ready=0, dead=0)
    await holds(broker, "other", ready=1)


async def test_a_replay_of_many_loses_none_and_keeps_their_order(broker):
    sent = numbered(1200)
    await bury(broker, sent)
    assert await broker.dead_letters("q").replay([message.id for message in sent]) == 1200
    async with broker.consume("q", options(prefetch=2000)) as consumer:
        assert bodies(await take(consumer, 1200)) == [message.body for message in sent]


async def test_a_replayed_message_joins_its_ordering_key_at_the_end(broker):
    requires(broker, "ordering_keys")
    (held,) = await bury(broker, [envelope(b"old", ordering_key="k")])
    await broker.publish("q", [envelope(b"new", ordering_key="k")])
    await broker.dead_letters("q").replay([held.envelope.id])
    async with broker.consume("q", options()) as consumer:
        (first,) = await soon(consumer.receive(10))
        await settle(consumer, first, "ack")
        (second,) = await soon(consumer.receive(10))
    assert bodies([first, second]) == [b"new", b"old"]


async def test_a_purge_deletes_what_it_names_and_nothing_else(broker):
    sent = numbered(3)
    await bury(broker, sent)
    letters = broker.dead_letters("q")
    assert await letters.purge([sent[0].id, sent[2].id, "nobody"]) == 2
    assert [letter.id for letter in await letters.list()] == [sent[1].id]
    assert await letters.purge([]) == await letters.replay([]) == 0


async def test_one_id_that_died_twice_is_two_letters(broker):
    await bury(broker, [envelope(b"1", id="same"), envelope(b"2", id="same"), envelope(b"3", id="same")])
    letters = broker.dead_letters("q")
    names = [letter.id for letter in await letters.list()]
    assert len(set(names)) == 3
    assert names[0] == "same"
    assert await letters.replay([names[1]]) == 1
    assert [letter.envelope.body for letter in await letters.list()] == [b"1", b"3"]
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
    assert (delivery.envelope.id, delivery.envelope.body) == ("same", b"2")


async def test_dead_letters_of_queues_are_apart(broker):
    await bury(broker, numbered(1), queue="a")
    assert await broker.dead_letters("b").count() == 0
    await holds(broker, "b", dead=0)
    await holds(broker, "a", dead=1)
