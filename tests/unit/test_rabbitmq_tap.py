"""Deliveries are taken out of the stream, however it is cut; all else reaches the driver as it came."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from pythia.brokers.rabbitmq import tap as taps
from pythia.brokers.rabbitmq.tap import OwnSettling, Tap, TappedProtocol

TAPPED, OTHER = 7, 8
BEAT = frame.marshal(Heartbeat(), 0)


class Wire:
    """A tapped protocol without a socket: what it hands on, and what its driver reads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.reader = asyncio.StreamReader(loop=self.loop)
        self.protocol = TappedProtocol(self.reader, self.loop)
        self.batches: list[list[tuple[int, bytes, str, str, bool]]] = []
        self.protocol.taps[TAPPED] = Tap(TAPPED, self._arrived)

    def _arrived(self, batch):
        rows = [(one.tag, one.body, one.exchange, one.routing_key, one.redelivered) for one in batch]
        assert all(one.at > 0 for one in batch)
        assert all(one.properties.message_id == f"m{one.tag}" for one in batch)
        self.batches.append(rows)

    @property
    def received(self):
        return [row for batch in self.batches for row in batch]

    def close(self) -> bytes:
        """All that the driver could read."""
        self.protocol.eof_received()
        read = self.loop.run_until_complete(self.reader.read())
        self.loop.close()
        return read


@pytest.fixture
def wire(monkeypatch):
    monkeypatch.setattr(taps, "_ALIVE_SECONDS", float("inf"))
    return Wire()


def delivery(tag: int, body: bytes, *, channel: int = TAPPED, part: int = 4) -> bytes:
    """The frames of one delivery, its body in parts."""
    method = Basic.Deliver("consumer", tag, redelivered=tag % 2 == 0, exchange="ex", routing_key="key")
    header = ContentHeader(body_size=len(body), properties=Basic.Properties(message_id=f"m{tag}"))
    parts = [ContentBody(body[at : at + part]) for at in range(0, len(body), part)]
    return b"".join(frame.marshal(one, channel) for one in (method, header, *parts))


def row(tag: int, body: bytes) -> tuple[int, bytes, str, str, bool]:
    return tag, body, "ex", "key", tag % 2 == 0


FLOW = frame.marshal(Channel.Flow(active=True), TAPPED)
GOT = (
    frame.marshal(Basic.GetOk(1, redelivered=False, exchange="", routing_key="q", message_count=0), TAPPED)
    + frame.marshal(ContentHeader(body_size=2, properties=Basic.Properties(message_id="got")), TAPPED)
    + frame.marshal(ContentBody(b"xy"), TAPPED)
)
PIECES = st.lists(
    st.one_of(
        st.tuples(st.just("delivery"), st.binary(max_size=20)),
        st.tuples(st.just("other"), st.sampled_from([BEAT, FLOW, GOT, delivery(1, b"theirs", channel=OTHER)])),
    ),
    max_size=12,
)


@given(pieces=PIECES, cuts=st.lists(st.integers(1, 60), max_size=60))
def test_however_the_stream_is_cut_deliveries_are_taken_and_the_rest_passes(pieces, cuts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taps, "_ALIVE_SECONDS", float("inf"))
        wire = Wire()
        stream, expected, theirs = b"", [], b""
        for tag, (kind, content) in enumerate(pieces, 1):
            if kind == "delivery":
                stream += delivery(tag, content)
                expected.append(row(tag, content))
            else:
                stream += content
                theirs += content
        for size in (*cuts, len(stream)):
            wire.protocol.data_received(stream[:size])
            stream = stream[size:]
        assert wire.received == expected
        assert wire.close() == theirs


def test_what_came_together_is_handed_on_together(wire):
    wire.protocol.data_received(delivery(1, b"a") + delivery(2, b"") + BEAT + delivery(3, b"c")[:-1])
    wire.protocol.data_received(b"\xce")
    assert wire.batches == [[row(1, b"a"), row(2, b"")], [row(3, b"c")]]
    assert wire.close() == BEAT


def test_without_a_tap_everything_is_the_drivers(wire):
    wire.protocol.taps.clear()
    wire.protocol.data_received(delivery(1, b"a")[:20])
    wire.protocol.data_received(delivery(1, b"a")[20:])
    assert wire.close() == delivery(1, b"a")


@pytest.mark.parametrize("said", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", BEAT[:-1]])
def test_what_is_no_frame_is_the_drivers_to_complain_of(wire, said):
    wire.protocol.data_received(said)
    assert wire.close() == said


def test_a_driver_that_sees_no_deliveries_is_told_that_bytes_come(wire, monkeypatch):
    monkeypatch.setattr(taps, "_ALIVE_SECONDS", -1.0)
    wire.protocol.data_received(delivery(1, b"a"))
    wire.protocol.data_received(delivery(2, b"b")[:20])
    assert wire.received == [row(1, b"a")]
    assert wire.close() == BEAT + delivery(2, b"b")[:20], "never within a frame"


class Writer:
    """What was written to a connection."""

    def __init__(self) -> None:
        self.data = b""
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None: ...


async def test_what_settles_is_what_the_driver_would_write():
    writer = Writer()
    settling = OwnSettling(TAPPED, writer)
    await settling.ack([(3, True), (5, False)])
    await settling.requeue([4, 6])
    said = (
        Basic.Ack(3, multiple=True),
        Basic.Ack(5, multiple=False),
        Basic.Nack(4, multiple=False, requeue=True),
        Basic.Nack(6, multiple=False, requeue=True),
    )
    assert writer.data == b"".join(frame.marshal(one, TAPPED) for one in said)


async def test_nothing_is_written_to_a_connection_that_closes():
    writer = Writer()
    writer.closing = True
    with pytest.raises(ConnectionError):
        await OwnSettling(TAPPED, writer).ack([(1, False)])
    assert writer.data == b""
