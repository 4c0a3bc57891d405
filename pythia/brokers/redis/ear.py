"""A connection that listens to a channel. One that went silent is asked, so that a half-open one is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from pythia.brokers.redis.driver import FAILURES, Address
from pythia.brokers.redis.silence import Silence

_PATIENCE_SECONDS = 1.0


class Ear:
    """Subscribed from ``open`` on."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection = address.connection()

    @classmethod
    async def open(cls, address: Address, channel: str) -> Ear:
        """What is said on ``channel`` from now on is heard.

        Raises:
            BrokerUnavailable, BrokerRefused: the server is away, or does not permit it.
        """
        ear = cls(address)
        try:
            async with asyncio.timeout(address.settings.connect_timeout):
                await ear._connection.connect()  # type: ignore[no-untyped-call]  # the driver left it without types
                await ear._connection.send_command("SUBSCRIBE", channel)
                await ear._connection.read_response()
        except FAILURES as error:
            await ear.drop()
            raise address.lost(error) from error
        except BaseException:
            await ear.drop()
            raise
        return ear

    async def hear(self) -> bytes:
        """The next payload. Cancelling it may lose one.

        Raises:
            BrokerUnavailable: the connection is gone.
        """
        try:
            while True:
                said = await self._next()
                if said[0] == b"message":
                    payload: bytes = said[2]
                    return payload
        except FAILURES as error:
            raise self._address.lost(error) from error

    async def _next(self) -> Any:
        said = await self._connection.read_response(timeout=_PATIENCE_SECONDS)
        if said is None:
            async with Silence(self._address.settings.answer_timeout):
                await self._connection.send_command("PING")
                said = await self._connection.read_response()
        return said

    async def drop(self) -> None:
        """Let go."""
        with contextlib.suppress(*FAILURES):
            await self._connection.disconnect(nowait=True)
