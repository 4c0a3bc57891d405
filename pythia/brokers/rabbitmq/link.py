"""One AMQP connection, made once: lost, it stays lost, and the engine has the broker make another.

No "robust" class of the driver's stands behind it: what was there before a loss is put up again by us, where we know what for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar, cast

import aio_pika
from aiormq.channel import Channel
from yarl import URL

from pythia.brokers.rabbitmq.confirms import Confirms
from pythia.brokers.rabbitmq.pulse import Pulse
from pythia.brokers.rabbitmq.settings import RabbitSettings
from pythia.brokers.rabbitmq.sockets import Socket
from pythia.brokers.rabbitmq.tap import Arrived, DriverSettling, OwnSettling, Settling, Tap, TappedProtocol
from pythia.brokers.rabbitmq.trouble import at_connecting, translated, why_closed
from pythia.errors import BrokerUnavailable

T = TypeVar("T")

QUESTIONS_AT_ONCE = 8
ANSWER_SECONDS = 10.0  # for the server to answer one request
CLOSE_SECONDS = 2.0
LOOK_SECONDS = 0.25  # between looks whether the server has blocked the connection
# Seconds of silence after which the driver gives a connection up. It counts those of a loop that was blocked, too, and looks
# before it reads what came meanwhile. Whether the server is there is for ``_tend`` to ask.
DRIVERS_PATIENCE = "_Connection__heartbeat_grace_timeout"
BLOCKED = "the server takes no messages from us just now: memory or disk alarm (rabbitmqctl list_alarms)"


class Link:
    """A connection for one purpose. ``where`` is its server without a password, for sentences. ``tapped``: the deliveries of
    channels that are ``listened`` to are read by us, not by the driver."""

    def __init__(self, url: str, settings: RabbitSettings, purpose: str, where: str, *, tapped: bool = False) -> None:
        self.where = where
        self._settings = settings
        self._protocol: TappedProtocol | None = None
        self._socket = Socket(self._make_tapped) if tapped else Socket()
        self._connection = aio_pika.Connection(_address(url, settings, purpose))
        self._connection.kwargs["transport_factory"] = self._socket
        self._tending: asyncio.Task[None] | None = None
        self._pulse: Pulse | None = None
        self._questions = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self.blocked: str | None = None
        self.gone = asyncio.Event()  # the connection is lost, or was closed
        self.why = "the connection was closed"

    async def open(self) -> None:
        """Connect within ``connect_timeout``. Cancelled, nothing stays open.

        Raises:
            BrokerUnavailable: out of reach. BrokerRefused: credentials, virtual host, certificate.
        """
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await self._connection.connect()
        except BaseException as error:
            self.abort()
            await self.close()  # else the driver does it when this is collected, by a coroutine that nobody awaits
            if not isinstance(error, Exception):
                raise
            raise at_connecting(error, self.where, self._socket.refusal) from error
        self._wire.closing.add_done_callback(self._lost)
        setattr(self._wire, DRIVERS_PATIENCE, math.inf)
        self._pulse = Pulse(self._socket.writer, self._settings.heartbeat / 2)
        self._tending = asyncio.create_task(self._tend(), name=f"tend {self.where}")

    @property
    def is_open(self) -> bool:
        return self._connection.transport is not None and not self.gone.is_set()

    @property
    def _wire(self) -> Any:
        """The driver's connection beneath aio-pika's."""
        transport = self._connection.transport
        if transport is None:
            raise BrokerUnavailable(f"{self.where} is not connected")
        return transport.connection

    @property
    def version(self) -> str | None:
        """The server's, as it says."""
        version = self._wire.server_properties.get("version")
        return version.decode() if isinstance(version, bytes | bytearray) else version

    @property
    def frame_max(self) -> int:
        """Bytes; 0: no limit."""
        return int(self._wire.connection_tune.frame_max)

    async def channel(self, *, confirms: bool = False) -> Channel:
        """A channel, open. Raises what ``translated`` does."""
        return await uncut(self._open_channel(confirms=confirms), unwanted=close)

    async def _open_channel(self, *, confirms: bool) -> Channel:
        with translated(f"open a channel on {self.where}"):
            async with asyncio.timeout(ANSWER_SECONDS):
                channel = self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                beneath = await channel.get_underlay_channel()
                return cast("Channel", beneath)

    def listen(self, channel: Channel, arrived: Arrived) -> Settling:
        """Have ``arrived`` told of what is delivered on ``channel``, if this connection is tapped; and how that is settled."""
        if self._protocol is None:
            return DriverSettling(channel)
        self._protocol.taps[channel.number] = Tap(channel.number, arrived)
        return OwnSettling(channel.number, self._socket.writer)

    def confirms(self, channel: Channel) -> Confirms:
        """Publish on ``channel``, whose confirms are on. This connection is tapped."""
        assert self._protocol is not None
        made = Confirms(channel.number, self._socket.writer, self.frame_max, ended=lambda: self.deafen(channel))
        self._protocol.taps[channel.number] = made
        return made

    @property
    def has_room(self) -> bool:
        """Whether what is written now is not far behind what was."""
        return self._socket.writer.has_room

    async def room(self) -> None:
        """Wait until there is. Raises ``OSError`` when the connection is lost."""
        await self._socket.writer.drain()

    def deafen(self, channel: Channel) -> None:
        """``channel`` is closed: its number may be another's."""
        if self._protocol is not None:
            self._protocol.taps.pop(channel.number, None)

    def _make_tapped(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> TappedProtocol:
        self._protocol = TappedProtocol(reader, loop)
        return self._protocol

    @contextlib.asynccontextmanager
    async def asking(self, doing: str) -> AsyncIterator[Channel]:
        """A channel for one question; a no closes it, and nobody else's. To be used where it is ``uncut``. Others wait for their turn:
        RabbitMQ 3.10.8 was brought to a standstill by a thousand quorum queues that were declared at once.

        Raises what ``translated`` does.
        """
        async with self._questions:
            channel = await self.channel()
            try:
                with translated(doing):
                    async with asyncio.timeout(ANSWER_SECONDS):
                        yield channel
            finally:
                await close(channel)

    async def probe(self, within: float) -> None:
        """A round trip; without an answer ``within`` seconds the connection is given up.

        Raises:
            BrokerUnavailable: there was none.
        """
        try:
            async with asyncio.timeout(within):
                await close(await self.channel())
        except (TimeoutError, BrokerUnavailable):
            self._give_up(f"{self.where} does not answer")
            raise BrokerUnavailable(self.why) from None

    async def close(self) -> None:
        """Say good-bye, within two seconds."""
        if self._tending is not None:
            self._tending.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.close()
        self.abort()
        self.gone.set()

    def abort(self) -> None:
        """Let go of the socket at once, as a kill would."""
        if self._pulse is not None:
            self._pulse.stop()
        self._socket.abort()

    def _lost(self, closing: asyncio.Future[Any]) -> None:
        if not self.gone.is_set():
            said = why_closed(closing)
            self.why = f"the connection to {self.where} was lost" + (f": {said}" if said else "")
        self._end()

    def _give_up(self, why: str) -> None:
        if not self.gone.is_set():
            self.why = why
        self._end()
        self.abort()

    def _end(self) -> None:
        self.gone.set()
        if self._pulse is not None:
            self._pulse.stop()
        if self._tending is not None:
            self._tending.cancel()

    def hold_for(self, seconds: float | None) -> None:
        """How long an event loop that stands still is to keep this connection; None: as long as it does."""
        if self._pulse is not None:
            self._pulse.most = float("inf") if seconds is None else seconds

    async def _tend(self) -> None:
        """Look whether the server blocks us, and every heartbeat whether it is there at all: the driver takes three."""
        loop = asyncio.get_running_loop()
        beat = float(self._settings.heartbeat)
        probe_at = loop.time() + beat
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.blocked = BLOCKED if await self._is_blocked() else None
            if self.blocked is None and loop.time() >= probe_at:
                with contextlib.suppress(BrokerUnavailable):
                    await self.probe(beat + 1.0)
                probe_at = loop.time() + beat

    async def _is_blocked(self) -> bool:
        try:
            async with asyncio.timeout(0.01):
                await self._wire.ready()
        except TimeoutError:
            return True
        except BrokerUnavailable:
            return False
        return False


_going_on: set[asyncio.Task[Any]] = set()


async def uncut(work: Coroutine[Any, Any, T], *, unwanted: Callable[[T], Coroutine[Any, Any, None]] | None = None) -> T:
    """Await ``work``. Cancelled, it goes on to its end by itself, and what it made is ``unwanted``: a request of the driver's
    that is cut off half way may have the server end the connection."""
    task = asyncio.create_task(work, name="ask RabbitMQ")
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: _end_unwanted(done, unwanted))
        raise


def _end_unwanted(done: asyncio.Task[T], unwanted: Callable[[T], Coroutine[Any, Any, None]] | None) -> None:
    if done.cancelled() or done.exception() is not None or unwanted is None:
        return
    task = asyncio.create_task(unwanted(done.result()), name="end what nobody wants")
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)


async def close(channel: Channel) -> None:
    """Close a channel, whatever state it is in, within two seconds."""
    await uncut(_close(channel))


async def _close(channel: Channel) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_SECONDS):
            await channel.close()


def _address(url: str, settings: RabbitSettings, purpose: str) -> URL:
    """The URL as the driver reads it: with our heartbeat and a name that an operator finds in ``list_connections``."""
    address = URL(url)
    query = {"heartbeat": str(settings.heartbeat), "name": f"{settings.name} {purpose}"}
    return address.update_query({name: value for name, value in query.items() if name not in address.query})
