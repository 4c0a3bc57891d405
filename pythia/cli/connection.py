"""A connection to the configured broker, for the commands that look into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pythia.broker import Broker
from pythia.brokers import open_broker
from pythia.config import WorkerConfig
from pythia.errors import Unsupported


def check_shared(config: WorkerConfig) -> None:
    """Raise ``Unsupported`` for a broker that a command cannot share with a worker."""
    if config.broker.scheme == "memory":
        raise Unsupported("memory:// lives in one process: a command shares nothing with it; use sqlite:///file.db")


def missing_file(config: WorkerConfig) -> Path | None:
    """The queue file that is not there yet; a command that only looks need not make one."""
    url = config.broker.display_url
    path = Path(url.removeprefix("sqlite:///"))
    return path if url.startswith("sqlite:///") and not path.exists() else None


@asynccontextmanager
async def connected(config: WorkerConfig, url: str | None = None) -> AsyncIterator[Broker]:
    """The broker that ``url`` names, else ``config``, connected; closed at the end.

    Raises:
        BrokerUnavailable: not reached within ``broker.connect_timeout_seconds``. BrokerRefused, StoreError: no use waiting.
    """
    broker = open_broker(config.broker.url.get_secret_value() if url is None else url, config=config)
    try:
        await broker.connect()
        yield broker
    finally:
        await broker.close()
