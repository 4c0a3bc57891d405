"""How much the server may push ahead of our acks, and the registrations that say so.

It begins with as many messages as there are handlers, is widened while handlers are fast enough to ask for more, and narrowed
when something waits in vain. AMQP fixes how much a consumer may hold when it registers. So the window is widened by one more
registration on the same channel (making one anew would change the order: a quorum queue takes back what is on its way to a
consumer that is cancelled), and narrowed by ending all of them; what was delivered stays unsettled and ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from pythia.broker import ConsumeOptions
from pythia.brokers.rabbitmq.link import ANSWER_SECONDS
from pythia.brokers.rabbitmq.tags import UnsettledTags
from pythia.brokers.rabbitmq.trouble import translated

CHANGE_SECONDS = 0.1  # between two registrations
WIDER = 4  # times the window before; few registrations, then, are enough
LARGEST = 65_535


class Window:
    """One channel's registrations with the server; changed by one at a time."""

    def __init__(
        self,
        queue: str,
        options: ConsumeOptions,
        unsettled: UnsettledTags,
        arrived: Callable[[DeliveredMessage], Coroutine[Any, Any, None]],
    ) -> None:
        self._queue = queue
        self._options = options
        self._unsettled = unsettled
        self._arrived = arrived
        self._channel: Channel
        self._size = max(1, min(options.concurrency, options.prefetch))  # most unsettled messages
        self._granted: dict[str, int] = {}  # by tag: most of them that a registration may hold
        self._since = 0  # tags up to this one came through registrations that have ended
        self._change = asyncio.Event()
        self._turning = asyncio.Lock()
        self._over = False

    @property
    def tags(self) -> Collection[str]:
        """Of the registrations through which the server pushes to us."""
        return self._granted.keys()

    async def open(self, channel: Channel) -> None:
        """Have the server push."""
        self._channel = channel
        async with self._turning:
            await self._register()

    def want(self, appetite: int) -> None:
        """So many messages could be handled now or very soon, counting those that are held."""
        if min(appetite, self._options.prefetch) > self._size:
            self._size = min(max(appetite, WIDER * self._size), self._options.prefetch)
        if self._room() > 0:
            self._change.set()

    async def follow(self) -> None:
        """Register once more whenever there is room for more. Ends by cancellation."""
        while True:
            await self._change.wait()
            self._change.clear()
            async with self._turning:
                await self._register()
            await asyncio.sleep(CHANGE_SECONDS)

    @asynccontextmanager
    async def closed(self, *, size: int | None = None) -> AsyncIterator[None]:
        """Inside, the server pushes nothing. Afterwards it does again, unless the window was narrowed to ``size``: then not
        before somebody wants something."""
        async with self._turning:
            served = bool(self._granted)
            await self._unregister()
            yield
            if size is not None:
                self._size = size
            elif served:
                await self._register()

    async def end(self) -> None:
        """Have the server push nothing more."""
        self._over = True
        async with self._turning:
            await self._unregister()

    def _room(self) -> int:
        """How much more could be granted: what came through ended registrations counts until it is settled."""
        return self._size - sum(self._granted.values()) - self._unsettled.up_to(self._since)

    async def _register(self) -> None:
        """Have the server push so much that with what is unsettled the window is full; nothing if it is full already."""
        room = min(self._room(), LARGEST)
        if room < 1 or self._over:
            return
        with translated(f"consume queue {self._queue!r}"):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._channel.basic_qos(prefetch_count=room)
                tag = f"{self._options.consumer}-{time.monotonic_ns():x}"[-255:]
                self._granted[tag] = room
                await self._channel.basic_consume(self._queue, self._arrived, consumer_tag=tag)

    async def _unregister(self) -> None:
        """End every registration. What is on its way still arrives, or is taken back by the server."""
        tags = list(self._granted)
        self._granted.clear()
        for tag in tags:
            with translated("cancel the consumer"):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._channel.basic_cancel(tag)
            self._channel.consumers[tag] = self._arrived  # the driver would drop what comes late, and it stay unsettled
        self._since = self._unsettled.newest or self._since
