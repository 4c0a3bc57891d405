"""What every test stands on: an environment that says nothing about Pythia."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from tests.kit import servers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; what the tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("pythia", deadline=None)  # a busy machine is no failure
settings.load_profile("pythia")


def _is_setting(name: str) -> bool:
    return name == "LOG_LEVEL" or (name.startswith("PYTHIA_") and not name.startswith("PYTHIA_TEST_"))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """``PYTHIA_TEST_LOOP=uvloop`` runs the tests on the loop that a worker has with the extra ``fast``."""
    if os.environ.get("PYTHIA_TEST_LOOP", "asyncio") == "uvloop":
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches a worker in them, nor a process that they start."""
    for name in filter(_is_setting, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, for what reads or writes relative paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """A RabbitMQ that others may be using too."""
    return servers.require_rabbitmq()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis that others may be using too."""
    return servers.require_redis()


@pytest.fixture(scope="session")
def private_rabbit() -> servers.PrivateRabbit:
    """The session's own RabbitMQ, to be broken; whoever does mends it."""
    return servers.shared_rabbit()


@pytest.fixture
def private_redis() -> Iterator[servers.PrivateRedis]:
    """A Redis of the test's own, to be broken."""
    servers.require_private_redis()
    with servers.PrivateRedis() as redis:
        yield redis
