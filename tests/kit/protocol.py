"""Whether a server answers in its protocol: a port may be open long before anybody serves behind it."""

from __future__ import annotations

import contextlib
import socket
import struct

_SECONDS = 3.0
_TUNE = struct.pack(">HH", 10, 30)  # connection.tune: these credentials are right
_FRAME = struct.Struct(">BHI")


def amqp_serves(host: str, port: int, user: str = "guest", password: str = "guest") -> bool:
    """Whether RabbitMQ serves there and lets ``user`` in."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), _SECONDS) as link:
        link.sendall(b"AMQP\x00\x00\x09\x01")
        _read_frame(link)  # connection.start
        link.sendall(_start_ok(user, password))
        return _read_frame(link).startswith(_TUNE)
    return False


def redis_serves(host: str, port: int) -> bool:
    """Whether Redis serves there, to anybody, and is done with loading."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), _SECONDS) as link:
        link.sendall(b"PING\r\n")
        return link.recv(64).startswith(b"+PONG")
    return False


def _start_ok(user: str, password: str) -> bytes:
    login = f"\0{user}\0{password}".encode()
    no_properties = struct.pack(">I", 0)
    payload = b"".join(
        (
            *(struct.pack(">HH", 10, 11), no_properties, b"\x05PLAIN"),
            *(struct.pack(">I", len(login)), login, b"\x05en_US"),
        )
    )
    return _FRAME.pack(1, 0, len(payload)) + payload + b"\xce"


def _read_frame(link: socket.socket) -> bytes:
    _, _, size = _FRAME.unpack(_read(link, _FRAME.size))
    return _read(link, size + 1)[:-1]


def _read(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = link.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed in the middle of a frame")
        data += chunk
    return data
