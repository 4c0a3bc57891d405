"""A connection to RabbitMQ that was never made leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from pythia.brokers.rabbitmq.link import Link
from pythia.brokers.rabbitmq.settings import RabbitSettings
from pythia.errors import BrokerUnavailable


async def test_a_connection_that_was_given_up_while_it_was_made_is_closed_for_the_driver_too() -> None:
    """Else the driver closes it when it is collected: by a coroutine, which a thread without a loop never awaits."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        link = Link(url, RabbitSettings(), "test", "nowhere")
        opening = asyncio.create_task(link.open())
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert link._connection.is_closed


async def test_a_connection_that_could_not_be_made_is_closed_for_the_driver_too() -> None:
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
        url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for settings in (RabbitSettings(), RabbitSettings(connect_timeout=0.0)):
        link = Link(url, settings, "test", "nowhere")
        with pytest.raises(BrokerUnavailable):
            await link.open()
        assert link._connection.is_closed
