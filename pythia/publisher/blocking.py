"""``SyncPublisher``: a thread with a loop of its own, for code without asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Self, TypeVar, Unpack

from pythia.broker import Broker
from pythia.config import WorkerConfig
from pythia.core.publishing import make_envelope
from pythia.errors import LifecycleError, Seconds
from pythia.publisher.flight import Common, flights, parted
from pythia.publisher.line import Line, open_from

T = TypeVar("T")

END_SECONDS = 5.0  # how long the thread may take to end


class SyncPublisher:
    """``Publisher`` for code without asyncio (Django, Flask, scripts): every call blocks until the broker has confirmed.

    It owns a thread with an event loop, started by the first call and ended by ``close()``, by ``with``, or with the
    process. Safe to call from many threads. After a fork the child makes a thread and a connection of its own.
    """

    def __init__(self, broker_url: str | None = None, *, config: WorkerConfig | None = None) -> None:
        self._url = broker_url
        self._config = WorkerConfig() if broker_url is None and config is None else config
        open_from(self._url, self._config)  # a URL that cannot be used is told here, as Publisher does
        self._lock = threading.Lock()
        self._thread: LineThread | None = None
        self._ender: weakref.finalize[[], SyncPublisher] | None = None
        _alive.add(self)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def connect(self) -> None:
        """As ``Publisher.connect``."""
        thread = self._running()
        thread.call(thread.line.connect())

    def close(self) -> None:
        """Let go of the connection and end the thread. Idempotent; the next call starts anew."""
        with self._lock:
            ender, self._ender, self._thread = self._ender, None, None
        if ender is not None:
            ender()

    def publish(
        self,
        queue: str,
        body: Any,
        *,
        id: str | None = None,  # noqa: A002 - the API's word
        headers: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        delay: Seconds | None = None,
        exchange: str = "",
        timeout: Seconds = 30,
    ) -> str:
        """As ``Publisher.publish``."""
        envelope = make_envelope(
            body,
            id=id,
            headers=headers,
            content_type=content_type,
            correlation_id=correlation_id,
            reply_to=reply_to,
            priority=priority,
            idempotency_key=idempotency_key,
            ordering_key=ordering_key,
        )
        thread = self._running()
        thread.call(thread.line.send(queue, [envelope], delay=delay, exchange=exchange, timeout=timeout))
        return envelope.id

    def publish_many(
        self, queue: str, bodies: Iterable[Any], *, delay: Seconds | None = None, **common: Unpack[Common]
    ) -> list[str]:
        """As ``Publisher.publish_many``; ``bodies`` is read in the thread of the caller, where it belongs."""
        said, how = parted(common)
        thread = self._running()
        ids: list[str] = []
        for flight in flights(bodies, said):
            thread.call(thread.line.send(queue, flight, delay=delay, **how))
            ids.extend(envelope.id for envelope in flight)
        return ids

    def ping(self) -> None:
        """As ``Publisher.ping``."""
        thread = self._running()
        thread.call(thread.line.ping())

    def _running(self) -> LineThread:
        with self._lock:
            if self._thread is None:
                self._thread = LineThread(open_from(self._url, self._config))
                self._ender = weakref.finalize(self, self._thread.end)
            return self._thread

    def _forked(self) -> None:
        """In the child: the thread is not there and its lock may be held for ever; the connection is the parent's."""
        self._lock = threading.Lock()
        if self._ender is not None and self._thread is not None:
            self._ender.detach()
            _inherited.append(self._thread)
        self._ender = self._thread = None


class LineThread:
    """A line on an event loop in a thread of its own, for calls from any other thread."""

    def __init__(self, broker: Broker) -> None:
        self.line = Line(broker)
        self._pid = os.getpid()
        self._ended = False
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pythia-publisher", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns or raises on the loop. Interrupting the wait cancels it.

        Raises:
            LifecycleError: closed by another thread before it was done.
        """
        future = self._submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise LifecycleError("closed by another thread meanwhile: what was being published is in doubt") from None
        finally:
            future.cancel()

    def end(self) -> None:
        """Close the line, stop the loop, join the thread. Idempotent; does nothing in a forked child."""
        with self._lock:
            if self._ended or self._pid != os.getpid():
                return
            self._ended = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        self._thread.join(END_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        with self._lock:
            if not self._ended:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise LifecycleError("closed by another thread: nothing was published")

    async def _finish(self) -> None:
        try:
            await asyncio.wait_for(self.line.close(), END_SECONDS)
        finally:
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            self._loop.stop()


_alive: weakref.WeakSet[SyncPublisher] = weakref.WeakSet()
_inherited: list[LineThread] = []  # a parent's connections, kept so that no finaliser of the child closes them


def _after_fork() -> None:
    for publisher in _alive:
        publisher._forked()  # noqa: SLF001 - the other half of the class


os.register_at_fork(after_in_child=_after_fork)
