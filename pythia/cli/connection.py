"""A connection to the configured broker, for the commands that look into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pythia.broker import Broker
from pythia.brokers import open_broker
from pythia.config import WorkerConfig


@asynccontextmanager
async def connected(config: WorkerConfig) -> AsyncIterator[Broker]:
    """The broker that ``config`` names, connected; closed at the end.

    Raises:
        BrokerUnavailable: not reached within ``broker.connect_timeout_seconds``. BrokerRefused, StoreError: no use waiting.
    """
    limit = config.broker.connect_timeout_seconds
    broker = open_broker(config.broker.url.get_secret_value(), connect_timeout=limit)
    try:
        await broker.connect()
        yield broker
    finally:
        await broker.close()
