"""One subscription to one queue, on a channel of its own: what was handed out on it is settled on it, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from pythia.broker import DONE, STALE, ConsumeOptions, ConsumerCancelled, Settled, Settlement
from pythia.brokers.rabbitmq.copies import Copies
from pythia.brokers.rabbitmq.link import Link, close, uncut
from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.tags import UnsettledTags
from pythia.brokers.rabbitmq.tap import Settling
from pythia.brokers.rabbitmq.topology import Topology
from pythia.brokers.rabbitmq.trouble import translated, why_closed
from pythia.brokers.rabbitmq.window import Window
from pythia.brokers.rabbitmq.wire import delivery_of, due_at
from pythia.errors import BrokerUnavailable
from pythia.message import Delivery

LINGER_SECONDS = 0.002
STALE_SECONDS = 1.0  # what waited so long in our buffer goes back
LOOK_SECONDS = 0.25
# A quorum queue's channel holds acks back while more than 32 are being written to disk, and forgets those when it is closed:
# https://github.com/rabbitmq/rabbitmq-server/issues/10327. Nothing says when it has written them, so they are given time.
TAKING_IN_SECONDS = 0.3
EARLY_SECONDS = 0.01  # a message that is due within this is not sent round again


class RabbitConsumer:
    """Use it through ``RabbitBroker.consume``. What it handed out is settled on this channel or not at all."""

    linger = LINGER_SECONDS

    def __init__(
        self, queue: str, options: ConsumeOptions, link: Link, topology: Topology, copies: Copies, *, heartbeat: float
    ) -> None:
        self._queue = queue
        self._options = options
        self._link = link
        self._topology = topology
        self._copies = copies
        self._heartbeat = heartbeat
        self._channel: Channel
        self._settling: Settling
        self._buffer: deque[Received] = deque()
        self._handed: dict[int, Delivery] = {}
        self._unsettled = UnsettledTags()
        self._window = Window(queue, options, self._unsettled, self._delivered)
        self._wake = asyncio.Event()
        self._filled = asyncio.Event()  # something may be in the buffer
        self._draining = False
        self._settled_at = -math.inf  # when an ack was last written, on the loop's clock
        self._failure: BrokerUnavailable | None = None
        self._failed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the contract -------------------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the contract says; cancelling it takes nothing."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._draining:
                return ()
            if batch := self._take(limit):
                return batch
            self._window.want(limit + len(self._handed))
            self._wake.clear()
            await self._wake.wait()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """As the contract says. Acks are written, not answered: a connection that is lost right after brings them again."""
        if self._failure is not None:
            return [Settled.STALE] * len(batch)
        if all(settlement.kind == "ack" and not settlement.outputs for settlement in batch):
            return await self._settle_acks(batch)
        ours = [settlement for settlement in batch if self._claim(settlement)]
        plain = [s for s in ours if s.kind in ("ack", "drop") and not s.outputs]
        released = [s for s in ours if s.kind == "release" and not s.outputs]
        heavy = [s for s in ours if not (s.kind in ("ack", "drop", "release") and not s.outputs)]
        done = [*plain] if await self._ack(_tags(plain)) else []
        done += released if await self._release(_tags(released)) else []
        refused: list[Settlement] = []
        if heavy:
            written = await self._copies.write(self._queue, heavy)
            done += await self._end_sources([s for s in heavy if id(s) in written])
            refused = self._keep([s for s in heavy if id(s) not in written])
        self._wake.set()
        answers = {id(s): Settled.DONE for s in done} | {id(s): Settled.REFUSED for s in refused}
        return [answers.get(id(settlement), Settled.STALE) for settlement in batch]

    async def _settle_acks(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        claimed = [self._claim(settlement) for settlement in batch]
        tags = [settlement.delivery.token[1] for settlement, ours in zip(batch, claimed, strict=True) if ours]
        written = await self._ack(tags)
        self._wake.set()
        return [DONE if written and ours else STALE for ours in claimed]

    async def drain(self) -> None:
        """As the contract says."""
        self._draining = True
        self._wake.set()
        if self._failure is None:
            await uncut(self._stop_pushing())

    async def watch(self) -> None:
        """As the contract says."""
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    async def _stop_pushing(self) -> None:
        with self._failing():
            await self._window.end()
        await self._give_back_buffer()

    # -- its life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Register with the server.

        Raises:
            BrokerUnavailable, ConsumerCancelled, BrokerRefused: it could not be done.
        """
        self._channel = await self._link.channel()
        self._link.hold_for(self._options.max_hold)
        await uncut(self._begin())

    async def _begin(self) -> None:
        self._channel.on_consumer_cancel_callbacks.add(self._cancelled)
        self._channel.closing.add_done_callback(self._closed)
        self._settling = self._link.listen(self._channel, self._arrived)
        await self._window.open(self._channel)
        self._own(self.fail_with(self._link))
        self._own(self._window.follow())
        self._own(self._keep_buffer())
        self._own(self._probe())

    async def fail_with(self, link: Link) -> None:
        """End this consumer when ``link``, which its copies are written through, is gone."""
        await link.gone.wait()
        self._fail(BrokerUnavailable(link.why))

    async def close(self) -> None:
        """Give back, uncounted, whatever is unsettled: the server does, when the channel ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._settled_at + TAKING_IN_SECONDS):
                await self._failed.wait()
        self._fail(BrokerUnavailable("the consumer is closed"))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await close(self._channel)
        self._link.deafen(self._channel)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"rabbitmq {self._queue}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, BrokerUnavailable) else BrokerUnavailable(str(error)))

    def _fail(self, error: BrokerUnavailable) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()
            self._buffer.clear()
            self._wake.set()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """What keeps the server from doing as it is told is the end of this consumer."""
        try:
            yield
        except BrokerUnavailable as error:
            self._fail(error)

    # -- what the server does -----------------------------------------------------------------------------------------

    async def _delivered(self, message: DeliveredMessage) -> None:
        """By the driver, where it reads."""
        self._arrived([Received.of(message, time.monotonic())])

    def _arrived(self, batch: Sequence[Received]) -> None:
        if self._failure is not None:
            return
        for received in batch:
            self._unsettled.add(received.tag)
        self._buffer.extend(batch)
        self._filled.set()
        self._wake.set()
        if self._draining:
            self._own(self._give_back_buffer())

    def _cancelled(self, frame: Any) -> None:
        if frame.consumer_tag in self._window.tags:
            self._fail(ConsumerCancelled(f"cancelled by the server: queue {self._queue!r} was deleted, or moved"))

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        """The server closed the channel for something (a consumer timeout, say), or the connection is gone with it."""
        if self._link.is_open:
            said = why_closed(closing) or "it did not say why"
            self._fail(ConsumerCancelled(f"the server closed the channel: {said}"))
        else:
            self._fail(BrokerUnavailable(self._link.why))

    async def _probe(self) -> None:
        """Every heartbeat: the queue is there, and the server knows us. A driver that lost the consumer would not say so."""
        while True:
            await asyncio.sleep(self._heartbeat)
            if self._draining or self._link.blocked is not None:
                continue
            counts = await self._topology.counts(self._queue)
            if counts is None:
                raise ConsumerCancelled(f"queue {self._queue!r} does not exist any more")
            if any(tag not in self._channel.consumers for tag in self._window.tags):
                raise ConsumerCancelled("the server cancelled this consumer")

    # -- handing out --------------------------------------------------------------------------------------------------

    def _take(self, limit: int) -> list[Delivery]:
        batch: list[Delivery] = []
        room = min(limit, self._options.prefetch - len(self._handed))
        now = time.time()
        while self._buffer and len(batch) < room:
            received = self._buffer.popleft()
            due = due_at(received)
            if due is not None and due > now + EARLY_SECONDS:
                self._own(self._pass_on(received, due - now))
                continue
            delivery = delivery_of(received, self._queue, (self, received.tag, received), now)
            self._handed[received.tag] = delivery
            batch.append(delivery)
        return batch

    async def _pass_on(self, received: Received, delay: float) -> None:
        """A message that has waited for a part of its delay waits for the rest; it was never ours to handle."""
        if await self._copies.wait_again(self._queue, received, delay):
            await self._ack([received.tag])
        else:
            await self._give_back([received.tag])

    # -- settling -----------------------------------------------------------------------------------------------------

    def _claim(self, settlement: Settlement) -> bool:
        """Whether the delivery is ours to settle, for the one time that it is."""
        consumer, tag, _ = settlement.delivery.token
        return consumer is self and self._handed.pop(tag, None) is settlement.delivery

    def _keep(self, refused: list[Settlement]) -> list[Settlement]:
        """What could not be written stays ours, to be asked again; unless it is lost meanwhile."""
        if self._failure is not None:
            return []
        self._handed |= {s.delivery.token[1]: s.delivery for s in refused}
        return refused

    async def _end_sources(self, written: Sequence[Settlement]) -> list[Settlement]:
        """Ack the sources of copies and outputs that are confirmed, or give them back if they were released."""
        released = [s for s in written if s.kind == "release"]
        others = [s for s in written if s.kind != "release"]
        done = others if await self._ack(_tags(others)) else []
        return done + (released if await self._release(_tags(released)) else [])

    async def _release(self, tags: Sequence[int]) -> bool:
        """Give back for others, and for us only after: pushed meanwhile, a younger message would come first."""
        done = False
        if tags:
            with self._failing():
                async with self._window.closed():
                    done = await self._give_back(tags)
        return done

    async def _ack(self, tags: Sequence[int]) -> bool:
        """Whether it was written."""
        if not tags or self._failure is not None:
            return False
        frames = self._unsettled.ack(tags)
        try:
            with translated("ack"):
                await self._settling.ack(frames)
                self._settled_at = asyncio.get_running_loop().time()
        except BrokerUnavailable as error:
            self._fail(error)
            return False
        return True

    async def _give_back_buffer(self) -> None:
        if self._buffer:
            await self._give_back([])

    async def _give_back(self, tags: Sequence[int]) -> bool:
        """Requeue ``tags``, and with them what is in the buffer: younger messages must not come before them."""
        if self._failure is not None:
            return False
        tags = sorted([*tags, *(received.tag for received in self._buffer)])
        self._buffer.clear()
        for tag in tags:
            self._unsettled.forget(tag)
        try:
            with translated("requeue"):
                await self._settling.requeue(tags)
        except BrokerUnavailable as error:
            self._fail(error)
            return False
        return True

    async def _keep_buffer(self) -> None:
        """What nobody asked for within a second goes back to where others see it, and we hold less from now on."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(LOOK_SECONDS)
            if not self._buffer:
                self._filled.clear()
            elif time.monotonic() - self._buffer[0].at > STALE_SECONDS and not self._draining:
                async with self._window.closed(size=max(1, len(self._handed))):
                    await self._give_back_buffer()


def _tags(settlements: Sequence[Settlement]) -> list[int]:
    return [settlement.delivery.token[1] for settlement in settlements]
