"""What is at the server's end of its connections: the part that needs aiohttp, loaded on the server's own thread.

No connection lives for long and none can keep others out: a request must have arrived within ``HEAD_SECONDS``, every
connection is closed after ``LIFE_SECONDS``, and the oldest gives way when there are too many.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from pythia.http.app import HEADERS

HEAD_SECONDS = 10.0
LIFE_SECONDS = 60.0
MOST_CONNECTIONS = 128
STOP_SECONDS = 2.0
_SWEEP_SECONDS = 5.0


async def serve(app: web.Application, listening: Sequence[socket.socket], ended: asyncio.Event) -> None:
    """Answer what comes in, until ``ended``."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        doorman = _Doorman(runner.server)
        for one in listening:
            listener = await asyncio.get_running_loop().create_server(doorman.admit, sock=one)
            stack.callback(listener.close)
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _SWEEP_SECONDS)
            doorman.sweep(time.monotonic())


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
