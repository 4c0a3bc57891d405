"""The wire between the supervisor and one of its processes: whole frames over a socket pair that both were born with.

A socket pair has no name that anybody else could open, and its end is noticed by the other side however a process ends: the
kernel closes it. Down go one order (pickled by us for us, secrets in it) and then requests; up goes JSON only, because a
process runs a user's code and the supervisor must survive whatever it says.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

MOST_BYTES = 64 * 1024 * 1024  # of one frame from a process
_HEAD = struct.Struct("!I")
_CHUNK = 256 * 1024
_MOST_WAITING_BYTES = 64 * 1024


class Garbled(Exception):
    """What came is no frame of ours."""


class Wire:
    """The supervisor's end: never blocks. What cannot be written yet waits in memory."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.connection = connection
        self._out = bytearray()
        self._in = bytearray()

    def fileno(self) -> int:
        return self.connection.fileno()

    @property
    def clogged(self) -> bool:
        """Whether the other end reads nothing: then it is asked nothing more."""
        return len(self._out) > _MOST_WAITING_BYTES

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def send(self, payload: bytes) -> None:
        self._out += _HEAD.pack(len(payload)) + payload
        self.flush()

    def flush(self) -> None:
        """Write as much as fits; a process that is gone takes nothing, and its end is told by its exit."""
        with suppress(BlockingIOError):
            while self._out:
                try:
                    done = self.connection.send(self._out)
                except BlockingIOError:
                    raise
                except OSError:
                    self._out.clear()
                    return
                del self._out[:done]

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """The whole messages that have come, and whether the other end is closed.

        Raises:
            Garbled: it is no message of ours.
        """
        closed = False
        with suppress(BlockingIOError):
            while not closed:
                try:
                    data = self.connection.recv(_CHUNK)
                except BlockingIOError:
                    raise
                except OSError:
                    data = b""
                closed = not data
                self._in += data
        return list(self._messages()), closed

    def _messages(self) -> Iterator[dict[str, Any]]:
        while len(self._in) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._in)
            if size > MOST_BYTES:
                raise Garbled(f"a frame of {size} bytes")
            if len(self._in) < _HEAD.size + size:
                return
            payload = bytes(self._in[_HEAD.size : _HEAD.size + size])
            del self._in[: _HEAD.size + size]
            yield _parsed(payload)

    def close(self) -> None:
        self.connection.close()


def _parsed(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Garbled("no JSON") from error
    if not isinstance(message, dict):
        raise Garbled("no object")
    return message


class Line:
    """The process's end: blocking, read by one thread, written by any."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)  # noqa: FBT003 - as above
        self._connection = connection
        self._lock = threading.RLock()

    def read(self) -> bytes | None:
        """The next frame; None once the supervisor is gone."""
        head = self._exactly(_HEAD.size)
        return None if head is None else self._exactly(*_HEAD.unpack(head))

    def say(self, message: dict[str, Any]) -> None:
        """Send; a supervisor that is gone hears nothing, which is no error here."""
        payload = json.dumps(message, separators=(",", ":")).encode("utf-8", "backslashreplace")
        with self._lock, suppress(OSError):
            self._connection.sendall(_HEAD.pack(len(payload)) + payload)

    def _exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            try:
                part = self._connection.recv(size - len(data))
            except OSError:
                return None
            if not part:
                return None
            data += part
        return bytes(data)
