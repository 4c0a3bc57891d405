"""The line to the broker that both publishers speak through: connected when somebody sends, and again after a loss."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator, Sequence

from pythia.broker import Broker
from pythia.brokers import open_broker
from pythia.config import WorkerConfig
from pythia.core.publishing import check_able, confirm
from pythia.errors import BrokerUnavailable, LifecycleError, PublishError, Seconds, seconds
from pythia.message import Envelope


class Line:
    """A broker, connected when somebody sends and again after a loss."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connected = False
        self._closed = False
        self._connecting = asyncio.Lock()

    async def connect(self) -> None:
        self._closed = False
        await self._ready()

    async def close(self) -> None:
        self._closed = True
        async with self._connecting:
            self._connected = False
            await self._broker.close()

    async def ping(self) -> None:
        await self._ready()
        with self._noticing_loss():
            await self._broker.ping()

    async def send(
        self,
        queue: str,
        flight: Sequence[Envelope],
        *,
        delay: Seconds | None = None,
        exchange: str = "",
        timeout: Seconds = 30,  # noqa: ASYNC109 - as in Publisher.publish
    ) -> None:
        """Publish ``flight`` and return once every message is confirmed; errors as in ``Publisher.publish``."""
        wait, limit = seconds(0 if delay is None else delay), seconds(timeout)
        if not 0 <= wait < math.inf:
            raise ValueError(f"delay is a number of seconds, 0 or more, not {wait}")
        check_able(self._broker.capabilities, delay=wait, exchange=exchange)
        sending = False
        try:
            async with asyncio.timeout(limit) as scope:
                await self._ready()
                sending = True
                with self._noticing_loss():
                    await confirm(self._broker, queue, flight, delay=wait, exchange=exchange)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise too_slow(queue, flight, limit, sending=sending) from error

    async def _ready(self) -> None:
        """Connect, unless connected; one at a time."""
        async with self._connecting:
            if self._closed:
                raise LifecycleError("this publisher is closed: connect() opens it again")
            if not self._connected:
                await self._broker.close()  # what is left of a connection that was lost
                await self._broker.connect()
                self._connected = True

    @contextlib.contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except BrokerUnavailable:
            self._connected = False
            raise


def open_from(broker_url: str | None, config: WorkerConfig | None) -> Broker:
    """The broker of ``broker_url``, else of ``config``, else of the configuration in force; not connected yet."""
    if broker_url is not None:
        return open_broker(broker_url, config=config)
    config = WorkerConfig() if config is None else config
    return open_broker(config.broker.url.get_secret_value(), config=config)


def too_slow(queue: str, flight: Sequence[Envelope], limit: float, *, sending: bool) -> Exception:
    """The error for a flight that was not confirmed in time; in doubt only if it was being sent."""
    if not sending:
        return BrokerUnavailable(f"no connection to the broker within {limit:g} s: nothing was published to {queue!r}")
    first = flight[0].id
    what = f"message {first}" if len(flight) == 1 else f"message {first} and the {len(flight) - 1} sent with it"
    text = f"{what} to {queue!r} not confirmed within {limit:g} s: in doubt, publish again with the same id"
    return PublishError(text, queue=queue, id=first, in_doubt=True)
