"""An AMQP producer that writes frames by hand: what no client library would send, and any network may bring."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_FRAME = struct.Struct(">BHI")
_END = b"\xce"
_METHOD, _HEADER, _BODY = 1, 2, 3
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID, _TIMESTAMP = 1 << 15, 1 << 13, 1 << 12, 1 << 7, 1 << 6


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


class RawProducer:
    """One confirming channel on one connection."""

    def __init__(self, link: socket.socket, vhost: str) -> None:
        self._link = link
        link.sendall(b"AMQP\x00\x00\x09\x01")
        self._expect(10, 10)
        self._method(0, 10, 11, long(b""), short(b"PLAIN"), long(b"\0guest\0guest"), short(b"en_US"))
        self._expect(10, 30)
        self._method(0, 10, 31, struct.pack(">HIH", 1, 131072, 0))
        self._method(0, 10, 40, short(vhost.encode()), short(b""), b"\0")
        self._expect(10, 41)
        self._method(1, 20, 10, short(b""))
        self._expect(20, 11)
        self._method(1, 85, 10, b"\0")
        self._expect(85, 11)

    def publish(
        self,
        routing_key: bytes,
        message_id: str,
        body: bytes,
        *,
        exchange: bytes = b"",
        table: bytes = b"",
        timestamp: int | None = None,
    ) -> None:
        """Publish and wait for the confirm. ``table`` is the inside of the headers, as it goes onto the wire."""
        flags = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID
        said = [short(b"application/json"), long(table), b"\2", short(message_id.encode())]
        if timestamp is not None:
            flags |= _TIMESTAMP
            said.append(struct.pack(">Q", timestamp))
        self.send(exchange, routing_key, struct.pack(">H", flags) + b"".join(said), body)

    def send(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        """Publish with these ``properties``, flags and values, and wait for the confirm."""
        self._method(1, 60, 40, struct.pack(">H", 0), short(exchange), short(routing_key), b"\1")  # mandatory
        self._send(_HEADER, 1, struct.pack(">HHQ", 60, 0, len(body)) + properties)
        if body:
            self._send(_BODY, 1, body)
        self._expect(60, 80)

    def _method(self, channel: int, family: int, number: int, *arguments: bytes) -> None:
        self._send(_METHOD, channel, struct.pack(">HH", family, number) + b"".join(arguments))

    def _send(self, kind: int, channel: int, payload: bytes) -> None:
        self._link.sendall(_FRAME.pack(kind, channel, len(payload)) + payload + _END)

    def _expect(self, family: int, number: int) -> None:
        kind, _, size = _FRAME.unpack(self._read(_FRAME.size))
        payload = self._read(size + 1)
        assert (kind, *struct.unpack(">HH", payload[:4])) == (_METHOD, family, number), payload

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._link.recv(size - len(data))
            assert chunk, "the server closed the connection"
            data += chunk
        return data


@contextmanager
def raw_producer(port: int, vhost: str) -> Iterator[RawProducer]:
    """On a RabbitMQ of this machine, as guest."""
    with socket.create_connection(("127.0.0.1", port), 10.0) as link:
        yield RawProducer(link, vhost)
