"""What a producer said arrives as he said it."""

from __future__ import annotations

import math

import pytest

from tests.conformance.rigs import envelope, options, take

NESTED = {"list": [1, 2.5, None, True, "é", b"\xff\x00", [[]]], "dict": {"deep": {"bytes": b""}}, "empty": {}}


async def round_trip(broker, sent):
    await broker.publish("q", [sent])
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
    return delivery.envelope


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\xff" * 7, b"x" * (1 << 20), "größe 🎈".encode(), b'{"a": [1, {"b": null}]}'],
    ids=["empty", "binary", "megabyte", "unicode", "json"],
)
async def test_bodies_of_every_kind_arrive_unchanged(broker, body):
    assert (await round_trip(broker, envelope(body))).body == body


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"text": "é\U0001f388", "": "empty name", "nul": "a\x00b"},
        {"int": 2**70, "negative": -1, "float": 0.1, "infinite": math.inf, "true": True, "none": None},
        {"bytes": b"\x00\xff", "nested": NESTED},
        {"$bytes": "eA==", "looks": {"$bytes": "eA=="}, "too": {"$dict": {"$bytes": b"x"}}},
        {f"h{n}": "v" * 50 for n in range(1000)},
    ],
    ids=["none", "text", "numbers", "nested", "escapes", "many"],
)
async def test_headers_of_every_kind_arrive_unchanged(broker, headers):
    arrived = (await round_trip(broker, envelope(headers=headers))).headers
    assert dict(arrived) == headers
    assert [type(value) for value in arrived.values()] == [type(value) for value in headers.values()]


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


async def test_a_property_that_was_not_said_is_none(broker):
    arrived = await round_trip(broker, envelope())
    names = ("content_encoding", "correlation_id", "reply_to", "priority", "timestamp", "idempotency_key")
    assert [getattr(arrived, name) for name in names] == [None] * len(names)


async def test_a_delivery_says_when_it_was_first_seen(rig, broker):
    now = rig.clock.time()
    await broker.publish("q", [envelope()])
    await rig.advance(30.0)
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await take(consumer, 1)
    assert (delivery.first_seen, delivery.queue) == (pytest.approx(now), "q")
