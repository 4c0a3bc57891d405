"""A worker under test: the real engine on a memory broker of its own, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pythia.broker import DeadLetter
from pythia.brokers.memory import Faults, MemoryBroker
from pythia.brokers.memory_store import published_again
from pythia.clock import VirtualClock, settle_loop
from pythia.config import WorkerConfig
from pythia.core.codecs import Decoder
from pythia.core.lifecycle import LifecycleManager
from pythia.core.outcome import Outcome
from pythia.core.publishing import confirm, make_envelope
from pythia.core.state import WorkerState
from pythia.core.worker import Worker, make_worker
from pythia.errors import DecodeError, Seconds, seconds
from pythia.message import Envelope, Message
from pythia.observability import logs
from pythia.service import RunOptions, life_of, serve
from pythia.utils.isolation import LoggingBefore, isolated_config
from pythia.utils.records import Record, RecordingStore

W = TypeVar("W", bound=Worker)

OPTIONS = RunOptions(http=False, signals=False)
TIMEOUT_SECONDS = 5.0  # real ones: how long a handler may take before a test gives up on it
DRAIN_STEPS = 40  # in which the clock moves through a drain's deadline
DRAIN_STEP_SECONDS = 0.01  # real ones, at each: what is cancelled has clean-up of its own to do


class WorkerHarness(Generic[W]):
    """Runs a worker for a test: no broker to set up, no port, no signals, and no waiting for a retry that is due in an hour.

        async with WorkerHarness(OrderWorker, concurrency=1) as harness:
            id = await harness.publish({"sku": "a"})
            assert (await harness.settled(id)).kind == "ack"

    The engine is the real one. Its time stands still until ``advance``, ``settled`` or ``drain`` moves it: delays, handler
    timeouts, leases and ages are of this time, and what a handler awaits by itself (``asyncio.sleep``) is of the real one.
    The worker is RUNNING inside, and drained and stopped at the end.

    Overrides are keys of the configuration (``concurrency=1``, ``retry={"max_attempts": 3}``); neither the file nor the
    environment of whoever runs the test is read. ``config`` instead of overrides is used as it is, its broker apart.
    """

    def __init__(self, worker_class: type[W], *, config: WorkerConfig | None = None, **config_overrides: Any) -> None:
        if config is not None and config_overrides:
            raise TypeError("give a config or overrides, not both: the config is used as it is")
        self._worker_class = worker_class
        self._config = config or isolated_config(worker_class.config_class, config_overrides)
        self._stack = AsyncExitStack()
        self._stack.callback(LoggingBefore().restore)
        logs.configure(self._config.log)
        self.clock = VirtualClock(time.time())
        self.faults = Faults()
        self._store = RecordingStore(self.clock)
        self.broker = self._connection()
        self._test = MemoryBroker(clock=self.clock, store=self._store)  # the test's own connection
        self._ours: set[str] = set()  # what the test published
        self._serving: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._replace_worker()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # The worker's life.

    async def start(self) -> None:
        """Start the worker, for the first time or again; RUNNING when this returns.

        Raises:
            What ``on_startup`` raised, or whatever else kept the worker from starting.
        """
        running = asyncio.Event()
        life_of(self.worker).on_running = lambda: self._began(running)
        self._serving = asyncio.create_task(serve(self.worker, OPTIONS), name=f"harness {self.worker.name}")
        waiting = asyncio.create_task(running.wait(), name="running")
        try:
            await asyncio.wait({self._serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not running.is_set():
            serving, self._serving = self._serving, None
            await serving
            raise AssertionError(f"worker {self.worker.name} was stopped before it was running")

    def drain(self, timeout: float = TIMEOUT_SECONDS) -> Awaitable[None]:
        """Ask the worker to stop, at the moment of the call; awaited, it is STOPPED and has done all that a stop does.

        A handler may go on for ``timeout`` real seconds. Then the clock moves through the drain deadline: it is cancelled,
        and its message released.

        Raises:
            What ended the worker, if it had failed.
        """
        self.worker.stop()
        self._draining = asyncio.create_task(self._drain(timeout), name="harness drain")
        return asyncio.shield(self._draining)

    async def crash(self) -> None:
        """Kill the worker in mid-message and start a new one, as SIGKILL and a supervisor do.

        Nothing is settled, neither ``on_shutdown`` nor ``exit_stack`` is run, and what the worker held comes again at once
        with the attempt that it had. A handler's own ``finally`` does run here, which a kill would not do; its connection
        to the broker is gone by then. ``worker`` is another instance afterwards.
        """
        life = life_of(self.worker)
        self.broker.crash()
        life.status.started_up = False  # else the stop would run on_shutdown
        self._stack.push_async_exit(life.exit_stack.pop_all())  # a kill closes files; here the end of the test does
        self.worker.lifecycle_manager = LifecycleManager(self.worker.config)  # a user's own would see an orderly stop
        if life.engine is not None:
            await life.engine.close()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})
        self._replace_worker()
        await self.start()

    async def close(self) -> None:
        """Drain and stop the worker, whatever its state, and put the process's logging back. Idempotent."""
        try:
            if self._serving is not None and not self._serving.done():
                await self.drain()
            elif self.worker.state is not WorkerState.STOPPED:
                await self.worker.stop()
        finally:
            await self._stack.aclose()

    # Messages in.

    async def publish(
        self, body: Any, queue: str | None = None, *, delay: Seconds | None = None, **options: Any
    ) -> str:
        """Publish to ``queue``, the worker's first if None; the message's id. ``options``: those of ``Publisher.publish``.

        Raises:
            PublishError: ``faults`` had it refused.
        """
        envelope = published_again(make_envelope(body, **options), self.clock.time())
        self._ours.add(envelope.id)
        await self._test.connect()
        wait = 0.0 if delay is None else seconds(delay)
        await confirm(self._test, queue or self._first_queue, [envelope], delay=wait)
        return envelope.id

    # Time.

    async def advance(self, duration: float | timedelta) -> None:
        """Move the clock on; what comes due on the way happens at its moment. Plain ``def`` handlers, which run in
        threads, and handlers that await real things may still be running when this returns: ``outcome`` waits for them."""
        await self.clock.advance(seconds(duration))
        await self._quiet()

    # What became of it.

    async def outcome(self, id: str, timeout: float = TIMEOUT_SECONDS) -> Outcome:  # noqa: A002, ASYNC109 - the API's words
        """The outcome of a message's latest attempt; of one that runs or is due, when it has ended.

        Raises:
            TimeoutError: none within ``timeout`` real seconds. AssertionError: there will be none, and why.
        """
        await self._quiet()
        record = self._record(id)
        if record.last is not None and not (self._is_running and self._has_turn(id, record)):
            return record.last
        return await self._next_outcome(id, len(record.outcomes), timeout)

    async def settled(self, id: str, timeout: float = TIMEOUT_SECONDS) -> Outcome:  # noqa: A002, ASYNC109 - the API's words
        """The final outcome of a message (ack, dead_letter or drop); the clock moves through its delays.

        A handler that runs is waited for: its timeout comes when the test says ``advance``.

        Raises:
            TimeoutError: no outcome within ``timeout`` real seconds. AssertionError: there will be none, and why.
        """
        await self._quiet()
        seen, deadline = 0, time.monotonic() + timeout
        while not (record := self._record(id)).final:
            if len(record.outcomes) > seen:
                seen, deadline = len(record.outcomes), time.monotonic() + timeout
            wait = self._until_turn(id, record)
            if wait is None:
                await self._next_outcome(id, seen, deadline - time.monotonic())
            elif time.monotonic() > deadline:
                raise TimeoutError(self._no_outcome(id, timeout))
            else:
                await self.advance(wait)
        return record.outcomes[-1]

    def attempts(self, id: str) -> int:  # noqa: A002 - the API's word
        """The attempt of a message's latest outcome: 1 + the failures counted before it; 0 when there is none yet."""
        record = self._store.records.get(id)
        return 0 if record is None else record.attempts

    def published(self, queue: str) -> list[Message[Any]]:
        """What the worker published to ``queue``, its ``sink`` included, in order; what the test published is not in it."""
        said = [envelope for envelope in self._store.said_to(queue) if envelope.id not in self._ours]
        return [_message(queue, envelope, self.worker.config) for envelope in said]

    def dead(self, queue: str | None = None) -> list[DeadLetter]:
        """The dead letters of ``queue``, the worker's first if None; the oldest first."""
        with self._store.lock:
            return list(self._store.lane(queue or self._first_queue).dead.values())

    # Inside.

    def _replace_worker(self) -> None:
        self.worker: W = self._made()
        life = life_of(self.worker)
        life.clock = self.clock
        life.open_broker = lambda _config: self._connection()
        life.emit.add(self._store.observe)

    def _made(self) -> W:
        worker = make_worker(self._worker_class, self._config)
        if not isinstance(worker, self._worker_class):
            raise TypeError(f"{self._worker_class.__name__}(...) made a {type(worker).__name__}")
        return worker

    def _connection(self) -> MemoryBroker:
        self.broker = MemoryBroker(clock=self.clock, store=self._store, faults=self.faults)
        return self.broker

    def _began(self, running: asyncio.Event) -> None:
        """RUNNING, and no handler has begun: from now on each outcome is recorded, and then told to the user's hook."""
        shift = life_of(self.worker).shift
        if shift is not None:
            theirs = shift.on_outcome

            def told(message: Message[object], outcome: Outcome) -> None:
                self._store.settled(message, outcome)
                if theirs is not None:
                    theirs(message, outcome)

            shift.on_outcome = told
        running.set()

    async def _drain(self, patience: float) -> None:
        serving = self._serving
        if serving is None:
            return
        await asyncio.wait({serving}, timeout=patience)
        while not serving.done():
            await self.clock.advance(self.worker.config.drain_timeout_seconds / DRAIN_STEPS)
            await asyncio.wait({serving}, timeout=DRAIN_STEP_SECONDS)
        await serving

    async def _quiet(self) -> None:
        """Let everything happen that needs no time."""
        before = None
        while before != (now := life_of(self.worker).tally.outcomes()):
            before = now
            await settle_loop()

    @property
    def _first_queue(self) -> str:
        return self.worker.config.queue_names[0]

    @property
    def _is_running(self) -> bool:
        return self.worker.state is WorkerState.RUNNING

    def _record(self, id: str) -> Record:  # noqa: A002 - the API's word
        """What is known of a message.

        Raises:
            AssertionError: nothing is, or the worker will not take it up.
        """
        record = self._store.records.get(id)
        if record is None:
            raise AssertionError(f"no message with the id {id!r} was published in this harness")
        queues = self.worker.config.queue_names
        if record.queue not in queues:
            raise AssertionError(
                f"message {id} was published to {record.queue!r}: worker {self.worker.name} consumes {', '.join(queues)}"
            )
        return record

    def _runs(self, id: str | None = None) -> bool:  # noqa: A002 - the API's word
        """Whether the handler of this message runs, or any."""
        engine = life_of(self.worker).engine
        running = () if engine is None else engine.running()
        return any(id is None or row.message_id == id for row in running)

    def _has_turn(self, id: str, record: Record) -> bool:  # noqa: A002 - the API's word
        """An attempt at the message runs, or may begin."""
        return not record.final and (self._runs(id) or record.due <= self.clock.time())

    def _until_turn(self, id: str, record: Record) -> float | None:  # noqa: A002 - the API's word
        """Seconds by which the clock has to move for the message's sake; None while handlers do real work."""
        if not self._is_running:
            return None
        if not self._has_turn(id, record):
            return record.due - self.clock.time()
        return None if self._runs() else self.clock.next_wake()

    async def _next_outcome(self, id: str, seen: int, patience: float) -> Outcome:  # noqa: A002 - the API's word
        """Wait in real time for the outcome behind the first ``seen`` ones."""
        deadline = time.monotonic() + patience
        while len(self._record(id).outcomes) <= seen:
            if self._serving is None or self._serving.done():
                raise AssertionError(self._no_outcome(id))
            news = asyncio.create_task(self._store.news.wait(), name="news")
            left = max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait({news, self._serving}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if not done:
                raise TimeoutError(self._no_outcome(id, patience))
        return self._record(id).outcomes[-1]

    def _no_outcome(self, id: str, patience: float | None = None) -> str:  # noqa: A002 - the API's word
        record = self._record(id)
        within = "" if patience is None else f" within {patience:g} real seconds"
        last = "none" if record.last is None else f"{record.last.kind} ({record.last.reason})"
        why = _why(self.worker, record, self.clock.time(), runs=self._runs(id))
        return f"message {id} has no outcome{within}: {why}; attempts {record.attempts}, last outcome {last}"


def _why(worker: Worker, record: Record, now: float, *, runs: bool) -> str:
    """What a message without an outcome waits for."""
    life = life_of(worker)
    if worker.state is not WorkerState.RUNNING:
        return f"worker {worker.name} is {worker.state}" + (f": {life.error!r}" if life.error else "")
    if life.status.paused:
        return f"worker {worker.name} is paused"
    if runs:
        timeout = worker.config.handler_timeout_seconds
        return f"its handler runs (advance({timeout:g}) makes it time out)" if timeout else "its handler runs"
    if record.due > now:
        return f"it is due in {record.due - now:g} s of virtual time (advance, or settled)"
    return "it waits for a free slot, or for an earlier message with its ordering key"


def _message(queue: str, envelope: Envelope, config: WorkerConfig) -> Message[Any]:
    stamp = envelope.timestamp
    return Message(
        _body(envelope, config),
        id=envelope.id,
        raw=envelope.body,
        headers=envelope.headers,
        content_type=envelope.content_type,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        priority=envelope.priority,
        timestamp=None if stamp is None else datetime.fromtimestamp(stamp, UTC),
        idempotency_key=envelope.idempotency_key,
        ordering_key=envelope.ordering_key,
        queue=queue,
    )


def _body(envelope: Envelope, config: WorkerConfig) -> Any:
    limits = config.limits.model_dump(include={"body_bytes", "decompressed_bytes", "depth"})
    try:
        return Decoder(config.codecs, **limits).decode(envelope)
    except DecodeError:
        return envelope.body
