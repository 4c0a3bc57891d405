"""What a producer said arrives as he said it, or he is told that it cannot."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from pythia.broker import Published
from pythia.errors import PublishError
from tests.conformance.rigs import envelope, options, settle, take

NESTED = {"list": [1, 2.5, None, True, "é", b"\xff\x00", [[]]], "dict": {"deep": {"bytes": b""}}, "empty": {}}


async def round_trip(broker, sent):
    async with broker.consume("q", options()) as consumer:
        assert await broker.publish("q", [sent]) == [Published.CONFIRMED]
        (delivery,) = await take(consumer, 1)
        await settle(consumer, delivery, "ack")
    return delivery.envelope


def assert_same_headers(arrived, sent):
    assert dict(arrived) == sent
    assert [type(arrived[name]) for name in sent] == [type(value) for value in sent.values()]


@pytest.mark.fleeting
@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\xff" * 7, b"\x00x" * (1 << 19), b"x" * (16 << 20), "größe 🎈".encode(), b'{"a": [1, {"b": null}]}'],
    ids=["empty", "binary", "megabyte", "sixteen", "unicode", "json"],
)
async def test_bodies_of_every_kind_arrive_unchanged(broker, body):
    assert (await round_trip(broker, envelope(body))).body == body


@pytest.mark.fleeting
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"text": "é\U0001f388", "": "empty name", "nul": "a\x00b"},
        {"int": 2**62, "negative": -1, "float": 0.1, "true": True, "none": None},
        {"bytes": b"\x00\xff", "nested": NESTED},
        {"$bytes": "eA==", "looks": {"$bytes": "eA=="}, "too": {"$dict": {"$bytes": b"x"}}},
        {f"h{n}": "v" * 50 for n in range(1000)},
    ],
    ids=["none", "text", "numbers", "nested", "escapes", "many"],
)
async def test_headers_of_every_kind_arrive_unchanged(broker, headers):
    assert_same_headers((await round_trip(broker, envelope(headers=headers))).headers, headers)


UNUSUAL = {
    "infinite": math.inf,
    "huge": 2**70,
    "tiny": -(2**70),
    "long-name": {"n" * 300: "v"},
    "deep": [[[[[[[[]]]]]]]],
    "datetime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "decimal": Decimal("1.25"),
    "surrogate": "\ud800",
    "object": object(),
    "set": {1},
    "number-key": {1: "v"},
}


@pytest.mark.fleeting
@pytest.mark.parametrize("name", UNUSUAL)
async def test_a_header_arrives_unchanged_or_is_refused_and_is_never_changed_in_silence(broker, name):
    headers = UNUSUAL[name] if name == "long-name" else {"h": UNUSUAL[name]}
    try:
        arrived = await round_trip(broker, envelope(headers=headers))
    except PublishError as error:
        assert error.in_doubt is False
        async with broker.consume("q", options()) as consumer:
            await broker.publish("q", [envelope(b"next")])
            (delivery,) = await take(consumer, 1)
            assert delivery.envelope.body == b"next", "nothing was sent of the one that was refused"
            await settle(consumer, delivery, "ack")
    else:
        assert_same_headers(arrived.headers, headers)


@pytest.mark.fleeting
async def test_every_property_arrives_unchanged(broker):
    fields = {
        "id": "ord-1/ü",
        "content_type": "text/plain",
        "content_encoding": "gzip",
        "correlation_id": "c1",
        "reply_to": "answers",
        "priority": 7,
        "timestamp": 1_700_000_000.25,
        "idempotency_key": "charge-1",
        "ordering_key": "customer-1",
    }
    arrived = await round_trip(broker, envelope(b"x", **fields))
    assert {name: getattr(arrived, name) for name in fields} == fields


@pytest.mark.fleeting
async def test_a_property_that_was_not_said_is_none(broker):
    arrived = await round_trip(broker, envelope())
    names = ("content_encoding", "correlation_id", "reply_to", "priority", "timestamp", "idempotency_key")
    assert [getattr(arrived, name) for name in names] == [None] * len(names)


async def test_a_delivery_says_when_it_was_first_seen(rig, broker):
    before = rig.clock.time()
    await broker.publish("q", [envelope(timestamp=before)])
    published = rig.clock.time()
    await rig.advance(rig.delay / 2)
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
    assert delivery.queue == "q"
    assert before - rig.grain <= delivery.first_seen <= published + rig.grain


@pytest.mark.fleeting
async def test_a_delivery_that_says_nothing_of_its_time_was_not_seen_in_the_future(rig, broker):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", [envelope(timestamp=rig.clock.time() + 86_400.0)])
        (delivery,) = await take(consumer, 1)
        assert delivery.first_seen <= rig.clock.time() + rig.grain
        await settle(consumer, delivery, "ack")
