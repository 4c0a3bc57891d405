"""Publishing: every message mandatory, persistent and confirmed, on a connection that consumes nothing.

A server under an alarm stops reading from a connection that publishes, acks and all; so acks have another.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import aiormq.exceptions as amqp
from aiormq.channel import Channel

from pythia.broker import Published
from pythia.brokers.rabbitmq.link import Link
from pythia.brokers.rabbitmq.trouble import translated
from pythia.brokers.rabbitmq.wire import WireProperties
from pythia.errors import BrokerRefused, BrokerUnavailable

_TOO_LARGE = re.compile(r"message size (\d+) is larger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One message and where it goes."""

    exchange: str = ""
    routing_key: str
    body: bytes
    properties: WireProperties


class Speaker:
    """A channel with confirms; made anew when a refusal of the server closed it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._in_flight: dict[str, asyncio.Task[Published]] = {}

    async def ready(self) -> Channel:
        """The channel, open.

        Raises:
            BrokerUnavailable: there is no connection.
        """
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                if not self._link.is_open:
                    raise BrokerUnavailable(self._link.why)
                self._channel = await self._link.channel(confirms=True)
            return self._channel

    def send(self, parcel: Parcel) -> asyncio.Task[Published]:
        """Publish, in the order of the calls; the task's result is the answer. Cancelling it leaves the message in doubt."""
        before = self._in_flight.get(parcel.properties.message_id or "")
        task = asyncio.create_task(self._send(parcel, before), name="publish")
        if parcel.properties.message_id:
            self._remember(parcel.properties.message_id, task)
        return task

    def _remember(self, name: str, task: asyncio.Task[Published]) -> None:
        self._in_flight[name] = task

        def forget(_task: asyncio.Task[Published]) -> None:
            if self._in_flight.get(name) is task:
                del self._in_flight[name]

        task.add_done_callback(forget)

    async def _send(self, parcel: Parcel, before: asyncio.Task[Published] | None) -> Published:
        if before is not None:  # the driver finds what was returned by its id: one of a name at a time
            await asyncio.wait({before})
        sent = False
        try:
            channel = await self.ready()
            with translated("publish"):
                sent = True
                return await self._confirmed(channel, parcel)
        except BrokerUnavailable:
            if not sent:
                raise
            return Published.UNKNOWN
        except BrokerRefused as error:  # the server closed the channel, and with it what else was on its way
            if not _is_anothers(error, parcel):
                raise
            return Published.UNKNOWN

    async def _confirmed(self, channel: Channel, parcel: Parcel) -> Published:
        try:
            await channel.basic_publish(
                parcel.body,
                exchange=parcel.exchange,
                routing_key=parcel.routing_key,
                properties=parcel.properties,
                mandatory=True,
                wait=False,
            )
        except amqp.DeliveryError:  # a nack, or returned: no queue takes it
            return Published.REFUSED
        except amqp.ChannelNotFoundEntity:  # no such exchange
            return Published.REFUSED
        return Published.CONFIRMED


def _is_anothers(error: BrokerRefused, parcel: Parcel) -> bool:
    """Whether it is a larger message that the server did not take."""
    found = _TOO_LARGE.search(str(error))
    return found is not None and int(found[1]) != len(parcel.body)
