"""What brokers hand us is read whatever it is, a copy of it can always be written, and counts only what we counted."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pamqp import frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from pythia.broker import Settled
from pythia.brokers.headers import load_headers
from pythia.brokers.rabbitmq import letters, wire
from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.sockets import mended
from pythia.brokers.redis import fields
from pythia.brokers.redis.driver import Address, ResponseError
from pythia.brokers.redis.list_source import ListSource
from pythia.brokers.redis.settings import RedisSettings
from pythia.brokers.redis.stream_source import StreamSource
from pythia.errors import BrokerError
from tests.fuzz.corpus import HUGE, JUNK

NOW = 1_800_000_000.5
FRAME_MAX = 4096  # the smallest that AMQP allows
ROOM = FRAME_MAX - 8

# ── Redis ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

OWN = sorted(fields.PROPERTIES | fields.MARKS)
WRITTEN = st.binary(max_size=20) | st.sampled_from(JUNK).map(str.encode) | st.integers().map(lambda n: b"%d" % n)
ENTRIES = st.lists(
    st.tuples(st.sampled_from([*OWN, b"body", b"x", b""]) | st.binary(max_size=8), WRITTEN), max_size=8
).map(lambda pairs: [word for pair in pairs for word in pair])


@given(ENTRIES, st.integers(1, 10**6), st.integers(0, 10**6) | st.none())
@example([b"pythia-deliveries", HUGE.encode()], 1, 1)
@example([b"pythia-attempt", HUGE.encode()], 1, 1)
def test_a_copy_of_any_entry_says_what_we_counted_and_what_its_producer_said(
    entry: list[bytes], attempt: int, more: int | None
) -> None:
    envelope, marks = fields.envelope_of(entry)
    count = None if more is None else fields.deliveries_of(marks) + more
    seen = fields.first_seen_of(marks, NOW, NOW)
    copy = fields.marked(
        entry,
        fields.marks_of(
            attempt=attempt, first_seen=seen, deliveries=count, identity=fields.identity_of(marks) or "1-0"
        ),
    )
    again, ours = fields.envelope_of(copy)
    assert (fields.attempt_of(ours), fields.first_seen_of(ours, NOW, NOW)) == (attempt, seen)
    assert fields.deliveries_of(ours) == min(count or 0, 2**31)
    for name in ("body", "id", "content_type", "priority", "timestamp", "correlation_id", "ordering_key"):
        assert getattr(again, name) == getattr(envelope, name), name
    assert set(again.headers) == set(envelope.headers)


@given(st.lists(st.tuples(st.just(fields.ATTEMPT), WRITTEN), min_size=1, max_size=4))
def test_a_forged_attempt_is_one_that_can_be_counted_on(pairs: list[tuple[bytes, bytes]]) -> None:
    attempt = fields.attempt_of(dict(pairs))
    assert 1 <= attempt < 2**31
    assert fields.attempt_of(fields.marks_of(attempt=attempt + 1, first_seen=0.0, deliveries=1, identity=None)) in (
        1,
        attempt + 1,
    )


@given(
    st.binary(max_size=60) | st.sampled_from([b'{"$bytes": 5}', b'{"a": {"$dict": null}}', b"[" * 99_999, b'"\\ud800"'])
)
def test_headers_of_any_bytes_are_read_or_refused_in_a_way_that_is_expected(raw: bytes) -> None:
    envelope, _ = fields.envelope_of([b"body", b"", fields.HEADERS, raw])
    try:
        assert dict(envelope.headers) == dict(load_headers(raw))
    except (ValueError, TypeError, AttributeError, RecursionError):
        assert set(envelope.headers) == {"pythia-headers"}


def sources() -> list[Any]:
    redis_settings = RedisSettings.of(None)
    server = SimpleNamespace(
        settings=redis_settings, address=Address("redis://h/0", redis_settings), forget=lambda _: None
    )
    return [StreamSource(server, "q", "c"), ListSource(server, "q", "c", 1.0)]


ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=20) | st.text(max_size=20) | st.floats()
    | st.sampled_from([ResponseError("OOM x"), ResponseError("NOGROUP x"), ResponseError(""), b"-OOM command", b"WRONGTYPE x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@given(ANSWERS)
def test_any_answer_to_a_settlement_is_one_of_three_or_an_error_of_ours(answer: Any) -> None:
    for source in sources():
        try:
            settled = source.answered(answer, ["q"])
        except BrokerError:
            continue
        assert isinstance(settled, Settled)
        assert (settled is Settled.DONE) <= (isinstance(answer, int) and bool(answer))


class Replies:
    """A connection that answers every command with the same."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    async def ask(self, *commands: Any) -> list[Any]:
        return [self.reply for _ in commands]


@pytest.mark.parametrize(
    "reply", [None, [], {}, [[b"q", []]], [[b"q", [[b"1-1", [b"body", b"x"]]]]], [[b"q", [[b"1-1", []]]]]]
)
async def test_a_read_is_understood_in_every_shape_that_it_has(reply: Any) -> None:
    stream, _ = sources()
    held = await stream._read_new(Replies(reply), 5, 30.0)
    assert len(held) == (len(reply[0][1]) if reply else 0)


# ── RabbitMQ ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


BYTES = st.binary(max_size=12) | st.sampled_from(
    [b"\xff\xfe", b"\xed\xa0\x80", b"", b"pythia-attempt", b"x-death", b"CC"]
)
FIELDS = st.recursive(
    st.one_of(
        BYTES.map(lambda raw: b"S" + long(raw)),
        BYTES.map(lambda raw: b"x" + long(raw)),
        st.sampled_from(
            [b"V", b"t\x01", b"d\x7f\xf8" + b"\x00" * 6, b"f\xff\x80\x00\x00", b"D\xff\x00\x00\x00\x01", b"?", b""]
        ),
        st.binary(min_size=8, max_size=8).map(lambda raw: b"T" + raw),
        st.binary(min_size=8, max_size=8).map(lambda raw: b"l" + raw),
        st.binary(min_size=8, max_size=8).map(lambda raw: b"d" + raw),
        st.binary(max_size=9),
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: b"A" + long(b"".join(items)))
        | st.lists(st.tuples(BYTES, inner), max_size=3).map(
            lambda rows: b"F" + long(b"".join(short(n) + v for n, v in rows))
        )
    ),
    max_leaves=5,
)
NAMES = st.sampled_from([name.encode() for name in sorted(wire.OF_A_MESSAGE | wire.OF_A_DEATH)]) | BYTES
TABLES = st.lists(st.tuples(NAMES, FIELDS), max_size=5).map(
    lambda rows: b"".join(short(name) + value for name, value in rows)
)
SHORTS = (BYTES | st.binary(min_size=255, max_size=255)).map(short)


@st.composite
def header_frames(draw: st.DrawFn) -> bytes:
    """The payload of a content header, each property there or not, its value any bytes of its shape."""
    shapes = [SHORTS, SHORTS, TABLES.map(long), *[st.binary(min_size=1, max_size=1)] * 2, *[SHORTS] * 4]
    shapes += [st.binary(min_size=8, max_size=8), *[SHORTS] * 4]
    flags, values = 0, b""
    for place, shape in enumerate(shapes):
        if draw(st.booleans()):
            flags |= 1 << (15 - place)
            values += draw(shape)
    return struct.pack(">HHQH", 60, 0, 2, flags) + values + b"\xce"


def came(header: ContentHeader, body: bytes = b"{}") -> Received:
    """A message, as the driver hands it over."""
    deliver = Basic.Deliver(consumer_tag="c", delivery_tag=1, redelivered=False, exchange="", routing_key="q")
    return Received.of(DeliveredMessage(delivery=deliver, header=header, body=body, channel=None), 0.0)


def both(payload: bytes) -> list[Received]:
    """The message of a header frame, as the driver reads it and as we do."""
    header = ContentHeader()
    header.unmarshal(mended(2, payload)[:-1])
    ours = Received(1, redelivered=False, route=b"\x00\x01q")
    ours.body = b"{}"
    ours.describe(payload[12:-1])
    return [came(header), ours]


@settings(max_examples=300)
@example(
    struct.pack(">HHQH", 60, 0, 2, 1 << 13) + long(short(b"pythia-attempt") + b"d\x7f\xf8" + b"\x00" * 6) + b"\xce"
)
@example(
    struct.pack(">HHQH", 60, 0, 2, 3 << 12) + long(short(b"pythia-attempt")) + b"\x01\xce"
)  # a name without a value
@given(header_frames())
def test_of_any_header_frame_comes_a_delivery_and_a_copy_that_counts_what_we_counted(payload: bytes) -> None:
    of_the_driver, message = both(payload)
    assert repr(dict(message.properties)) == repr(dict(of_the_driver.properties))  # NaN is not equal to itself
    delivery = wire.delivery_of(message, "q", None, NOW)
    assert 1 <= delivery.attempt < 2**31
    assert delivery.first_seen <= NOW
    assert isinstance(delivery.envelope.id, str)
    assert delivery.envelope.id
    marks = {wire.ATTEMPT: delivery.attempt + 1, wire.FIRST_SEEN: delivery.first_seen, wire.IDENTITY: "i"}
    copy = wire.copy_of(message, marks, 131_072, id=delivery.envelope.id)
    _, _, header = frame.unmarshal(frame.marshal(ContentHeader(body_size=2, properties=copy), 1))
    second = wire.delivery_of(came(header), "q", None, NOW)
    assert second.attempt == (delivery.attempt + 1 if delivery.attempt + 1 < 2**31 else 1)
    assert second.identity == "i"
    assert second.envelope.id == delivery.envelope.id
    assert second.envelope.body == delivery.envelope.body


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6), st.integers(0, 4000))
def test_a_copy_fits_into_the_frame_whatever_its_producer_filled_it_with(sizes: list[int], traceback_size: int) -> None:
    headers = {f"h{at}": "v" * size for at, size in enumerate(sizes)}
    traceback = "t" * traceback_size
    source = wire.WireProperties(headers=headers, message_id="m")
    message = came(ContentHeader(body_size=2, properties=source))
    copy = wire.copy_of(message, {wire.ATTEMPT: 2, wire.TRACEBACK: traceback, wire.REASON: "rejected"}, FRAME_MAX)
    assert len(copy.marshal()) + 12 <= ROOM
    assert copy.headers is not None
    if sum(sizes) < ROOM // 2:
        assert headers.items() <= copy.headers.items(), "a header is left out only where there is no other way"
    assert (copy.headers[wire.ATTEMPT], copy.headers[wire.REASON], copy.message_id) == (2, "rejected", "m")


@given(st.permutations(["a", "b", "c"]), st.permutations(["a", "b", "c"]))
def test_letters_of_one_id_are_all_found_by_the_names_that_they_had_in_another_order(
    before: list[str], after: list[str]
) -> None:
    def found(order: list[str]) -> list[letters._Found]:
        names = letters._Names()
        return [names.found(dead(mark)) for mark in order]

    def dead(mark: str) -> Received:
        said = wire.WireProperties(message_id="same", headers={wire.DEATH: f"death-of-{mark}"})
        return came(ContentHeader(properties=said), b"")

    wanted = {one.name for one in found(before)}
    assert len(letters._hits(found(after), wanted)) == 3
    assert wanted == set()
    last = found(before)[-1]
    (hit,) = letters._hits(found(after), {last.name})
    assert letters._death(hit.message) == letters._death(last.message)
