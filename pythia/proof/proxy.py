"""A network that breaks when it is told to: a TCP proxy on the loopback, with a loop and a thread of its own.

It goes on while its user's own loop is blocked. Every method may be called from any thread, and has taken effect when it
returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")
Way = Literal["up", "down"]  # to the server, from it

_CHUNK = 1 << 16
_IN_FLIGHT = 256  # chunks on the way, while there is a delay
_NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends RST
_CALL_SECONDS = 10.0
_BACKLOG = 128


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self._task = task

    def cut(self, *, reset: bool) -> None:
        """Close both sides and end the task that serves them."""
        self.close(reset=reset)
        self._task.cancel()

    def close(self, *, reset: bool) -> None:
        for writer in (self.client, self.server):
            if writer is None:
                continue
            if reset:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Passes everything on to ``host:port`` until told otherwise. A context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.bytes: dict[Way, int] = {"up": 0, "down": 0}  # passed on
        self.accepted = 0  # connections, in all
        self.cuts = 0  # of them, ended by us
        self.held = 0  # bytes that wait for a way to be opened
        self.port = 0
        self._links: set[_Link] = set()
        self._delay = 0.0
        self._slice = 0  # bytes written at a time; 0: as they come
        self._rate = 0.0  # bytes a second; 0: as fast as they come
        self._left: int | None = None  # bytes that still pass before a cut
        self._loop = asyncio.new_event_loop()
        self._open: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._listening: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @classmethod
    def before(cls, url: str, default_port: int) -> Self:
        """A proxy before the server of ``url``."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or default_port)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self.heal_now)
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """Those that are open now."""
        return len(self._links)

    def url(self, url: str) -> str:
        """``url`` with this proxy in the place of its server."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(
            parts._replace(netloc=f"{login}@127.0.0.1:{self.port}" if login else f"127.0.0.1:{self.port}")
        )

    def cut(self, how: Literal["rst", "fin"] = "rst") -> int:
        """End every open connection, towards both sides; what is on its way is lost. How many there were."""
        return self._call(lambda: self._cut(reset=how == "rst"))

    def cut_after(self, count: int) -> None:
        """End every open connection when ``count`` more bytes have passed, in whatever direction: in the middle of a frame."""

        def set_left() -> None:
            self._left = count

        self._call(set_left)

    def blackhole(self, *ways: Way) -> None:
        """Let nothing through (``ways``: only in these directions), and tell nobody: what half-open looks like.

        As in a real network what was sent arrives after ``heal``, unless the connection is cut before. New connections
        are accepted, by the kernel, and hear nothing.
        """

        def shut() -> None:
            for way in ways or ("up", "down"):
                self._open[way].clear()

        self._call(shut)

    def refuse(self) -> None:
        """New connections are refused, as by a server that is down; open ones go on."""
        self._run(self._stop_listening())

    def delay(self, seconds: float) -> None:
        """What is sent from now on arrives that much later, in either direction."""

        def set_delay() -> None:
            self._delay = seconds

        self._call(set_delay)

    def slow(self, *, bytes_a_second: float = 0.0, slices: int = 0) -> None:
        """Pass on no faster than that, and no more than ``slices`` bytes with one write."""

        def set_speed() -> None:
            self._rate, self._slice = bytes_a_second, slices

        self._call(set_speed)

    def heal(self) -> None:
        """Everything passes again, at once; connections that were cut stay cut."""
        self._call(self.heal_now)
        self._run(self._listen())

    def heal_now(self) -> None:
        """Only on the proxy's own thread."""
        self._delay, self._rate, self._slice, self._left = 0.0, 0.0, 0, None
        for gate in self._open.values():
            gate.set()

    def wait_for(self, holds: Callable[[Self], bool], seconds: float = 10.0) -> None:
        """Until ``holds(self)``; for use outside of a loop.

        Raises:
            TimeoutError: it did not in time.
        """
        deadline = time.monotonic() + seconds
        while not holds(self):
            if time.monotonic() > deadline:
                raise TimeoutError("the proxy did not see it in time")
            time.sleep(0.005)

    def _call(self, work: Callable[[], T]) -> T:
        async def do() -> T:
            return work()

        return self._run(do())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port), backlog=_BACKLOG)
            self._listening.settimeout(0)
            self.port = self._listening.getsockname()[1]
            self._loop.add_reader(self._listening, self._accept, self._listening)

    def _accept(self, listening: socket.socket) -> None:
        """Not by ``asyncio.Server``: what that one has just accepted when it is closed, it leaves open."""
        with contextlib.suppress(OSError):  # the client has gone again
            serving = self._loop.create_task(self._serve(listening.accept()[0]))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def _close(self) -> None:
        await self._stop_listening()
        while asyncio.all_tasks() - {asyncio.current_task()}:  # a connection that has just been accepted is no link yet
            self._cut(reset=True)
            await asyncio.sleep(0)

    def _cut(self, *, reset: bool) -> int:
        links, self._links = self._links, set()
        for link in links:
            link.cut(reset=reset)
        self.cuts += len(links)
        return len(links)

    async def _serve(self, client: socket.socket) -> None:
        from_client, to_client = await asyncio.open_connection(sock=client)
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        link = _Link(to_client, task)
        self._links.add(link)
        try:
            await self._open["up"].wait()
            from_server, link.server = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump("up", from_client, link.server))
                pumps.create_task(self._pump("down", from_server, to_client))
            link.close(reset=False)
            await asyncio.gather(to_client.wait_closed(), link.server.wait_closed())
        except (OSError, ExceptionGroup):  # an end went away: so does the other
            link.close(reset=True)
        except asyncio.CancelledError:  # by `cut`, which closed it
            pass
        finally:
            self._links.discard(link)

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read, and pass on in order, each chunk at its time. The end of one direction is passed on too."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        writing = asyncio.create_task(self._write(way, chunks, writer))
        try:
            while data := await reader.read(_CHUNK):
                await chunks.put((self._loop.time() + self._delay, data))
            await chunks.put((0.0, b""))
            await writing
        finally:
            writing.cancel()

    async def _write(self, way: Way, chunks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await chunks.get()
            if self._delay:
                await asyncio.sleep(due - self._loop.time())
            if not data:
                await self._open[way].wait()
                if writer.can_write_eof():
                    writer.write_eof()
                return
            while data:
                await self._gate(way, len(data))
                data = data[await self._write_some(way, data, writer) :]

    async def _gate(self, way: Way, size: int) -> None:
        """Wait while nothing passes this way."""
        if self._open[way].is_set():
            return
        self.held += size
        try:
            await self._open[way].wait()
        finally:
            self.held -= size

    async def _write_some(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> int:
        """Pass on as much as may pass at once; how much that was."""
        size = min(len(data), self._slice or len(data), max(1, int(self._rate / 10)) if self._rate else len(data))
        if self._left is not None:
            size = min(size, self._left)
            self._left -= size
        self.bytes[way] += size  # first: whoever has received it finds it counted
        writer.write(data[:size])
        await writer.drain()
        if self._left == 0:
            self._left = None
            self._cut(reset=True)
            await asyncio.sleep(_CALL_SECONDS)  # cancelled by the cut
        if self._rate:
            await asyncio.sleep(size / self._rate)
        return size
