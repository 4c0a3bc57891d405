"""Properties of a message as we decode them: as the driver does, whatever was written, and never an error."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal

from aiormq.abc import DeliveredMessage
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from pythia.brokers.rabbitmq.received import Received, properties_in
from pythia.brokers.rabbitmq.sockets import mended

HEADERS = {
    "text": "a\u00e9",
    "number": -1,
    "big": 1 << 40,
    "double": 2.5,
    "yes": True,
    "none": None,
    "raw": bytearray(b"\xff\x00"),
    "list": [1, "two", [3]],
    "table": {"inner": {"deep": 1}},
    "money": Decimal("1.25"),
    "when": datetime(2026, 1, 2, tzinfo=UTC),
}
SAID = Basic.Properties(
    content_type="application/json",
    content_encoding="gzip",
    headers=HEADERS,
    delivery_mode=2,
    priority=7,
    correlation_id="c",
    reply_to="r",
    expiration="1000",
    message_id="m",
    timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    message_type="t",
    user_id="u",
    app_id="a",
).marshal()
NOTHING = Basic.Properties().marshal()


def by_the_driver(raw: bytes) -> dict[str, object] | None:
    """What it decodes of a frame that was mended for it; None where it gives up."""
    header = ContentHeader()
    try:
        header.unmarshal(mended(2, bytes(12) + raw + b"\xce")[:-1])
    except (ValueError, struct.error):
        return None
    return dict(header.properties)


def check(raw: bytes) -> None:
    assert dict(properties_in(raw)) == (by_the_driver(raw) or dict(Basic.Properties()))


def test_what_is_well_formed_is_what_the_driver_decodes():
    check(SAID)
    check(NOTHING)
    assert dict(properties_in(SAID))["headers"]["big"] == 1 << 40


@given(at=st.integers(0, len(SAID) - 1), byte=st.integers(0, 255))
def test_one_byte_that_was_changed_is_taken_as_the_driver_takes_it(at, byte):
    check(SAID[:at] + bytes((byte,)) + SAID[at + 1 :])


@given(raw=st.binary(max_size=60))
@example(raw=b"")
@example(raw=b"\x20")
@example(raw=b"\x20\x00\x00\x00\x00\xff")
@example(raw=b"\x00\x40" + (1 << 62).to_bytes(8))
@example(raw=b"\x00\x01\x00\x00")
def test_any_bytes_are_taken_as_the_driver_takes_them(raw):
    check(raw)


@given(end=st.integers(0, len(SAID)))
def test_what_was_cut_short_is_no_error(end):
    check(SAID[:end])


def test_a_message_that_the_driver_read_says_the_same():
    header = ContentHeader(body_size=1)
    header.unmarshal(bytes(12) + SAID)
    deliver = Basic.Deliver("c", 3, redelivered=True, exchange="ex", routing_key="k\u00e9y")
    received = Received.of(DeliveredMessage(delivery=deliver, header=header, body=b"x", channel=None), 4.0)
    assert (received.tag, received.redelivered, received.body, received.at) == (3, True, b"x", 4.0)
    assert (received.exchange, received.routing_key) == ("ex", "k\u00e9y")
    assert dict(received.properties) == dict(properties_in(SAID))
