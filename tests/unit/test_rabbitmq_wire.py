"""What AMQP carries arrives as it was said; whatever came is a delivery; a copy is the message with our marks."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from aiormq.abc import DeliveredMessage
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.commands import Basic
from pamqp.decode import field_table
from pamqp.header import ContentHeader

from pythia.brokers.rabbitmq import wire
from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.sockets import mended
from pythia.brokers.rabbitmq.table import encode_table
from pythia.message import Envelope

NOW = 1_800_000_000.5

numbers = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.none()
)
values = st.recursive(
    st.one_of(numbers, st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=20), inner, max_size=3)),
    max_leaves=10,
)
tables = st.dictionaries(st.text(max_size=20), values, max_size=5)


def came(properties=None, body=b"{}", *, exchange="", routing_key="q", redelivered=False) -> Received:
    """A message as the driver hands it over, through the bytes of the wire."""
    header = ContentHeader(body_size=len(body), properties=properties or Basic.Properties())
    _, _, decoded = frame.unmarshal(frame.marshal(header, 1))
    deliver = Basic.Deliver(
        consumer_tag="c", delivery_tag=1, redelivered=redelivered, exchange=exchange, routing_key=routing_key
    )
    return Received.of(DeliveredMessage(delivery=deliver, header=decoded, body=body, channel=None), 0.0)


def plain(table):
    return {name: wire._plain(value) for name, value in table.items()}


@given(tables)
def test_a_header_table_comes_back_as_it_was(table):
    consumed, decoded = field_table(raw := encode_table(table))
    assert consumed == len(raw)
    assert plain(decoded) == table


def test_every_type_of_amqp_survives_a_copy():
    table = {"t": datetime(2026, 1, 2, tzinfo=UTC), "d": Decimal("12.34"), "f": 0.1, "x": b"\xff", "n": None}
    copy = wire.copy_of(came(wire.WireProperties(headers=table)), {}, 131_072)
    arrived = plain(came(copy).properties.headers)
    assert {name: arrived[name] for name in table} == table


@pytest.mark.parametrize(
    "header", [{"n": 2**63}, {"n": math.inf}, {"n": math.nan}, {"d": Decimal("1E+40")}, {"x" * 256: 1}, {"o": object()}]
)
def test_what_amqp_cannot_carry_is_refused_by_name(header):
    (name,) = header
    with pytest.raises((ValueError, TypeError), match=name[:20]):
        encode_table(header)


def test_a_message_of_ours_arrives_as_it_was_said_and_its_marks_are_not_shown():
    said = Envelope(
        b"x",
        id="ord-1/ü",
        headers={"a": [1, b"\x00"]},
        content_type="text/plain",
        content_encoding="gzip",
        correlation_id="c",
        reply_to="r",
        priority=7,
        timestamp=1_700_000_000.25,
        idempotency_key="k",
        ordering_key="o",
    )
    delivery = wire.delivery_of(came(wire.properties_of(said, now=NOW), b"x"), "q", None, NOW + 5)
    arrived = delivery.envelope
    for name in Envelope.__slots__:
        assert getattr(arrived, name) == getattr(said, name), name
    assert (delivery.first_seen, delivery.attempt, delivery.redelivered) == (NOW, 1, False)


def test_a_foreign_message_without_anything_is_json_with_an_id_that_stays():
    one, two = (wire.delivery_of(came(body=b"[1]"), "q", None, NOW) for _ in range(2))
    other = wire.delivery_of(came(body=b"[2]"), "q", None, NOW)
    assert one.envelope.id == two.envelope.id != other.envelope.id
    assert (one.envelope.content_type, one.first_seen, one.identity) == ("application/json", NOW, None)


@pytest.mark.parametrize(
    ("forged", "attempt"),
    [("abc", 1), (-5, 1), (0, 1), (10**12, 1), (b"7", 7), (3, 3), ("4", 4), ([1], 1), (True, 1), (math.pi, 3)],
)
def test_a_forged_attempt_is_read_leniently(forged, attempt):
    message = came(wire.WireProperties(headers={wire.ATTEMPT: forged}))
    assert wire.delivery_of(message, "q", None, NOW).attempt == attempt


@pytest.mark.parametrize("forged", [NOW + 10**6, 1e300, "9999999999"])
def test_a_message_cannot_say_that_it_will_be_first_seen_in_the_future(forged):
    message = came(wire.WireProperties(headers={wire.FIRST_SEEN: forged}))
    assert wire.delivery_of(message, "q", None, NOW).first_seen == NOW


@given(tables)
def test_whatever_stands_in_our_own_headers_a_delivery_comes_of_it(table):
    names = sorted(wire.OF_A_MESSAGE | wire.OF_A_DEATH)
    headers = {names[index % len(names)]: value for index, value in enumerate(table.values())}
    message = came(wire.WireProperties(headers=headers))
    assert wire.delivery_of(message, "q", None, NOW).attempt >= 1


def test_a_copy_keeps_what_the_producer_said_and_drops_what_the_server_would_act_on():
    source = wire.WireProperties(
        headers={"a": 1, "CC": ["other"], "x-delivery-count": 3},
        expiration="60000",
        user_id="guest",
        app_id="shop",
        message_type="order",
        message_id="m1",
        priority=4,
    )
    copy = wire.copy_of(came(source, exchange="orders", routing_key="eu.1"), {wire.ATTEMPT: 2}, 131_072)
    assert (copy.expiration, copy.user_id, copy.app_id, copy.message_type) == (None, None, "shop", "order")
    assert (copy.message_id, copy.priority, copy.delivery_mode) == ("m1", 4, 2)
    assert "CC" not in copy.headers
    assert "x-delivery-count" not in copy.headers
    again = came(copy, exchange="pythia.return", routing_key="0.0.1")
    assert dict(wire.envelope_of(again).headers) == {"a": 1, "CC": ["other"]}
    second = wire.copy_of(again, {wire.ATTEMPT: 3}, 131_072)
    assert (second.headers[wire.ORIGIN_EXCHANGE], second.headers[wire.ORIGIN_ROUTING_KEY]) == ("orders", "eu.1")


@given(
    short=st.lists(st.one_of(st.none(), st.text(max_size=60)), min_size=9, max_size=9),
    headers=st.one_of(st.none(), st.dictionaries(st.text(max_size=20), st.text(), max_size=1)),
    octets=st.tuples(st.sampled_from([None, 1, 2]), st.one_of(st.none(), st.integers(0, 255))),
    seconds=st.one_of(st.none(), st.integers(0, 2**32 - 1)),
)
def test_properties_are_written_as_the_driver_writes_them(short, headers, octets, seconds):
    names = ("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id")
    said = dict(zip((*names, "message_type", "user_id", "app_id"), short, strict=True))
    said |= {"headers": headers, "delivery_mode": octets[0], "priority": octets[1]}
    said["timestamp"] = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    assert wire.WireProperties(**said).marshal() == Basic.Properties(**said).marshal()


def test_a_copy_that_is_published_anew_says_when():
    source = Basic.Properties(message_id="m", timestamp=datetime(2020, 1, 1, tzinfo=UTC))
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert came(wire.copy_of(came(source), {}, 131_072)).properties.timestamp == source.timestamp
    assert came(wire.copy_of(came(source), {}, 131_072, timestamp=moment)).properties.timestamp == moment


def test_our_own_hops_are_not_among_the_deaths_of_a_message():
    ours = {"queue": "pythia.delay.02", "reason": "expired", "count": 1}
    theirs = {"queue": "orders.parking", "reason": "rejected", "count": 2}
    headers = {"x-death": [ours, theirs], "x-first-death-queue": "pythia.delay.02", "x-first-death-reason": "expired"}
    shown = wire.envelope_of(came(wire.WireProperties(headers=headers))).headers
    assert dict(shown) == {"x-death": [theirs]}
    assert dict(wire.envelope_of(came(wire.WireProperties(headers={"x-death": [ours]}))).headers) == {}


def test_a_traceback_gives_way_when_the_headers_do_not_fit_a_frame():
    marks = {wire.TRACEBACK: "t" * 3000, wire.REASON: "rejected"}
    copy = wire.copy_of(came(wire.WireProperties(headers={"a": "x" * 2000})), marks, 4096)
    assert copy.headers[wire.REASON] == "rejected"
    assert copy.headers["a"] == "x" * 2000
    assert wire.TRACEBACK not in copy.headers


def test_what_does_not_fit_the_frame_of_headers_is_refused():
    big = wire.properties_of(Envelope(b"", id="1", headers={"a": "x" * 5000}), now=NOW)
    with pytest.raises(ValueError, match="headers take"):
        wire.check_sendable("q", big, 4096)
    with pytest.raises(ValueError, match="its queue"):
        wire.check_sendable("q" * 256, wire.properties_of(Envelope(b"", id="1"), now=NOW), 131_072)


# -- frames that the driver cannot decode ------------------------------------------------------------------------------


def header_frame(table: bytes, flags: int = 1 << 13) -> bytes:
    properties = struct.pack(">H", flags) + table
    return struct.pack(">HxxQ", 60, 2) + properties + b"\xce"


BAD_TABLES = {
    "a name that is no UTF-8": struct.pack(">I", 7) + b"\x01\xffI" + struct.pack(">i", 1),
    "a type that nobody knows": struct.pack(">I", 4) + b"\x01aZ\x00",
    "a time beyond all years": struct.pack(">I", 11) + b"\x01aT" + struct.pack(">Q", 2**62),
}


@pytest.mark.parametrize("table", BAD_TABLES.values(), ids=BAD_TABLES)
def test_headers_that_cannot_be_decoded_are_ignored_and_the_message_is_there(table):
    raw = header_frame(table)
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, it would end the connection
        ContentHeader().unmarshal(raw[:-1])
    payload = mended(2, raw)
    header = ContentHeader()
    header.unmarshal(payload[:-1])
    assert (len(payload), payload[-1:], header.body_size) == (len(raw), b"\xce", 2)
    assert header.properties.headers is None


def test_only_the_property_that_cannot_be_decoded_is_lost():
    parts = [b"\x0atext/plain", BAD_TABLES["a time beyond all years"], b"\x02", b"\x02\xff\xfe", b"\x02m1"]
    times = struct.pack(">Q", 2**62)
    flags = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 7 | 1 << 6
    raw = header_frame(b"".join(parts) + times, flags)
    header = ContentHeader()
    header.unmarshal(mended(2, raw)[:-1])
    found = header.properties
    assert (found.content_type, found.delivery_mode, found.message_id) == ("text/plain", 2, "m1")
    assert (found.headers, found.correlation_id, found.timestamp) == (None, None, None)


def test_headers_that_can_be_decoded_are_left_alone():
    raw = ContentHeader(body_size=1, properties=wire.WireProperties(headers={"a": "ü"})).marshal() + b"\xce"
    assert mended(2, raw) is raw


def test_a_routing_key_of_any_bytes_does_not_end_the_connection():
    def short(raw: bytes) -> bytes:
        return bytes([len(raw)]) + raw

    fixed = struct.pack(">HH", 60, 60) + short(b"ctag") + struct.pack(">QB", 2**62 + 200, 1)
    payload = fixed + short(b"ex") + short(b"\xff.eu") + b"\xce"
    (kind, channel), size = (1, 1), len(payload) - 1
    prefix = struct.pack(">BHI", kind, channel, size)
    with pytest.raises(Exception):  # noqa: B017 - as above
        frame.unmarshal(prefix + payload)
    _, _, deliver = frame.unmarshal(prefix + mended(1, payload))
    assert (deliver.routing_key, deliver.exchange, deliver.consumer_tag) == ("?.eu", "ex", "ctag")
    assert deliver.delivery_tag == 2**62 + 200


@given(st.binary(min_size=4, max_size=60))
def test_mending_never_raises_nor_changes_a_length(payload):
    for kind in (1, 2, 3, 8):
        assert len(mended(kind, payload + b"\x00" * 12)) == len(payload) + 12
