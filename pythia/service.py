"""The composition root: the only place that knows brokers, core, observability and HTTP, and makes one service of them."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pythia import runtime_file, signals
from pythia.broker import Broker
from pythia.brokers import open_broker
from pythia.burst import watch_burst
from pythia.config import WorkerConfig, was_set
from pythia.core import lastwords, suspects
from pythia.core.calling import busy_threads, written
from pythia.core.ending import cut_short, fail_start, give_up_start
from pythia.core.events import DrainReleased, Notice, TaskFailed
from pythia.core.life import Life, StartStopped
from pythia.core.lifecycle import LifecycleManager
from pythia.core.starting import consume
from pythia.core.state import WorkerState
from pythia.core.worker import Worker
from pythia.errors import LifecycleError, PythiaError
from pythia.http.port import served
from pythia.http.server import HttpServer
from pythia.message import Delivery
from pythia.observability import logs
from pythia.observability.systemd import Notifier
from pythia.observability.watchdog import Watchdog

W = TypeVar("W", bound=Worker)

LEAST_FOR_CLOSING_SECONDS = 1.0
YOUNG_OBJECTS = 10_000  # that are made before the collector looks at them
LAST_WORDS_SECONDS = 1.0  # for the log's reader, at the deadline
LEAST_NOTED, MOST_NOTED_FOR_EACH = 64, 4  # slots for what is in hand; concurrency may grow while it runs

_leaving = threading.Lock()  # held by who ends the process, and as a run ends: the two are not to meet


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How ``pythia run`` differs from ``worker.start()``."""

    burst: bool = False  # end when nothing is ready and nothing runs
    max_messages: int | None = None  # end after this many handlers have begun
    fail_fast: bool = False  # a broker that is out of reach at the start is the end
    http: bool = True
    signals: bool = True
    exits: bool = False  # the process is ours: leave it at the deadline, whatever still runs


PLAIN = RunOptions()


def run(worker: Worker, options: RunOptions = PLAIN) -> int:
    """The whole life of ``worker``, blocking, with signals; the exit code. Errors are logged, not raised.

    When a handler or a thread never returns, the process ends at the drain deadline with 75.
    """
    options = replace(options, exits=True)
    runner = asyncio.Runner(loop_factory=_new_loop)
    code = 70
    try:
        runner.run(serve(worker, options))
        code = life_of(worker).exit_code
    except Exception as error:  # noqa: BLE001 - the top of the process: every failure becomes an exit code
        code = life_of(worker).exit_code or (error.exit_code if isinstance(error, PythiaError) else 70)
    if _something_never_ends(life_of(worker)):
        with _leaving:
            _leave(code or 75)
    _close(runner, life_of(worker), code)
    with _leaving:  # whoever came to the deadline before us is ending the process
        return code


def _new_loop() -> asyncio.AbstractEventLoop:
    """That of uvloop where it is installed (the extra ``fast``), that of asyncio otherwise."""
    try:
        import uvloop  # noqa: PLC0415 - optional, and 15 ms that only who runs a worker pays
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _close(runner: asyncio.Runner, life: Life, code: int) -> None:
    """Close the loop; that waits for its threads, and one that never returns must not outlive the deadline."""
    began = time.monotonic() if life.drain_began is None else life.drain_began
    left = max(LEAST_FOR_CLOSING_SECONDS, began + life.drain_timeout - time.monotonic())

    def give_up() -> None:
        with _leaving:
            if not timer.finished.is_set():  # else it was closed meanwhile
                _leave(code or 75)

    timer = threading.Timer(left, give_up)
    timer.daemon = True
    timer.start()
    runner.close()
    timer.cancel()


async def serve(worker: Worker, options: RunOptions = PLAIN) -> None:
    """The whole life of ``worker``; returns at STOPPED. Cancelled, it drains first.

    Raises:
        Whatever kept the worker from starting, or from going on.
    """
    life = life_of(worker)
    life.begin()
    life.fail_fast, life.max_messages = options.fail_fast, options.max_messages
    with ExitStack() as outside:
        try:
            _furnish(worker, life, options, outside)
        except BaseException as error:
            await fail_start(life, error)
            raise
        await _live(worker, life, options)


async def live(worker: Worker, options: RunOptions = PLAIN) -> None:
    """``serve`` without what stands around the delivery path (logs, probes, watchdog, signals): no thread is started.

    For simulations; the worker's way to its broker must have been given to it.
    """
    life = life_of(worker)
    life.begin()
    life.fail_fast, life.max_messages = options.fail_fast, options.max_messages
    await _live(worker, life, options)


@asynccontextmanager
async def embedded(worker: W) -> AsyncIterator[W]:
    """RUNNING inside: no signals, and no HTTP unless it was asked for. Leaving drains and stops.

    Raises:
        Whatever kept the worker from starting; what stopped it meanwhile, when the block ends.
    """
    http = was_set(worker.config, "http.enabled")
    started = asyncio.Event()
    ended: asyncio.Task[None]
    async with AsyncExitStack() as stack:
        ended = asyncio.create_task(_embed(worker, RunOptions(http=http, signals=False), started), name=worker.name)
        waiting = asyncio.create_task(started.wait(), name="started")
        stack.callback(waiting.cancel)
        try:
            await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            worker.stop()
            await asyncio.wait({ended})
            raise
        if ended.done():
            await ended
            raise LifecycleError(f"worker {worker.name} was stopped before it was running")
        try:
            yield worker
        finally:
            worker.stop()
            await ended


async def _embed(worker: Worker, options: RunOptions, started: asyncio.Event) -> None:
    life_of(worker).on_running = started.set
    await serve(worker, options)


def life_of(worker: Worker) -> Life:
    """The running side of ``worker``.

    Raises:
        LifecycleError: its constructor did not call ``super().__init__``.
    """
    life = getattr(worker, "_pythia_life", None)
    if not isinstance(life, Life):
        raise LifecycleError(f"{type(worker).__name__}.__init__ must call super().__init__(config)")
    return life


async def _live(worker: Worker, life: Life, options: RunOptions) -> None:
    """From INITIALIZING to STOPPED (or ERROR, when the start failed)."""
    try:
        await worker.lifecycle_manager.start_worker(worker)
        if options.exits:
            _calm_collector()
        consume(life)
    except StartStopped:
        await give_up_start(life)
        life.ended()
        return
    except asyncio.CancelledError:
        await give_up_start(life)
        life.ended()
        raise
    except BaseException as error:
        await fail_start(life, error)
        raise
    watching = asyncio.create_task(watch_burst(life), name="burst") if options.burst else None
    try:
        await life.stop_requested()
    except asyncio.CancelledError:
        life.request_stop("cancelled")
        raise
    finally:
        if watching is not None:
            watching.cancel()
        if life.error is not None:
            life.failed(life.error)
        try:
            await _stop(worker, life)
        finally:
            await cut_short(life)
            life.ended()
    if life.error is not None:
        raise life.error


def _calm_collector() -> None:
    """In a process that is ours alone: what is there by now stays, so that the collector need not look at it again, and it looks
    less often for garbage in circles. The delivery path makes none; only a handler may."""
    gc.freeze()
    if gc.get_threshold()[0] < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


async def _stop(worker: Worker, life: Life) -> None:
    """The manager's stop; if that raises or returns before it began, the steps are taken all the same."""
    try:
        await worker.lifecycle_manager.stop_worker(worker)
    except Exception as error:  # noqa: BLE001 - the user's manager may raise anything; the worker still stops
        life.emit(TaskFailed(where="LifecycleManager.stop_worker", error=error))
        life.exit_code = life.exit_code or 70
    if life.state in (WorkerState.RUNNING, WorkerState.ERROR):
        await LifecycleManager(worker.config).stop_worker(worker)


def _furnish(worker: Worker, life: Life, options: RunOptions, outside: ExitStack) -> None:
    """Everything around the delivery path: logs, probes, the watchdog, signals. Undone in reverse, HTTP last but the log."""
    config = worker.config
    if life.open_broker is None:
        life.open_broker = _open_configured
        life.open_store = _open_store
    if not logs.configured_elsewhere():
        logs.configure(config.log)
        life.on_config = lambda new: logs.configure(new.log)
    log = logs.LogObserver(config.worker_name, config.worker_id)
    outside.enter_context(life.emit.to(log))
    outside.callback(log.flush)
    life.on_second = log.flush
    if options.exits:
        _watch_for_killers(worker, life, outside)
    if options.http and config.http.enabled:
        life.http = outside.enter_context(_probes(worker, life))
    notifier = Notifier(life.status, os.environ if options.exits else {})  # of a process that is ours alone
    outside.enter_context(life.emit.to(notifier))
    life.while_reloading = notifier.reloading
    watchdog = Watchdog(life.status, life.emit, threading.get_ident(), lambda: _stepping(life), on_look=notifier.look)
    outside.callback(watchdog.stop)
    watchdog.start()
    if options.signals:
        doom = _Doom(life) if options.exits else None
        outside.enter_context(signals.installed(asyncio.get_running_loop(), _actions(life, doom)))


def _watch_for_killers(worker: Worker, life: Life, outside: ExitStack) -> None:
    """In a process that is ours alone: what a crash leaves behind, its signals and ``os._exit``, belong to the process."""
    config, flush = worker.config, life.on_second
    at_once = config.concurrency * (config.batch.size if written(type(worker).process_batch) else 1)
    whose = f"{config.broker.display_url} {config.worker_name}"
    watching = suspects.watching(
        runtime_file.lasting_directory(), whose, slots=LEAST_NOTED + MOST_NOTED_FOR_EACH * at_once, emit=life.emit
    )
    life.suspects = outside.enter_context(watching)

    def every_second() -> None:
        flush()
        life.suspects.beat()

    life.on_second = every_second


def _stepping(life: Life) -> Delivery | None:
    return None if life.shift is None else life.shift.stepping


def _open_configured(config: WorkerConfig) -> Broker:
    url = config.broker.url.get_secret_value()
    return open_broker(url, config=config)


def _open_store(config: WorkerConfig) -> Broker:
    url = config.dedup.store_url
    if url is None:
        raise LifecycleError("dedup.store_url is not set")
    return open_broker(url.get_secret_value(), config=config)


def _probes(worker: Worker, life: Life) -> AbstractContextManager[str]:
    """The worker's routes, served while entered; their URL."""
    return served(
        worker.config,
        lambda host, port: HttpServer(host, port, status=life.status, control=life, emit=life.emit),
        life.emit,
    )


def _actions(life: Life, doom: _Doom | None) -> dict[int, signals.Action]:
    loop = asyncio.get_running_loop()
    signalled: list[str] = []

    def stop(name: str) -> None:
        signalled.append(name)
        if len(signalled) > 1:
            loop.call_soon_threadsafe(life.hurry.set)
        life.request_stop(name)
        if doom is not None:
            doom.arm()

    actions: dict[int, signals.Action] = {int(number): partial(stop, number.name) for number in signals.STOP}
    actions |= {int(number): lambda: _soon(loop, life.reload) for number in signals.reload_signals()}
    actions[int(signal.SIGUSR2)] = lambda: _tell_what_runs(life)
    return actions


def _soon(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(action)


def _tell_what_runs(life: Life) -> None:
    rows = [f"{r.message_id} from {r.queue}, attempt {r.attempt}, {r.seconds:.1f} s" for r in life.status.running()]
    life.emit(Notice(detail=f"running: {'; '.join(rows) or 'nothing'}"))
    faulthandler.dump_traceback(all_threads=True)


class _Doom:
    """The end of a process that cannot end by itself: at the drain deadline, whatever still runs."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._timer: threading.Timer | None = None

    def arm(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._life.drain_timeout, self._fire)
            self._timer.daemon = True
            self._timer.start()

    def _fire(self) -> None:
        with _leaving:
            if self._life.state not in (WorkerState.STOPPED, WorkerState.ERROR):
                self._leave()

    def _leave(self) -> None:
        life = self._life
        lastly = threading.Timer(LAST_WORDS_SECONDS, os._exit, (75,))  # if nobody reads what is told now
        lastly.daemon = True
        lastly.start()
        running = life.status.running()
        if life.drained is None and running:
            ids, ages = [row.message_id for row in running[:100]], [round(row.seconds, 3) for row in running[:100]]
            life.emit(DrainReleased(count=len(running), message_ids=ids, ages=ages))
        life.exit_code = 75
        life.ended()
        _leave(75)


def _something_never_ends(life: Life) -> bool:
    stuck = life.engine is not None and life.engine.lanes.stuck
    return bool(stuck or busy_threads())


def _leave(code: int) -> Any:
    lastwords.leave_quietly()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)
