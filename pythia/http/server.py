"""The server: a daemon thread with an event loop of its own, so that a blocked handler cannot silence the probes.

No connection lives for long and none can keep others out: a request must have arrived within ``HEAD_SECONDS``, every
connection is closed after ``LIFE_SECONDS``, and the oldest gives way when there are too many.
"""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from aiohttp import web

from pythia.core.events import Notice, Observer
from pythia.core.status import Status
from pythia.http.app import HEADERS, Control, make_app
from pythia.observability.metrics import WorkerCollector, render, wants_openmetrics

HEAD_SECONDS = 10.0
LIFE_SECONDS = 60.0
MOST_CONNECTIONS = 128
_SWEEP_SECONDS = 5.0
_STOP_SECONDS = 2.0
_SILENCE_SECONDS = 60.0
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REST = 10  # a rendering is served again for this many times as long as it took


class AppServer:
    """Serves an application from ``start`` to ``stop``; both may be called twice, and ``stop`` before ``start``.

    The application is made on the server's thread, from which ``emit`` hears of what the server cannot do.
    """

    def __init__(self, host: str, port: int, make_app: Callable[[], web.Application], emit: Observer) -> None:
        self._host = host
        self._port = port
        self._make_app = make_app
        self._complaints = _Complaints(emit)
        self._thread: threading.Thread | None = None
        self._bound: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            OSError: the address cannot be had (``errno.EADDRINUSE``: the port is busy); nothing is left running.
        """
        if self._thread is None:
            self._bound, self._ended = Future(), asyncio.Event()
            self._thread = threading.Thread(target=self._run, name="pythia-http", daemon=True)
            self._thread.start()
        try:
            return self._bound.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close every connection and wait for the thread, for a few seconds at most."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._ended.set)
        thread.join(2 * _STOP_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self._serve())
            except Exception as error:  # noqa: BLE001 - the top of this thread: `start` raises it in the caller's
                if not self._bound.done():
                    self._bound.set_exception(error)

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._complaints)
        runner = web.AppRunner(self._make_app(), access_log=None, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        try:
            assert runner.server is not None
            await self._listen(_Doorman(runner.server))
        finally:
            await runner.cleanup()

    async def _listen(self, doorman: _Doorman) -> None:
        listener = await asyncio.get_running_loop().create_server(doorman.admit, self._host, self._port)
        try:
            self._bound.set_result(listener.sockets[0].getsockname()[1])
            while not self._ended.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), _SWEEP_SECONDS)
                doorman.sweep(time.monotonic())
        finally:
            listener.close()


class HttpServer(AppServer):
    """Serves one worker's routes. ``emit`` hears, from the server's thread, of metrics that cannot be exported and of
    defects in a route."""

    def __init__(self, host: str, port: int, *, status: Status, control: Control, emit: Observer) -> None:
        rendering = _Rendering(WorkerCollector(status, notice=lambda text: emit(Notice(detail=text))))
        super().__init__(host, port, lambda: make_app(status, control, rendering, emit), emit)


class _Connection(web.RequestHandler):
    """One connection. What is no HTTP at all is answered like any other mistake: in JSON, and not logged, for whoever can
    reach the port could fill a disk."""

    __slots__ = ("_doorman",)

    def __init__(self, doorman: _Doorman, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp's own runner passes it
            keepalive_timeout=HEAD_SECONDS,  # runs from a connection's first moment, and is not reset by half a request
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._doorman = doorman

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._doorman.entered(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._doorman.left(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the parser's words quote the request
    ) -> web.StreamResponse:
        if status >= 500:
            self.log_exception("error in %s %s", request.method, request.path, exc_info=exc)
        body = json.dumps({"error": "not a request that can be answered"}) + "\n"
        response = web.Response(status=status, text=body, content_type="application/json", headers=HEADERS)
        response.force_close()
        return response


class _Doorman:
    """Lets connections in, and sees to it that they leave."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._inside: dict[_Connection, float] = {}  # since when, monotonic; the oldest first

    def admit(self) -> _Connection:
        return _Connection(self, self._server)

    def entered(self, connection: _Connection) -> None:
        self._inside[connection] = time.monotonic()
        if len(self._inside) > MOST_CONNECTIONS:
            oldest = next(iter(self._inside))
            self.left(oldest)
            oldest.force_close()

    def left(self, connection: _Connection) -> None:
        self._inside.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Close what is old: after its current answer, or in the middle of it when it is too slow for that."""
        for connection, since in list(self._inside.items()):
            if now - since >= LIFE_SECONDS + HEAD_SECONDS:
                connection.force_close()
            elif now - since >= LIFE_SECONDS:
                connection.close()


class _Complaints:
    """What the loop cannot do. Out of file descriptors it says so for every connection, a hundred times a second: once a
    minute is enough."""

    def __init__(self, emit: Observer) -> None:
        self._emit = emit
        self._silent_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _SCARCE:
            loop.default_exception_handler(context)
        elif time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SILENCE_SECONDS
            self._emit(Notice(detail=f"the probes take no connection just now: {error.strerror}"))


class _Rendering:
    """The metrics, rendered for at most about a tenth of the time, however often they are asked for."""

    def __init__(self, collector: WorkerCollector) -> None:
        self._collector = collector
        self._kept: dict[bool, tuple[float, tuple[bytes, str]]] = {}  # by format: (good until, answer)

    def __call__(self, accept: str) -> tuple[bytes, str]:
        began, form = time.perf_counter(), wants_openmetrics(accept)
        kept = self._kept.get(form)
        if kept is not None and began < kept[0]:
            return kept[1]
        answer = render([self._collector], accept)
        ended = time.perf_counter()
        self._kept[form] = (ended + _REST * (ended - began), answer)
        return answer
