"""Deliveries, taken out of a connection's bytes before the driver sees them, and settled by frames of our own.

The driver makes a task, three awaited reads and a dozen objects of each message: a hundred microseconds. Here all that came with
one read of the socket is cut into frames in one pass, and what was delivered on a tapped channel is handed on together. Every
other frame goes on to the driver untouched, which keeps the connection, its channels and its registrations as before.

What settles deliveries of a tapped channel is written here too, and only here: an ack of many counts on the order of what was
written before it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from aiormq.channel import Channel

from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.sockets import BEAT

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_KINDS = frozenset((_METHOD, _HEADER, _BODY, _HEARTBEAT))
_DELIVER = struct.pack(">HH", 60, 60)
_ACK, _NACK = 80, 120  # methods of class 60
_AROUND = 8  # bytes of a frame that are not its payload: seven before, one behind
_END = 0xCE
_ALIVE_SECONDS = 1.0
_LARGEST = 1 << 27  # bytes of a frame; the server tunes it to far less

_frame = struct.Struct(">BHI").unpack_from
_long = struct.Struct(">Q").unpack_from
_settling = struct.Struct(">BHIHHQBB").pack
_SETTLING_BYTES = 13
_REQUEUE = 2

Arrived = Callable[[Sequence[Received]], None]


class Settling(Protocol):
    """Writes what settles deliveries of one channel. Written is not answered: the server says nothing to it."""

    async def ack(self, frames: Sequence[tuple[int, bool]]) -> None:
        """Each is a tag, and whether it stands for every unsettled one before it, too."""

    async def requeue(self, tags: Sequence[int]) -> None: ...


class DriverSettling:
    """By the driver."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def ack(self, frames: Sequence[tuple[int, bool]]) -> None:
        for tag, multiple in frames:
            await self._channel.basic_ack(tag, multiple=multiple, wait=(tag, multiple) == frames[-1])

    async def requeue(self, tags: Sequence[int]) -> None:
        for tag in tags:
            await self._channel.basic_nack(tag, requeue=True, wait=tag == tags[-1])


class OwnSettling:
    """On a tapped channel."""

    def __init__(self, channel: int, writer: asyncio.StreamWriter) -> None:
        self._channel = channel
        self._writer = writer

    async def ack(self, frames: Sequence[tuple[int, bool]]) -> None:
        await self._write(_ACK, frames)

    async def requeue(self, tags: Sequence[int]) -> None:
        await self._write(_NACK, [(tag, _REQUEUE) for tag in tags])

    async def _write(self, method: int, rows: Iterable[tuple[int, int]]) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("the connection is closing")
        number = self._channel
        frames = [_settling(_METHOD, number, _SETTLING_BYTES, 60, method, tag, bits, _END) for tag, bits in rows]
        self._writer.write(b"".join(frames))
        await self._writer.drain()


class Tapped(Protocol):
    """Who is told of what the server says on one channel, frame by frame, before the driver."""

    @property
    def batch(self) -> Sequence[Any]:
        """What came in, and was not handed on yet."""

    def take(self, kind: int, data: bytes, at: int, end: int) -> int:
        """Where that ends which was taken, if the frame from ``at`` to ``end`` was; 0: it is the driver's."""

    def hand_on(self) -> None:
        """All that came with one read of the socket is in ``batch``."""

    def lost(self) -> None:
        """The connection is gone."""


class Tap:
    """One channel's deliveries."""

    __slots__ = ("_arrived", "_channel", "batch", "expecting", "missing", "parts", "received")

    def __init__(self, channel: int, arrived: Arrived) -> None:
        self._channel = channel
        self._arrived = arrived
        self.batch: list[Received] = []
        self.expecting = False  # the content of ``received``
        self.received: Received
        self.missing = 0  # bytes of its body
        self.parts: list[bytes] = []

    def take(self, kind: int, data: bytes, at: int, end: int) -> int:
        """Where that ends which was taken: the frame from ``at`` to ``end``, or all of a delivery that begins with it. 0: it is none
        of one."""
        if kind != _METHOD:
            if not self.expecting:
                return 0
            self._content(kind, data[at + 7 : end - 1])
            return end
        if data[at + 7 : at + 11] != _DELIVER:
            return 0
        if whole := self._take_whole(data, at, end):
            return whole
        tag_at = at + 12 + data[at + 11]  # behind the consumer's name
        (tag,) = _long(data, tag_at)
        self.received = Received(tag, redelivered=data[tag_at + 8] == 1, route=data[tag_at + 9 : end - 1])
        self.expecting = True
        return end

    def _take_whole(self, data: bytes, at: int, end: int) -> int:
        """Take the delivery whose first frame is that from ``at`` to ``end``, if it is here in three frames on end, as nearly every
        one is; where it ends, or 0."""
        if len(data) < end + _AROUND:
            return 0
        kind, its_channel, size = _frame(data, end)
        body_at = end + _AROUND + size
        if kind != _HEADER or its_channel != self._channel or len(data) < body_at + _AROUND:
            return 0
        kind, its_channel, body_size = _frame(data, body_at)
        last: int = body_at + _AROUND + body_size
        if kind != _BODY or its_channel != self._channel or len(data) < last or _long(data, end + 11) != (body_size,):
            return 0
        tag_at = at + 12 + data[at + 11]  # behind the consumer's name
        received = Received(
            _long(data, tag_at)[0],
            redelivered=data[tag_at + 8] == 1,
            route=data[tag_at + 9 : end - 1],
            raw=data[end + 19 : body_at - 1],
            body=data[body_at + 7 : last - 1],
        )
        self.batch.append(received)
        return last

    def _content(self, kind: int, payload: bytes) -> None:
        """A content frame that belongs to ``received``."""
        if kind == _HEADER:
            (self.missing,) = _long(payload, 4)
            self.received.describe(payload[12:])
        else:
            self.missing -= len(payload)
            self.parts.append(payload)
        if self.missing <= 0:
            self.received.body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
            self.parts.clear()
            self.expecting = False
            self.batch.append(self.received)

    def hand_on(self) -> None:
        """Tell of what has come in whole."""
        batch, self.batch = self.batch, []
        now = time.monotonic()
        for received in batch:
            received.at = now
        self._arrived(batch)

    def lost(self) -> None:
        """Whoever consumes watches the connection."""


class TappedProtocol(asyncio.StreamReaderProtocol):
    """Between a socket and the driver's reader. ``taps`` are by channel."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.taps: dict[int, Tapped] = {}
        self._rest = b""
        self._told = 0.0  # when the driver last saw a byte (monotonic)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = kept = 0  # the next frame, and the first byte that was neither taken nor passed on
        while len(data) - at >= _AROUND:
            kind, channel, size = _frame(data, at)
            end = at + _AROUND + size
            if kind not in _KINDS or size > _LARGEST:
                at = len(data)  # no AMQP: the driver finds the words
                break
            if end > len(data):
                break
            tap = self.taps.get(channel)
            if tap is not None and (taken := tap.take(kind, data, at, end)):
                if kept < at:
                    self._pass_on(data[kept:at])
                kept = end = taken
            at = end
        if kept < at:
            self._pass_on(data[kept:at])
        self._rest = data[at:]
        for tap in tuple(self.taps.values()):
            if tap.batch:
                tap.hand_on()
        if kept and time.monotonic() - self._told > _ALIVE_SECONDS:
            self._pass_on(BEAT)  # the driver takes a connection on which it sees nothing for dead

    def eof_received(self) -> bool | None:
        """What the server said last may be half a frame."""
        if self._rest:
            self._pass_on(self._rest)
            self._rest = b""
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        for tap in tuple(self.taps.values()):
            tap.lost()
        super().connection_lost(exc)

    def _pass_on(self, data: bytes) -> None:
        self._told = time.monotonic()
        super().data_received(data)
