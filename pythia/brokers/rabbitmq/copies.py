"""What is written before a source is acked: the retry that waits, the dead letter, the worker's outputs. Each is confirmed first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pythia.broker import Failure, Output, Published, Settlement
from pythia.brokers.rabbitmq import delays, wire
from pythia.brokers.rabbitmq.confirms import Answer, Parcel
from pythia.brokers.rabbitmq.link import Link, close
from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.speaker import Speaker
from pythia.brokers.rabbitmq.topology import Topology, dead_queue
from pythia.brokers.rabbitmq.trouble import translated
from pythia.errors import BrokerError
from pythia.message import Delivery, Envelope, new_id

CONFIRM_SECONDS = (
    5.0  # beyond it a settlement is refused for now; the publish is not sent again, its answer is still waited for
)


class Copies:
    """Publishes what settlements call for. What was sent and not answered is remembered, so that asking again sends nothing twice."""

    def __init__(self, link: Link, speaker: Speaker, topology: Topology) -> None:
        self._link = link
        self._speaker = speaker
        self._topology = topology
        self._sendings: dict[Delivery, list[tuple[Parcel, Answer]]] = {}

    async def write(self, queue: str, settlements: Sequence[Settlement]) -> set[int]:
        """The ids (``id()``) of the settlements for which everything is confirmed now."""
        if self._link.blocked is not None:
            return set()
        for settlement in settlements:
            if settlement.delivery not in self._sendings:
                self._sendings[settlement.delivery] = [
                    self._send(parcel) for parcel in self._parcels(queue, settlement)
                ]
        await self._answers(settlements)
        for settlement in settlements:
            await self._mend(settlement)
        await self._answers(settlements)
        return {id(settlement) for settlement in settlements if self._confirmed(settlement.delivery)}

    async def wait_again(self, queue: str, message: Received, delay: float) -> bool:
        """Have a message that came early wait for the rest of its delay; whether that is confirmed."""
        due = wire.due_at(message)
        parcel = self._waiting(message, delay, {wire.DUE: due, wire.TO: queue})
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                return await self._speaker.send(parcel) is Published.CONFIRMED
        except (TimeoutError, BrokerError):
            return False

    async def fetch_unrouted(self, queue: str, link: Link) -> None:
        """Bring back to ``queue`` what came out of the delays while it did not exist."""
        counts = await self._topology.counts(delays.UNROUTED)
        if not counts or not counts[0]:
            return
        channel = await link.channel()
        try:
            with translated(f"read queue {delays.UNROUTED!r}"):
                for _ in range(counts[0]):
                    message = await channel.basic_get(delays.UNROUTED)
                    if message.delivery_tag is None:
                        return
                    received = Received.of(message, time.monotonic())
                    if (received.properties.headers or {}).get(wire.TO) == queue and await self._bring_back(
                        queue, received
                    ):
                        await channel.basic_ack(received.tag)
        finally:
            await close(channel)

    async def _bring_back(self, queue: str, message: Received) -> bool:
        properties = wire.copy_of(message, {}, self._link.frame_max)
        parcel = Parcel(routing_key=queue, body=message.body, properties=properties)
        return await self._speaker.send(parcel) is Published.CONFIRMED

    def _send(self, parcel: Parcel) -> tuple[Parcel, Answer]:
        return parcel, self._speaker.send(parcel)

    async def _answers(self, settlements: Sequence[Settlement]) -> None:
        tasks = [task for s in settlements for _, task in self._sendings.get(s.delivery, ()) if not task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=CONFIRM_SECONDS)

    async def _mend(self, settlement: Settlement) -> None:
        """Make what a refused parcel was missing (a queue that was deleted, an output's that was never there), and send again."""
        sendings = self._sendings[settlement.delivery]
        for index, (parcel, task) in enumerate(sendings):
            if task.done() and _answer(task) is not Published.CONFIRMED:
                try:
                    await self._make_way(parcel, settlement)
                except BrokerError:
                    continue
                sendings[index] = self._send(parcel)

    async def _make_way(self, parcel: Parcel, settlement: Settlement) -> None:
        headers = parcel.properties.headers or {}
        if any(output.queue == parcel.routing_key for output in settlement.outputs):
            await self._topology.ensure_output(parcel.routing_key)
        elif wire.TO in headers:
            self._topology.forget()
            await self._topology.ensure_return(str(headers[wire.TO]))
        else:
            await self._topology.ensure_plain(parcel.routing_key)

    def _confirmed(self, delivery: Delivery) -> bool:
        if all(task.done() and _answer(task) is Published.CONFIRMED for _, task in self._sendings[delivery]):
            del self._sendings[delivery]
            return True
        return False

    # -- what is sent -------------------------------------------------------------------------------------------------

    def _parcels(self, queue: str, settlement: Settlement) -> list[Parcel]:
        outputs = [self._output(output) for output in settlement.outputs]
        match settlement.kind:
            case "retry" | "defer":
                return [*outputs, self._later(queue, settlement)]
            case "dead_letter":
                return [*outputs, self._dead(queue, settlement)]
            case "ack" | "drop" | "release":
                return outputs

    def _output(self, output: Output) -> Parcel:
        return parcel_of(output.queue, output.envelope, now=time.time())

    def _later(self, queue: str, settlement: Settlement) -> Parcel:
        delivery, delay = settlement.delivery, max(0.0, settlement.delay)
        message: Received = delivery.token[2]
        marks = {
            wire.ATTEMPT: delivery.attempt + (settlement.kind == "retry"),
            wire.FIRST_SEEN: delivery.first_seen,
            wire.IDENTITY: delivery.identity or new_id(),
        }
        if delay <= 0:
            marks |= {wire.TO: None, wire.DUE: None}
            return Parcel(routing_key=queue, body=message.body, properties=self._copy(delivery, marks))
        marks |= {wire.TO: queue, wire.DUE: time.time() + delay if delay > delays.REACH_SECONDS else None}
        return self._waiting(message, delay, marks, id=delivery.envelope.id)

    def _waiting(
        self,
        message: Received,
        delay: float,
        marks: Mapping[str, Any],
        id: str | None = None,  # noqa: A002 - the API's word
    ) -> Parcel:
        way = delays.route(delay)
        properties = wire.copy_of(message, marks, self._link.frame_max, id=id)
        return Parcel(exchange=way.exchange, routing_key=way.routing_key, body=message.body, properties=properties)

    def _dead(self, queue: str, settlement: Settlement) -> Parcel:
        delivery = settlement.delivery
        marks = death_marks(settlement.record, queue, delivery) | {wire.TO: None, wire.DUE: None}
        return Parcel(
            routing_key=dead_queue(queue), body=delivery.envelope.body, properties=self._copy(delivery, marks)
        )

    def _copy(self, delivery: Delivery, marks: Mapping[str, Any]) -> wire.WireProperties:
        message: Received = delivery.token[2]
        return wire.copy_of(message, marks, self._link.frame_max, id=delivery.envelope.id)


def parcel_of(queue: str, envelope: Envelope, *, now: float, exchange: str = "", delay: float = 0.0) -> Parcel:
    """A message that is said by us.

    Raises:
        ValueError, TypeError: something that AMQP cannot carry.
    """
    properties = wire.properties_of(envelope, now=now, delay=delay)
    way = delays.Route(exchange, queue)
    if delay > 0 and properties.headers is not None:
        way = delays.route(delay)
        properties.headers[wire.TO] = queue
        if delay > delays.REACH_SECONDS:
            properties.headers[wire.DUE] = now + delay
    return Parcel(exchange=way.exchange, routing_key=way.routing_key, body=envelope.body, properties=properties)


def death_marks(record: Failure | None, queue: str, delivery: Delivery) -> dict[str, Any]:
    """Everything that is known about why a message is dead; None is not written."""
    marks: dict[str, Any] = {
        wire.ORIGIN_QUEUE: queue,
        wire.DEAD_AT: time.time(),
        wire.DEATH: new_id(),
        wire.FIRST_SEEN: delivery.first_seen,
        wire.ATTEMPT: delivery.attempt,
    }
    if record is not None:
        marks |= {
            wire.REASON: record.reason,
            wire.DETAIL: record.detail,
            wire.ERROR_TYPE: record.error_type,
            wire.ERROR: record.error_message,
            wire.TRACEBACK: record.traceback,
            wire.WORKER: record.worker or None,
            wire.WORKER_ID: record.worker_id or None,
            wire.ATTEMPT: record.attempts,
        }
    return marks


def _answer(task: Answer) -> Published | None:
    """None: it failed, or was cancelled."""
    return None if task.cancelled() or task.exception() is not None else task.result()
