"""The testing kit: run a worker in a test without a broker, a port, or waiting.

``WorkerHarness`` for any asyncio test, ``WorkerTestCase`` for ``unittest`` (and pytest, which needs no plugin for it),
``make_message`` for calling a handler directly, and for pytest with pytest-asyncio the fixture ``harness``, by
``pytest_plugins = ["pythia.utils.testing"]``. Works without pytest. (As a pytest plugin: PYTEST_DONT_REWRITE.)
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Any, ClassVar

from pythia.config import WorkerConfig
from pythia.core.worker import Worker
from pythia.message import Message
from pythia.utils.harness import WorkerHarness

__all__ = ["WorkerHarness", "WorkerTestCase", "make_message"]


def make_message(body: Any, **fields: Any) -> Message[Any]:
    """A message with this body, for calling ``worker.process_message`` directly; ``fields`` are those of ``Message``.

    It was not delivered by a broker: settling it raises ``NotDelivered``.
    """
    return Message(body, **fields)


class EchoWorker(Worker):
    """What a test case runs that names no worker of its own."""

    async def process_message(self, message: Message[Any]) -> Any:
        return message.body


class WorkerHandle:
    """The worker of a test case: ``start`` returns at RUNNING, ``stop`` at STOPPED; everything else is the worker's own."""

    _harness: WorkerHarness[Any]

    def __init__(self, harness: WorkerHarness[Any]) -> None:
        object.__setattr__(self, "_harness", harness)

    async def start(self) -> None:
        """Start the worker.

        Raises:
            What kept it from starting.
        """
        await self._harness.start()

    def stop(self, *, timeout: float | None = None) -> Awaitable[None]:
        """Ask the worker to stop; awaited, it is STOPPED. ``timeout`` is how many real seconds its handlers may go on."""
        return self._harness.drain() if timeout is None else self._harness.drain(timeout)

    @property  # type: ignore[misc]  # for isinstance: `object` lets it be assigned, a handle does not
    def __class__(self) -> type:
        return type(self._harness.worker)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._harness.worker, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._harness.worker, name, value)

    def __repr__(self) -> str:
        return f"<{self._harness.worker!r} in a test case>"


class WorkerTestCase(unittest.IsolatedAsyncioTestCase):
    """A test case with a worker of its own for each test, on a memory broker in virtual time, stopped at the end.

    ``worker_class`` says which worker; ``config``, if given, is used as it is, else neither file nor environment is read.
    ``self.worker`` is the worker, not started yet; ``self.harness`` publishes to it and tells what became of it.
    """

    worker_class: ClassVar[type[Worker]] = EchoWorker
    config: ClassVar[WorkerConfig | None] = None

    @cached_property
    def harness(self) -> WorkerHarness[Any]:
        """The harness that ``worker`` runs in."""
        harness = WorkerHarness(self.worker_class, config=self.config)
        self.addAsyncCleanup(harness.close)
        return harness

    @cached_property
    def worker(self) -> Any:
        """The worker under test. It is made, and its ``__init__`` run, at the first use."""
        return WorkerHandle(self.harness)

    def create_test_message(self, body: Any, **fields: Any) -> Message[Any]:
        """The same as ``make_message``."""
        return make_message(body, **fields)


Factory = Callable[..., Awaitable[WorkerHarness[Any]]]


async def _harnesses() -> AsyncIterator[Factory]:
    """Makes running harnesses, ``await harness(OrderWorker, concurrency=1)``, and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def make(worker_class: type[Worker], **options: Any) -> WorkerHarness[Any]:
            return await stack.enter_async_context(WorkerHarness(worker_class, **options))

        yield make


def _fixture() -> Any:
    """What makes a fixture of an asynchronous generator; plain pytest has but the name of it."""
    try:
        import pytest_asyncio  # noqa: PLC0415 - a test run alone wants it
    except ImportError:
        import pytest  # noqa: PLC0415 - as above

        return pytest.fixture
    return pytest_asyncio.fixture


if "pytest" in sys.modules:  # a test run wants it; nothing else here needs pytest
    harness = _fixture()(name="harness")(_harnesses)
