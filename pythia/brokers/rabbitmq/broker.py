"""The RabbitMQ broker: the contract over two connections, one that publishes and, once something is consumed, one that consumes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from pythia.broker import Capabilities, ConsumeOptions, Published, QueueDepth, Survey
from pythia.brokers.rabbitmq import survey
from pythia.brokers.rabbitmq.confirms import Parcel
from pythia.brokers.rabbitmq.consumer import RabbitConsumer
from pythia.brokers.rabbitmq.copies import Copies, parcel_of
from pythia.brokers.rabbitmq.letters import RabbitDeadLetters
from pythia.brokers.rabbitmq.link import BLOCKED, Link
from pythia.brokers.rabbitmq.settings import RabbitSettings
from pythia.brokers.rabbitmq.speaker import Speaker
from pythia.brokers.rabbitmq.topology import Topology, dead_queue
from pythia.brokers.rabbitmq.wire import check_sendable
from pythia.config.urls import redact_url
from pythia.errors import BrokerUnavailable, PublishError, Unsupported
from pythia.message import Envelope

_INHERITED: list[object] = []  # of a parent process: a connection that crossed a fork must not even be closed


class RabbitBroker:
    """Messages on a RabbitMQ server. Not for use on both sides of a fork: the child connects again."""

    def __init__(self, url: str, settings: RabbitSettings | None = None) -> None:
        self._url = url
        self._settings = RabbitSettings() if settings is None else settings
        self._where = redact_url(url).partition("?")[0]
        self._speaking: Link | None = None
        self._hearing: Link | None = None
        self._speaker: Speaker | None = None
        self._to_exchanges: Speaker | None = None
        self._topologies: dict[Link, Topology] = {}
        self._opening = asyncio.Lock()
        self._pid = os.getpid()
        self._queues: set[str] = set()
        self._version: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="rabbitmq",
            priority="x-max-priority" in self._settings.arguments,
            keeps_place=self._settings.queue_type == "classic",  # a quorum queue puts it behind
            dead_queue=dead_queue("{queue}"),
            exchanges=True,
            lists_queues=False,
            server_version=self._version,
            detail=f"{self._settings.queue_type} queues",
        )

    # -- connections --------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Reach the server. Idempotent; after a loss, after ``close`` and in a forked child it connects again.

        Raises:
            BrokerUnavailable: out of reach within ``connect_timeout``. BrokerRefused: credentials, virtual host.
        """
        async with self._opening:
            if self._pid == os.getpid() and self._is_whole():
                return
            await self._let_go()
            link = await self._open("publishes", tapped=True)
            self._speaking, self._speaker, self._to_exchanges = link, Speaker(link), Speaker(link)
            self._version = link.version

    def _is_whole(self) -> bool:
        return (
            self._speaking is not None and self._speaking.is_open and (self._hearing is None or self._hearing.is_open)
        )

    async def close(self) -> None:
        """Let go of both connections; what is held goes back. Idempotent."""
        async with self._opening:
            await self._let_go()

    def abandon(self) -> None:
        """Let go of the sockets at once and say nothing, as a killed process does."""
        for link in (self._hearing, self._speaking):
            if link is not None:
                link.abort()

    async def _let_go(self) -> None:
        links = [link for link in (self._hearing, self._speaking) if link is not None]
        self._hearing = self._speaking = self._speaker = self._to_exchanges = None
        self._topologies.clear()
        if self._pid != os.getpid():
            _INHERITED.extend(links)
            self._pid = os.getpid()
            return
        for link in links:
            await link.close()

    async def _open(self, purpose: str, *, tapped: bool = False) -> Link:
        link = Link(self._url, self._settings, purpose, self._where, tapped=tapped)
        await link.open()
        return link

    def _spoken(self) -> Link:
        if self._pid != os.getpid():
            raise BrokerUnavailable(f"{self._where} was connected before a fork: call connect() in this process")
        if self._speaking is None:
            raise BrokerUnavailable(f"{self._where} is not connected: call connect() first")
        if not self._speaking.is_open:
            raise BrokerUnavailable(self._speaking.why)
        return self._speaking

    async def _heard(self) -> Link:
        """The connection that consumes, made when it is first needed."""
        self._spoken()
        async with self._opening:
            self._spoken()
            if self._hearing is None:
                self._hearing = await self._open("consumes", tapped=self._settings.direct)
            if not self._hearing.is_open:
                raise BrokerUnavailable(self._hearing.why)
            return self._hearing

    def _topology(self, link: Link) -> Topology:
        if link not in self._topologies:
            self._topologies[link] = Topology(link, self._settings)
        return self._topologies[link]

    def _looking(self) -> Topology:
        """Through a connection that an alarm does not stop, where there is one."""
        spoken = self._spoken()
        return self._topology(spoken if self._hearing is None or not self._hearing.is_open else self._hearing)

    # -- consuming ----------------------------------------------------------------------------------------------------

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[RabbitConsumer]:
        return self._consuming(queue, options)

    @contextlib.asynccontextmanager
    async def _consuming(self, queue: str, options: ConsumeOptions) -> AsyncIterator[RabbitConsumer]:
        link = await self._heard()
        topology = await self._ensured(queue, link)
        self._queues.add(queue)
        copies = Copies(self._spoken(), self._speech(), topology)
        consumer = RabbitConsumer(queue, options, link, topology, copies, heartbeat=float(self._settings.heartbeat))
        await consumer.open()
        watching = asyncio.create_task(consumer.fail_with(self._spoken()), name=f"speaking for {queue}")
        try:
            await copies.fetch_unrouted(queue, link)
            yield consumer
        finally:
            watching.cancel()
            await consumer.close()

    async def prepare(self, queue: str) -> None:
        """As the contract says, on the connection that consumes."""
        await self._ensured(queue, await self._heard())

    async def _ensured(self, queue: str, link: Link) -> Topology:
        topology = self._topology(link)
        await topology.ensure(queue)
        await topology.ensure_return(queue)
        return topology

    def _speech(self) -> Speaker:
        self._spoken()
        if self._speaker is None:
            raise BrokerUnavailable(f"{self._where} is not connected: call connect() first")
        return self._speaker

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(
        self, queue: str, messages: Sequence[Envelope], *, delay: float = 0.0, exchange: str = ""
    ) -> Sequence[Published]:
        """As the contract says: mandatory and confirmed. A queue that does not exist refuses. Cancelled: they may be there.

        Raises:
            BrokerUnavailable: nothing was sent. PublishError: a message that AMQP cannot carry. Unsupported: a delay with an
            exchange.
        """
        speaker = self._speech()
        if exchange and delay > 0:
            raise Unsupported("rabbitmq delays a message on its way to a queue, not to an exchange")
        parcels = self._packed(queue, messages, exchange, delay)
        if parcels and self._spoken().blocked is not None:
            return [Published.REFUSED] * len(parcels)
        if delay > 0 and not await self._way_back(queue):
            return [Published.REFUSED] * len(parcels)
        if exchange and self._to_exchanges is not None:
            speaker = self._to_exchanges
        self._queues |= set() if exchange else {queue}
        if parcels:
            await speaker.ready()
        return await asyncio.gather(*map(speaker.send, parcels))

    def _packed(self, queue: str, messages: Sequence[Envelope], exchange: str, delay: float) -> list[Parcel]:
        now, frame_max = time.time(), self._spoken().frame_max
        parcels = []
        for envelope in messages:
            try:
                parcel = parcel_of(queue, envelope, now=now, exchange=exchange, delay=delay)
                check_sendable(queue, parcel.properties, frame_max)
            except (ValueError, TypeError) as error:
                text = f"message {envelope.id} cannot be sent to {queue!r}: {error}"
                raise PublishError(text, queue=queue, id=envelope.id, in_doubt=False) from error
            parcels.append(parcel)
        return parcels

    async def _way_back(self, queue: str) -> bool:
        """Whether ``queue`` exists, and is bound to where delayed messages come out."""
        topology = self._looking()
        if await topology.counts(queue) is None:
            return False
        await topology.ensure_return(queue)
        return True

    # -- looking ------------------------------------------------------------------------------------------------------

    async def depth(self, queue: str) -> QueueDepth:
        """What a passive declare tells; what is in flight, delayed or how old, AMQP does not."""
        topology = self._looking()
        counts, dead = await topology.counts(queue), await topology.counts(dead_queue(queue))
        return QueueDepth(
            queue=queue,
            ready=0 if counts is None else counts[0],
            in_flight=0 if counts is None else None,
            delayed=0 if counts is None else None,
            consumers=0 if counts is None else counts[1],
            dead=0 if dead is None else dead[0],
        )

    async def queues(self) -> Sequence[str]:
        """Those that this process has published to or consumed from: AMQP lists none."""
        self._spoken()
        return sorted(self._queues)

    def dead_letters(self, queue: str) -> RabbitDeadLetters:
        return RabbitDeadLetters(self._for_letters, queue)

    async def _for_letters(self) -> tuple[Link, Speaker, Topology]:
        link = await self._heard()
        return link, self._speech(), self._topology(link)

    def idempotency(self) -> None:
        """RabbitMQ has no store: ``dedup.store_url`` names another."""

    async def ping(self) -> None:
        """A round trip.

        Raises:
            BrokerUnavailable: no answer within a heartbeat, or the server takes no messages just now.
        """
        link = self._spoken()
        if link.blocked is not None:
            raise BrokerUnavailable(BLOCKED)
        await link.probe(self._settings.heartbeat + 1.0)

    async def survey(self, queues: Sequence[str]) -> Survey:
        """What this version offers, and what is risky about it and these queues."""
        return await survey.surveyed(self._looking(), self._version, self._settings, queues)

    def stats(self) -> Mapping[str, Any]:
        """``blocked`` and ``trouble``: the server's alarm, while it lasts."""
        blocked = None if self._speaking is None else self._speaking.blocked
        return {"blocked": blocked, "trouble": blocked}
