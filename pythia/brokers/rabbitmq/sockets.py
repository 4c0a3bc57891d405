"""The socket under an AMQP connection: ours, so that it can be cut, and read leniently.

The driver decodes the headers of every message as it reads, and gives the whole connection up over one that it cannot: a header
name that is no UTF-8, a timestamp beyond the year 9999. The message would come again, and again take the connection down. So
what the driver could not decode is mended on the way to it, in place: malformed headers are ignored.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiormq.connection import TransportFactory
from pamqp.decode import by_type
from pamqp.header import ContentHeader
from yarl import URL

_METHOD, _HEADER = 1, 2
_BASIC, _RETURN, _DELIVER, _GET_OK = 60, 50, 60, 71
_PREFIX = 7  # bytes of a frame before its payload
_CLOSE = struct.pack(">HH", 10, 50)  # connection.close
_SHORT = ["shortstr"]
_SHAPES = [*_SHORT * 2, "table", "octet", "octet", *_SHORT * 4, "timestamp", *_SHORT * 4]
_PROPERTIES = tuple((1 << (15 - place), shape) for place, shape in enumerate(_SHAPES))
"""The flag and the type of each property of a message, in their order."""

_CHANNEL = 20
_OPENS, _SHUTS, _IS_SHUT = (struct.pack(">HH", _CHANNEL, method) for method in (10, 40, 41))
_OF_A_CHANNEL = _OPENS[:2]

BEAT = struct.pack(">BHIB", 8, 0, 0, 0xCE)
"""A frame that only says that its sender lives."""

_BUFFER_BYTES = 256 * 1024
_NO_VALUE = b"\x01"  # no type of a field begins so


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server closed a connection with."""

    code: int
    text: str


class LenientReader(asyncio.StreamReader):
    """Reads frames as the driver asks for them (one byte, six, the payload with its end) and mends what it could not decode.

    ``refusal`` is what the server last closed the connection with: while it is being made, the driver does not say.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_BUFFER_BYTES, loop=loop)
        self._asked = 0
        self._kind = 0
        self.refusal: Refusal | None = None

    async def readexactly(self, n: int) -> bytes:
        raw = await super().readexactly(n)
        if n == 1 and self._asked == 0:
            self._kind, self._asked = raw[0], 1
        elif n == _PREFIX - 1 and self._asked == 1:
            self._asked = _PREFIX
        else:
            self._asked = 0
            if self._kind == _METHOD and raw[:4] == _CLOSE:
                self.refusal = _refusal_in(raw)
            return mended(self._kind, raw)
        return raw


def _refusal_in(payload: bytes) -> Refusal:
    (code,) = struct.unpack(">H", payload[4:6])
    return Refusal(code, payload[7 : 7 + payload[6]].decode("utf-8", "replace"))


def mended(kind: int, payload: bytes) -> bytes:
    """A frame's payload that can be decoded, of the same length."""
    if kind == _HEADER:
        return payload if _decodes(payload) else _without_what_is_malformed(payload)
    if kind == _METHOD and _names_a_route(payload) and not payload.isascii():
        return _plain_route(payload)
    return payload


def _decodes(payload: bytes) -> bool:
    try:
        ContentHeader().unmarshal(payload[:-1])
    except Exception:  # noqa: BLE001 - whatever the driver's decoder raises would end the connection
        return False
    return True


def _without_what_is_malformed(payload: bytes) -> bytes:
    """The same header with those of its properties that can be read, and zeros where the others were."""
    (flags,) = struct.unpack(">H", payload[12:14])
    at, kept, good = 14, 0, b""
    for bit, shape in _PROPERTIES:
        if not flags & bit:
            continue
        size = _size_of(shape, payload, at)
        piece = payload[at : at + size]
        at += size
        if at < len(payload) and _can_be_read(shape, piece):
            kept |= bit
            good += piece
    rebuilt = payload[:12] + struct.pack(">H", kept) + good
    return rebuilt + b"\x00" * (len(payload) - len(rebuilt) - 1) + payload[-1:]


def _size_of(shape: str, payload: bytes, at: int) -> int:
    match shape:
        case "shortstr":
            return 1 + int.from_bytes(payload[at : at + 1])
        case "table":
            return 4 + int.from_bytes(payload[at : at + 4])
        case "timestamp":
            return 8
    return 1


def _can_be_read(shape: str, piece: bytes) -> bool:
    """Also with something behind it, which is no value: where a table lacks its last one, the driver takes what follows for it."""
    try:
        by_type(piece, shape)
        by_type(piece + _NO_VALUE, shape)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _names_a_route(payload: bytes) -> bool:
    return payload[:4] in {struct.pack(">HH", _BASIC, method) for method in (_RETURN, _DELIVER, _GET_OK)}


def _plain_route(payload: bytes) -> bytes:
    """Method frames that carry an exchange and a routing key: what is no UTF-8 in their strings becomes question marks."""
    try:
        payload[4:-1].decode()
    except UnicodeDecodeError:
        return payload[:4] + _in_place(payload[4:-1], payload[2:4]) + payload[-1:]
    return payload


def _in_place(arguments: bytes, method: bytes) -> bytes:
    """Walks over the arguments; only short strings are touched."""
    shapes = {_DELIVER: "sN1ss", _RETURN: "2sss", _GET_OK: "N1ss4"}
    out, at = bytearray(arguments), 0
    for shape in shapes[struct.unpack(">H", method)[0]]:
        match shape:
            case "s":
                end = at + 1 + out[at]
                out[at + 1 : end] = _ascii(bytes(out[at + 1 : end]))
                at = end
            case "N":
                at += 8
            case size:
                at += int(size)
    return bytes(out)


def _ascii(raw: bytes) -> bytes:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return bytes(byte if byte < 0x80 else 0x3F for byte in raw)
    return raw


MOST_GATHERED_BYTES = 1 << 16
MOST_UNSENT_BYTES = 1 << 18


class GatheringWriter(asyncio.StreamWriter):
    """Sends together what was written in turns of the loop that follow each other: the driver writes frame by frame, a system call
    each, and of many messages that are published at once one a turn. What nothing follows is sent a turn later.

    What is still said on a channel behind its end is left out: the server would end the connection over it, and over a number
    that is given out again take it for the next one's. Whoever waits for an answer to it is told that the channel is closed.

    Under ``lock``, so that another thread may write between two frames. ``written_at`` is monotonic.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._gathered: list[bytes] = []
        self._size = self._seen = 0  # bytes gathered, now and a turn ago
        self._shut: set[bytes] = set()  # channels that were ended, by either side, and are not open again
        self.lock = threading.Lock()
        self.written_at = time.monotonic()

    @property
    def has_room(self) -> bool:
        """Whether less waits to be sent than is worth waiting for: ``drain`` waits."""
        return self._size + self.transport.get_write_buffer_size() < MOST_UNSENT_BYTES

    def write(self, data: Any) -> None:
        """``data``: whole frames of one channel."""
        of_a_channel = data[7:9] == _OF_A_CHANNEL and data[0] == _METHOD
        if of_a_channel:
            self._note(data[1:3], data[7:11])
        elif data[1:3] in self._shut:
            return
        if not self._gathered:
            self._seen = 0
            asyncio.get_running_loop().call_soon(self._look)
        self._gathered.append(data)
        self._size += len(data)

    def _note(self, channel: bytes, method: bytes) -> None:
        if method == _OPENS:
            self._shut.discard(channel)
        elif method in (_SHUTS, _IS_SHUT):
            self._shut.add(channel)

    async def drain(self) -> None:
        self._send()
        await super().drain()

    def write_eof(self) -> None:
        self._send()
        super().write_eof()

    def close(self) -> None:
        self._send()
        super().close()

    def _look(self) -> None:
        """Whether something has come in the last turn; it is sent when nothing has, or it is enough."""
        if self._seen < self._size < MOST_GATHERED_BYTES:
            self._seen = self._size
            asyncio.get_running_loop().call_soon(self._look)
        else:
            self._send()

    def _send(self) -> None:
        gathered, self._gathered, self._size = self._gathered, [], 0
        if gathered and not self.transport.is_closing():
            with self.lock:
                super().write(b"".join(gathered))
            self.written_at = time.monotonic()


MakeProtocol = Callable[[asyncio.StreamReader, asyncio.AbstractEventLoop], asyncio.StreamReaderProtocol]


def _plain(reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> asyncio.StreamReaderProtocol:
    return asyncio.StreamReaderProtocol(reader, loop=loop)


class Socket(TransportFactory):
    """Makes one connection's socket and keeps hold of it. ``protocol`` makes what stands between it and the driver's reader."""

    def __init__(self, protocol: MakeProtocol = _plain) -> None:
        self._make_protocol = protocol
        self._writer: GatheringWriter | None = None
        self._reader: LenientReader | None = None

    @property
    def writer(self) -> GatheringWriter:
        """Once it is connected."""
        assert self._writer is not None
        return self._writer

    @property
    def refusal(self) -> Refusal | None:
        """What the server closed the connection with."""
        return None if self._reader is None else self._reader.refusal

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As the driver asks: connect, with TLS for ``amqps``."""
        provider = kwargs.pop("ssl_context_provider")
        context: ssl.SSLContext | None = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = self._reader = LenientReader(loop)
        protocol = self._make_protocol(reader, loop)
        transport, _ = await loop.create_connection(
            lambda: protocol, url.host or "localhost", url.port or 5672, ssl=context, **kwargs
        )
        transport.set_write_buffer_limits(MOST_UNSENT_BYTES)
        self._writer = GatheringWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def abort(self) -> None:
        """Close it at once, with nothing said to the server."""
        if self._writer is not None:
            self._writer.transport.abort()
