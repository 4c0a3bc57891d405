"""The server: a daemon thread with an event loop of its own, so that a blocked handler cannot silence the probes.

It listens at once, and loads aiohttp on its thread when somebody asks, or the worker has had a second to begin: that takes a tenth
of a second, in which the first message would have to wait.
"""

from __future__ import annotations

import asyncio
import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pythia.core.events import Notice, Observer, TaskFailed
from pythia.core.status import Status

if TYPE_CHECKING:
    from aiohttp import web

    from pythia.http.app import Control

_HEAD_START_SECONDS = 1.0  # of the worker
_LOOK_SECONDS = 0.05  # whether the server is stopped meanwhile
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # which needs no file descriptor
_AGAIN_SECONDS = 0.25  # after what the server needs could not be had
_JOIN_SECONDS = 4.0
_SILENCE_SECONDS = 60.0
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}  # of a name with several addresses, one that this machine lacks


def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of ``host``, all at one port.

    Raises:
        OSError: one cannot be had (``errno.EADDRINUSE``: the port is busy), or there is none; nothing is left open.
    """
    made: list[socket.socket] = []
    missing: OSError | None = None
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, address in dict.fromkeys((row[0], row[4]) for row in found):
        try:
            at = (address[0], made[0].getsockname()[1] if made else address[1], *address[2:])
            made.append(socket.create_server(at, family=family, backlog=128))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                for one in made:
                    one.close()
                raise
            missing = error
    if not made and missing is not None:
        raise missing
    return made


class AppServer:
    """Serves an application from ``start`` to ``stop``; both may be called twice, and ``stop`` before ``start``.

    The application is made on the server's thread, from which ``emit`` hears of what the server cannot do.
    """

    def __init__(self, host: str, port: int, make_app: Callable[[], web.Application], emit: Observer) -> None:
        self._host = host
        self._port = port
        self._make_app = make_app
        self._emit = emit
        self._thread: threading.Thread | None = None
        self._bound = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._over = False

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            OSError: the address cannot be had (``errno.EADDRINUSE``: the port is busy); nothing is left running.
        """
        if self._thread is None:
            listening = listen(self._host, self._port)
            self._bound = listening[0].getsockname()[1]
            self._ended, self._loop, self._over = asyncio.Event(), None, False
            self._thread = threading.Thread(target=self._run, args=(listening,), name="pythia-http", daemon=True)
            self._thread.start()
        return self._bound

    def stop(self) -> None:
        """Close every connection and wait for the thread, for a few seconds at most."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._over = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._ended.set)
        thread.join(_JOIN_SECONDS)

    def _run(self, listening: list[socket.socket]) -> None:
        complaints, told = _Complaints(self._emit), False
        self._wait_for_a_knock(listening)
        while not self._over:
            try:
                self._serve(listening, complaints)
            except Exception as error:  # noqa: BLE001 - the top of this thread; out of file descriptors, nothing can be loaded
                if not complaints.about(error) and not told:
                    self._emit(TaskFailed(where="the probes", error=error))
                    told = True
                time.sleep(_AGAIN_SECONDS)
        for one in listening:
            one.close()

    def _serve(self, listening: Sequence[socket.socket], complaints: _Complaints) -> None:
        from pythia.http.serving import serve  # noqa: PLC0415 - aiohttp

        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            self._loop = runner.get_loop()
            self._loop.set_exception_handler(complaints)
            if not self._over:
                runner.run(serve(self._make_app(), listening, self._ended))

    def _wait_for_a_knock(self, listening: Sequence[socket.socket]) -> None:
        """Until somebody asks, the head start is over, or the server is stopped."""
        until = time.monotonic() + _HEAD_START_SECONDS
        with _Selector() as selector:
            for one in listening:
                selector.register(one, selectors.EVENT_READ)
            while not self._over and time.monotonic() < until and not selector.select(_LOOK_SECONDS):
                pass


class HttpServer(AppServer):
    """Serves one worker's routes. ``emit`` hears, from the server's thread, of metrics that cannot be exported and of
    defects in a route."""

    def __init__(self, host: str, port: int, *, status: Status, control: Control, emit: Observer) -> None:
        super().__init__(host, port, lambda: _app(status, control, emit), emit)


def _app(status: Status, control: Control, emit: Observer) -> web.Application:
    from pythia.http.app import make_app  # noqa: PLC0415 - aiohttp, as above
    from pythia.http.rendering import Rendering  # noqa: PLC0415 - prometheus_client
    from pythia.observability.metrics import WorkerCollector  # noqa: PLC0415 - the same

    rendering = Rendering(WorkerCollector(status, notice=lambda text: emit(Notice(detail=text))))
    return make_app(status, control, rendering, emit)


class _Complaints:
    """What the loop cannot do. Out of file descriptors it says so for every connection, a hundred times a second: once a
    minute is enough."""

    def __init__(self, emit: Observer) -> None:
        self._emit = emit
        self._silent_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.about(context.get("exception")):
            loop.default_exception_handler(context)

    def about(self, error: BaseException | None) -> bool:
        """Whether it is one of these."""
        if not isinstance(error, OSError) or error.errno not in _SCARCE:
            return False
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SILENCE_SECONDS
            self._emit(Notice(detail=f"the probes take no connection just now: {error.strerror}"))
        return True
