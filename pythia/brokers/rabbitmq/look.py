"""Looking through a queue without changing it.

AMQP has no way to look at a message and leave it: it is taken without being acked, and goes back when the channel closes. While
somebody looks, nobody else sees it. A quorum queue puts what comes back behind what was not taken, so whoever keeps something
takes all: then everything stands where it stood.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from pythia.brokers.rabbitmq.link import Link, close, uncut
from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.topology import Topology
from pythia.brokers.rabbitmq.trouble import translated

QUIET_SECONDS = 0.1  # without a message: time to ask whether there are more
RETURN_SECONDS = 2.0
AGAIN_SECONDS = 0.02


class Look:
    """One pass through one queue; an async context manager. Messages come oldest first."""

    def __init__(self, link: Link, topology: Topology, queue: str) -> None:
        self._link = link
        self._topology = topology
        self._queue = queue
        self._arrived: asyncio.Queue[Received] = asyncio.Queue()
        self._channel: Channel
        self._left = 0  # known to be there, and not taken yet
        self._kept: set[int] = set()  # tags of what is taken, and to go back

    async def __aenter__(self) -> Self:
        counts = await self._topology.counts(self._queue)
        self._left = 0 if counts is None else counts[0]
        self._channel = await self._link.channel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """A quorum queue takes back a moment after it was told to; whoever looks next is to see everything."""
        await uncut(self._end())

    async def _end(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(RETURN_SECONDS):
                await self._give_back()
        await close(self._channel)
        for _ in range(int(RETURN_SECONDS / AGAIN_SECONDS)):
            counts = await self._topology.counts(self._queue)
            if counts is None or counts[0] >= len(self._kept):
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def take(self, most: int) -> list[Received]:
        """The next messages, at most so many; none when there is nothing more."""
        return await uncut(self._take_some(most))

    async def _take_some(self, most: int) -> list[Received]:
        with translated(f"read queue {self._queue!r}"):
            await self._channel.basic_qos(prefetch_count=most)
            answer = await self._channel.basic_consume(self._queue, self._take)
            taken: list[Received] = []
            while len(taken) < most and (message := await self._next()) is not None:
                taken.append(message)
            await self._channel.basic_cancel(answer.consumer_tag or "")
            return taken

    async def rest(self) -> AsyncIterator[Received]:
        """Everything that is left."""
        await uncut(self._take_everything())
        while (message := await self._next()) is not None:
            yield message

    async def _take_everything(self) -> None:
        with translated(f"read queue {self._queue!r}"):
            await self._channel.basic_qos(prefetch_count=0)
            await self._channel.basic_consume(self._queue, self._take)

    async def remove(self, message: Received) -> None:
        """Take a message away for good."""
        with translated(f"ack in queue {self._queue!r}"):
            await self._channel.basic_ack(message.tag)
        self._kept.discard(message.tag)

    async def _give_back(self) -> None:
        """One by one: a channel that ends gives back by consumer, and two of ours would change places."""
        for tag in list(self._channel.consumers):
            await self._channel.basic_cancel(tag)
        for number in sorted(self._kept):
            await self._channel.basic_nack(number, requeue=True, wait=False)

    async def _take(self, message: DeliveredMessage) -> None:
        received = Received.of(message, time.monotonic())
        self._kept.add(received.tag)
        self._arrived.put_nowait(received)

    async def _next(self) -> Received | None:
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS if self._left > 0 else 0):
                    message = await self._arrived.get()
            except TimeoutError:
                counts = await self._topology.counts(self._queue)
                if self._arrived.empty() and not (counts and counts[0]):
                    return None
            else:
                self._left -= 1
                return message
