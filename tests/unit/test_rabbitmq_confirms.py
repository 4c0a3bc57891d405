"""What was published is answered for by its number, however the server's answers come; behind the end of a channel nobody is told
that his message was taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel
from pamqp.header import ContentHeader

from pythia.broker import Published
from pythia.brokers.rabbitmq import tap as taps
from pythia.brokers.rabbitmq.confirms import Answer, Confirms, Parcel
from pythia.brokers.rabbitmq.sockets import GatheringWriter
from pythia.brokers.rabbitmq.tap import TappedProtocol
from pythia.brokers.rabbitmq.wire import WireProperties
from pythia.errors import BrokerRefused

CHANNEL = 5


class Socket(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return True  # nobody has to close it


class Server:
    """A channel that publishes, and what its server says."""

    def __init__(self, frame_max: int = 4096) -> None:
        self.loop = asyncio.get_running_loop()
        self.protocol = TappedProtocol(asyncio.StreamReader(loop=self.loop), self.loop)
        self.socket = Socket()
        self.socket.is_closing = lambda: False
        self.writer = GatheringWriter(self.socket, self.protocol, None, self.loop)
        self.confirms = Confirms(CHANNEL, self.writer, frame_max, ended=lambda: self.protocol.taps.pop(CHANNEL))
        self.protocol.taps[CHANNEL] = self.confirms

    def says(self, *said: Any, channel: int = CHANNEL) -> None:
        self.protocol.data_received(b"".join(frame.marshal(one, channel) for one in said))

    def publish(self, parcel: Parcel) -> Answer:
        answer: Answer = self.loop.create_future()
        self.confirms.say(parcel, answer)
        return answer

    async def heard(self) -> list[Any]:
        """The frames that were written."""
        await self.writer.drain()
        data, frames = self.socket.written, []
        while data:
            used, channel, value = frame.unmarshal(data)
            assert channel == CHANNEL
            frames.append(value)
            data = data[used:]
        return frames


@contextlib.contextmanager
def serving(**options: int) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taps, "_ALIVE_SECONDS", float("inf"))
        server = Server(**options)
        yield server
        server.socket.is_closing = lambda: True


def parcel(name: str | None, *, to: str = "q", exchange: str = "", body: bytes = b"body") -> Parcel:
    properties = WireProperties(message_id=name, delivery_mode=2, headers={"n": 1})
    return Parcel(exchange=exchange, routing_key=to, body=body, properties=properties)


def returned(name: str | None, *, to: str = "q", exchange: str = "", body: bytes = b"body") -> list[Any]:
    return [
        Basic.Return(312, "NO_ROUTE", exchange, to),
        ContentHeader(body_size=len(body), properties=Basic.Properties(message_id=name)),
        *([ContentBody(body)] if body else []),
    ]


CLOSED = Channel.Close(406, "PRECONDITION_FAILED - something", 60, 40)


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 10_000])
async def test_a_message_is_written_as_the_driver_would_write_it(size):
    with serving() as server:
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        server.publish(parcel("m", to="kü", exchange="ex", body=body))
        method, header, *parts = await server.heard()
        assert isinstance(method, Basic.Publish)
        assert (method.exchange, method.routing_key, method.mandatory, method.immediate) == ("ex", "kü", True, False)
        assert header.body_size == size
        assert header.properties.message_id == "m"
        assert header.properties.headers == {"n": 1}
        assert b"".join(part.value for part in parts) == body
        assert all(len(part.value) + 8 <= 4096 for part in parts)


ANSWERS = st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.sampled_from([Basic.Ack, Basic.Nack])), max_size=14)


@given(
    count=st.integers(1, 12), unroutable=st.sets(st.integers(1, 12)), said=ANSWERS, cuts=st.lists(st.integers(1, 40))
)
def test_each_is_told_what_the_server_said_of_its_number(count, unroutable, said, cuts):
    async def play() -> None:
        with serving() as server:
            answers = [server.publish(parcel(f"m{number}")) for number in range(1, count + 1)]
            expected: dict[int, Published] = {}
            stream = b"".join(
                frame.marshal(one, CHANNEL)
                for number in sorted(unroutable & set(range(1, count + 1)))
                for one in returned(f"m{number}")
            )
            for tag, multiple, kind in said:
                stream += frame.marshal(kind(tag, multiple), CHANNEL)
                for one in range(1, tag + 1) if multiple else (tag,):
                    good = kind is Basic.Ack and one not in unroutable
                    expected.setdefault(one, Published.CONFIRMED if good else Published.REFUSED)
            for size in (*cuts, len(stream)):
                server.protocol.data_received(stream[:size])
                stream = stream[size:]
            for number, answer in enumerate(answers, 1):
                assert (answer.result() if answer.done() else None) == expected.get(number)
            server.says(CLOSED)
            unanswered = [answer for number, answer in enumerate(answers, 1) if number not in expected]
            assert all(isinstance(answer.exception(), BrokerRefused) for answer in unanswered)

    asyncio.run(play())


async def test_what_comes_back_is_known_by_its_name_and_its_route():
    with serving() as server:
        answers = [
            server.publish(one)
            for one in (parcel("m", to="a"), parcel("m", to="b"), parcel(None, to="b"), parcel("m", exchange="a"))
        ]
        server.says(*returned("m", to="b"), *returned(None, to="b", body=b""), Basic.Ack(4, multiple=True))
        refused, confirmed = Published.REFUSED, Published.CONFIRMED
        assert [answer.result() for answer in answers] == [confirmed, refused, refused, confirmed]


async def test_the_like_of_what_is_on_its_way_has_to_wait_for_its_answer():
    with serving() as server:
        answer = server.publish(parcel("m"))
        assert server.confirms.before(parcel("m")) is answer
        assert server.confirms.before(parcel("m", to="other")) is None
        server.says(Basic.Ack(1))
        assert server.confirms.before(parcel("m")) is None


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (404, "NOT_FOUND - no exchange 'ex' in vhost '/'", ["unknown", "refused", "unknown"]),
        (403, "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused", ["error", "unknown", "error"]),
        (406, "PRECONDITION_FAILED - message size 9 is larger than configured", ["unknown", "unknown", "error"]),
        (406, "PRECONDITION_FAILED - user_id property set to 'x'", ["error", "error", "error"]),
    ],
)
async def test_a_channel_that_the_server_closes_speaks_of_those_that_it_names(code, text, expected):
    with serving() as server:
        answers = [
            server.publish(one) for one in (parcel("1"), parcel("2", exchange="ex"), parcel("3", body=b"9 bytes 9"))
        ]
        server.says(Channel.Close(code, text, 60, 40))
        assert ["error" if answer.exception() else answer.result().value for answer in answers] == expected
        assert not server.confirms.is_open
        assert CHANNEL not in server.protocol.taps


async def test_a_lost_connection_leaves_what_was_sent_in_doubt_and_a_cancelled_answer_alone():
    with serving() as server:
        answers = [server.publish(parcel(str(number))) for number in range(3)]
        server.says(Basic.Ack(1))
        answers[1].cancel()
        server.protocol.connection_lost(None)
        assert answers[0].result() is Published.CONFIRMED
        assert answers[1].cancelled()
        assert answers[2].result() is Published.UNKNOWN


async def test_a_message_that_cannot_be_written_takes_no_number():
    with serving() as server:
        with pytest.raises((TypeError, ValueError)):
            server.publish(Parcel(routing_key="q", body=b"", properties=WireProperties(headers={"x": object()})))
        answer = server.publish(parcel("m"))
        server.says(Basic.Ack(1))
        assert answer.result() is Published.CONFIRMED


async def test_other_channels_answers_are_theirs():
    with serving() as server:
        answer = server.publish(parcel("m"))
        server.says(Basic.Ack(1), *returned("m"), channel=CHANNEL + 1)
        assert not answer.done()
