"""One worker's life: what it holds from its first state to its last. The steps are in ``starting`` and ``ending``.

Everything here runs on the loop that called ``start``, but ``request_stop``, ``pause`` and ``resume``, which any thread may
call. The composition root gives it the way to open brokers; nothing here knows which there are.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from random import Random
from typing import TYPE_CHECKING, Any

from pythia.broker import Broker
from pythia.clock import Clock, SystemClock
from pythia.config import WorkerConfig
from pythia.core import tending
from pythia.core.adoption import Adoption
from pythia.core.drain import Drained
from pythia.core.engine import Engine
from pythia.core.events import (
    BrokerRefusal,
    Observers,
    TaskFailed,
    WorkerFailed,
    WorkerStopped,
)
from pythia.core.metrics import Metrics
from pythia.core.ours import our_metrics
from pythia.core.reloading import Reloaded, Reloader
from pythia.core.shift import Shift
from pythia.core.state import WorkerState, moved
from pythia.core.status import Connection, Status
from pythia.core.stop import StopRequest
from pythia.core.suspects import Suspects
from pythia.core.tally import Tally
from pythia.errors import BrokerError, BrokerRefused, LifecycleError, PythiaError

if TYPE_CHECKING:
    from pythia.core.worker import Worker


inside: contextvars.ContextVar[Life | None] = contextvars.ContextVar("pythia_inside", default=None)


class StartStopped(LifecycleError):
    """Somebody asked to stop while the worker was starting; not a failure."""


class Life:
    """The running side of a ``Worker``; the worker itself stays the user's."""

    def __init__(self, worker: Worker, config: WorkerConfig) -> None:
        self.worker = worker
        self.tally = Tally()
        self.status = Status(config, self.tally, Metrics())
        self.metrics = Metrics(our_metrics(self.status))
        self.status.metrics = self.metrics
        self.emit = Observers()
        self.clock: Clock = SystemClock()
        self.stopwatch: Callable[[], float] = time.monotonic  # of the machine, whatever the clock
        self.beat_seconds = tending.BEAT_SECONDS
        self.random = Random()  # noqa: S311 - jitter, no secret
        self.open_broker: Callable[[WorkerConfig], Broker] | None = None
        self.open_store: Callable[[WorkerConfig], Broker] | None = None
        self.fail_fast = False
        self.max_messages: int | None = None
        self.http: str | None = None  # where the probes answer, for the banner
        self.suspects = Suspects()  # of messages that kill their process
        self.on_running: Callable[[], None] = lambda: None
        self.on_second: Callable[[], None] = lambda: None  # about every second of a loop that turns
        self.while_reloading: Callable[[], AbstractContextManager[object]] = nullcontext
        self.on_config: Callable[[WorkerConfig], None] = lambda _config: None  # a reload was applied
        self._forget_run()

    def _forget_run(self) -> None:
        """A life that begins (again) has nothing of the one before."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.shift: Shift | None = None
        self.engine: Engine | None = None
        self.wired: WorkerConfig | None = None  # what the engine was built by, or reloaded to, as a whole
        self.reloader = Reloader(self)
        self.drained: Drained | None = None
        self.drain_began: float | None = None  # monotonic
        self.exit_code = 0
        self.error: BaseException | None = None
        self.exit_stack = AsyncExitStack()
        self.stores: list[Broker] = []
        self.adoption = Adoption(self.emit)
        self.tending: list[asyncio.Task[None]] = []
        self.stop_asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self.stop_cause = ""
        self._stop_timeout: float | None = None
        self._began = self.stopwatch()
        self.starter: asyncio.Task[Any] | None = None
        self._done: Future[None] = Future()
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it

    # State.

    @property
    def state(self) -> WorkerState:
        return self.status.state

    def move(self, to: WorkerState) -> None:
        """Take a move of the lifecycle.

        Raises:
            LifecycleError: it is not allowed.
        """
        self.status.state = moved(self.status.state, to)
        if to in (WorkerState.STOPPED, WorkerState.ERROR):
            self.status.running_since = None if to is WorkerState.STOPPED else self.status.running_since
        if to in (WorkerState.STOPPED, WorkerState.ERROR):
            self.reloader.close()
        if to is WorkerState.STOPPED:
            self.status.paused = False  # not kept over a restart
            self.finished()

    def begin(self) -> None:
        """Make ready to start on the running loop.

        Raises:
            LifecycleError: the worker runs already, or failed and was not stopped.
        """
        if self.loop is not None and self.state is not WorkerState.STOPPED:
            raise LifecycleError(
                f"worker {self.status.config.worker_name} is {self.state}: stop it before starting again"
            )
        self._forget_run()
        if self.state is WorkerState.STOPPED:
            self.move(WorkerState.INITIALIZING)
        self.loop = asyncio.get_running_loop()
        self.status.started_up = False
        self.status.failure = None
        self.starter = asyncio.current_task()
        self.tend(tending.pulse(self), "pulse")

    # Stopping, from anywhere.

    def request_stop(self, cause: str, timeout: float | None = None) -> StopRequest:
        """Ask for the stop, now; a second time it hurries only if the cause is a signal's."""
        with self._lock:
            if not self.stop_cause:
                self.stop_cause, self._stop_timeout = cause, timeout
        if self.loop is None or (self.state is WorkerState.ERROR and self._done.done()):
            self._stop_what_does_not_run()
        elif self.state is not WorkerState.STOPPED and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop_now, self.stop_asked)
        return StopRequest(self._done, lambda: inside.get() is self)

    def ask_to_stop(self, cause: str) -> None:
        """The same, when nobody waits."""
        self.request_stop(cause)

    def _stop_what_does_not_run(self) -> None:
        if self.state is WorkerState.ERROR:
            self.move(WorkerState.STOPPING)
        if self.state in (WorkerState.INITIALIZING, WorkerState.STOPPING):
            self.move(WorkerState.STOPPED)

    def _stop_now(self, asked: asyncio.Event) -> None:
        """``asked`` is the event of the run that was to stop; another may have begun meanwhile."""
        asked.set()
        if asked is not self.stop_asked:
            return
        if self.state is WorkerState.STARTING and self.starter is not None:
            self.starter.cancel("pythia: stop")

    async def stop_requested(self) -> None:
        """Wait until somebody asks, or the engine fails; ``error`` then says why."""
        waits = {asyncio.create_task(self.stop_asked.wait(), name="stop")}
        if self.engine is not None:
            waits.add(asyncio.create_task(self.engine.failed.wait(), name="engine"))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self.stop_asked.is_set() and self.engine is not None:
            self.error = self.engine.error

    @property
    def stopping(self) -> bool:
        return self.stop_asked.is_set()

    def connection_changed(self, error: BaseException | None) -> None:
        text = None if error is None else str(error)
        self.status.connection = Connection(connected=error is None, since=time.time(), error=text)

    @property
    def drain_timeout(self) -> float:
        return self.worker.config.drain_timeout_seconds if self._stop_timeout is None else self._stop_timeout

    def failed(self, error: BaseException) -> None:
        """What waiting cannot heal has happened: ERROR, and the exit code says what it was."""
        ours = isinstance(error, PythiaError) and self.state is not WorkerState.STARTING
        self.error = error
        self.exit_code = error.exit_code if ours and isinstance(error, PythiaError) else 70
        self.status.failure = str(error) or type(error).__name__
        self.move(WorkerState.ERROR)
        if isinstance(error, BrokerRefused):
            self.emit(BrokerRefusal(error=error))
        self.emit(WorkerFailed(detail=self.status.failure, error=None if ours else error))

    def ended(self) -> None:
        """The last line of this life."""
        self.emit(WorkerStopped(exit_code=self.exit_code, seconds=round(self.age, 3)))

    def finished(self) -> None:
        """Whoever awaits the stop goes on; what failed to start is stopped, if that was asked for meanwhile."""
        if self._done.done():
            return
        self._done.set_result(None)
        if self.state is WorkerState.ERROR and self.stop_cause:
            self._stop_what_does_not_run()

    @property
    def age(self) -> float:
        """Seconds since this run began."""
        return self.stopwatch() - self._began

    # In between.

    def pause(self) -> None:
        self._on_loop(self._pause)

    def resume(self) -> None:
        self._on_loop(self._resume)

    def reload(self) -> Future[Reloaded]:
        """Ask for a reload; what came of it. One at a time, of the newest content; one that is asked for before the worker
        runs is carried out when it does."""
        return self.reloader.ask()

    def planned(self) -> Reloaded:
        """What a reload would do, from its sources as they are now; nothing is changed, and nothing is connected to."""
        return self.reloader.planned()

    async def retire(self, broker: Broker) -> None:
        """Close a broker that nothing comes by any more, and forget it."""
        if broker in self.stores:
            self.stores.remove(broker)
        try:
            await broker.close()
        except BrokerError as error:
            self.emit(TaskFailed(where="closing the former broker", error=error))

    def _pause(self) -> None:
        if not self.status.paused:
            self.status.paused = True
            if self.engine is not None and self.state is WorkerState.RUNNING:
                self.engine.pause()

    def _resume(self) -> None:
        self.status.paused = False
        if self.engine is not None:
            self.engine.resume()

    def _on_loop(self, action: Callable[[], None]) -> None:
        """At once on the loop's own thread or without a loop, else as soon as the loop gets to it."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if self.loop is None or self.loop.is_closed() or here is self.loop:
            action()
        else:
            self.loop.call_soon_threadsafe(action)

    def tended(self, task: asyncio.Task[None]) -> None:
        """One of the tending tasks has ended by itself."""
        if task in self.tending:
            self.tending.remove(task)

    def tend(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.tending.append(task)
