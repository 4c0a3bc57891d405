"""Publishing: every message mandatory, persistent and confirmed, on a connection that consumes nothing.

A server under an alarm stops reading from a connection that publishes, acks and all; so acks have another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from pythia.brokers.rabbitmq.confirms import Answer, Confirms, Parcel, settle
from pythia.brokers.rabbitmq.link import Link
from pythia.errors import BrokerError, BrokerUnavailable


class Speaker:
    """A channel with confirms; made anew when a refusal of the server closed it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._confirms: Confirms | None = None
        self._opening = asyncio.Lock()
        self._waiting: deque[tuple[Parcel, Answer]] = deque()  # for a channel, for room, for the answer to their like
        self._sending: asyncio.Task[None] | None = None

    async def ready(self) -> Confirms:
        """The channel, open.

        Raises:
            BrokerUnavailable: there is no connection.
        """
        if self._confirms is not None and self._confirms.is_open:
            return self._confirms
        async with self._opening:
            if self._confirms is None or not self._confirms.is_open:
                if not self._link.is_open:
                    raise BrokerUnavailable(self._link.why)
                self._confirms = self._link.confirms(await self._link.channel(confirms=True))
            return self._confirms

    def send(self, parcel: Parcel) -> Answer:
        """Publish, in the order of the calls. Cancelling the answer leaves the message in doubt.

        The answer raises:
            BrokerUnavailable: it was not sent. BrokerRefused: the server does not allow it.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        confirms = self._confirms
        if not self._waiting and confirms is not None and self._takes(confirms, parcel):
            _say(confirms, parcel, answer)
            return answer
        self._waiting.append((parcel, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_waiting(), name="publish")
        return answer

    def _takes(self, confirms: Confirms, parcel: Parcel) -> bool:
        return confirms.is_open and self._link.has_room and confirms.before(parcel) is None

    async def _send_waiting(self) -> None:
        while self._waiting:
            parcel, answer = self._waiting[0]
            if not answer.done():
                try:
                    confirms = await self.ready()
                except BrokerError as error:
                    settle(answer, error)
                else:
                    if not self._takes(confirms, parcel):
                        await self._wait_for(confirms, parcel)
                        continue
                    _say(confirms, parcel, answer)
            self._waiting.popleft()

    async def _wait_for(self, confirms: Confirms, parcel: Parcel) -> None:
        """Whatever stands in the way of ``parcel``."""
        if not self._link.has_room:
            with contextlib.suppress(OSError):
                await self._link.room()
        elif (before := confirms.before(parcel)) is not None:
            await asyncio.wait({before})


def _say(confirms: Confirms, parcel: Parcel, answer: Answer) -> None:
    try:
        confirms.say(parcel, answer)
    except (ValueError, TypeError) as error:
        settle(answer, error)
