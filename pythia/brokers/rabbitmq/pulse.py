"""Signs of life from a thread: while a handler blocks the event loop the driver sends none, and the server ends the connection.

Only where the connection is not encrypted: what TLS writes depends on what it wrote before, and that is the loop's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from pythia.brokers.rabbitmq.sockets import BEAT, GatheringWriter

_LOOKS = 4  # in the time in which a sign of life is due


class Pulse:
    """Writes a heartbeat when the loop has written nothing for ``seconds``, until it has been still for ``most``."""

    def __init__(self, writer: GatheringWriter, seconds: float) -> None:
        self._writer = writer
        self._seconds = seconds
        self._over = threading.Event()
        self._socket = _duplicate(writer)
        self.most = float("inf")
        if self._socket is not None:
            threading.Thread(target=self._beat, name="rabbitmq heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Let go of the connection. From any thread, as often as one likes."""
        self._over.set()
        if self._socket is not None:
            with self._writer.lock:
                self._socket.close()

    def _beat(self) -> None:
        written = 0.0
        while not self._over.wait(self._seconds / _LOOKS):
            now = time.monotonic()
            if self._seconds <= now - self._writer.written_at < self.most and now - written >= self._seconds:
                written = now
                self._write()

    def _write(self) -> None:
        """Between two frames: never while a part of one waits to be sent."""
        with self._writer.lock:
            if self._over.is_set() or self._socket is None or self._writer.transport.get_write_buffer_size():
                return
            with contextlib.suppress(OSError):  # full, or gone: the loop finds out
                os.write(self._socket.fileno(), BEAT)


def _duplicate(writer: GatheringWriter) -> socket.socket | None:
    """A descriptor of our own: the transport's may be another file's by the time that the thread writes."""
    if writer.get_extra_info("ssl_object") is not None:
        return None
    with contextlib.suppress(OSError, AttributeError):
        return socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    return None
