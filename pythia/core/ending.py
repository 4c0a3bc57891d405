"""The steps of a stop, and of a start that did not succeed: drain, ``on_shutdown``, let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from pythia.core.drain import drain
from pythia.core.events import TaskFailed, WorkerStopping
from pythia.core.life import Life, inside
from pythia.core.state import WorkerState
from pythia.core.status import Connection

LEAST_FOR_SHUTDOWN_SECONDS = 0.5
LAST_WORDS_SECONDS = 1.0


async def finish(life: Life) -> None:
    """Finish what is held within the deadline; nothing begins any more."""
    life.drain_began = life.stopwatch()
    in_flight = 0 if life.engine is None else life.engine.holding
    life.emit(WorkerStopping(cause=life.stop_cause or ("failed" if life.error else "end"), in_flight=in_flight))
    if life.engine is None or life.shift is None:
        return
    life.drained = await drain(life.engine, life.shift, life.drain_timeout, life.hurry)
    if not life.drained.clean:
        life.exit_code = life.exit_code or 75
    await life.engine.close(_left(life, 0.0) / 4 if life.drained.abandoned else 1.0)


async def shut_down(life: Life) -> None:
    """``on_shutdown`` if ``on_startup`` completed, then the exit stack, then the adopted tasks. Errors are told."""
    token = inside.set(life)
    try:
        if life.status.started_up:
            await _told(life, "on_shutdown", life.worker.on_shutdown)
        await _told(life, "exit_stack", life.exit_stack.aclose)
    finally:
        inside.reset(token)
    await life.adoption.cancel()


async def release(life: Life) -> None:
    """Let go of the broker, the tending tasks, the loop."""
    for task in life.tending:
        task.cancel()
    if life.tending:
        await asyncio.wait(life.tending, timeout=LAST_WORDS_SECONDS)
    life.tending.clear()
    for broker in reversed(life.stores):
        await _told(life, "closing the broker", broker.close)
    life.stores.clear()
    life.status.running = tuple
    life.status.connection = Connection(connected=False, since=time.time())


async def give_up_start(life: Life) -> None:
    """Somebody asked to stop before the worker was running: undo what was done; STOPPED when this returns."""
    if life.state is not WorkerState.INITIALIZING:
        life.move(WorkerState.STOPPING)
    try:
        await shut_down(life)
    finally:
        await release(life)
        life.move(WorkerState.STOPPED)


async def fail_start(life: Life, error: BaseException) -> None:
    """The start failed: undo what was done; the state is ERROR when this returns."""
    life.failed(error)
    try:
        await shut_down(life)
    finally:
        await release(life)
        life.finished()


async def cut_short(life: Life) -> None:
    """Whatever a stop left undone, because it was cancelled or a manager's code raised: what is held comes again. STOPPED
    when this returns; after an orderly stop it does nothing."""
    if life.state is WorkerState.STOPPED:
        return
    if life.engine is not None:
        await life.engine.close()
    await life.adoption.cancel()
    await release(life)
    if life.state is not WorkerState.STOPPING:
        life.move(WorkerState.STOPPING)
    life.move(WorkerState.STOPPED)


async def _told(life: Life, where: str, hook: Callable[[], Awaitable[object]]) -> None:
    """Await a hook within what is left of the deadline; whatever it raises, the worker still stops."""
    cancels = _cancels()
    try:
        async with asyncio.timeout(_left(life, LEAST_FOR_SHUTDOWN_SECONDS)):
            await hook()
    except BaseException as error:  # a hook may raise anything, SystemExit included
        if isinstance(error, asyncio.CancelledError) and _cancels() > cancels:
            raise  # the stop itself was cancelled; without that, the hook awaited a task that it had cancelled
        life.emit(TaskFailed(where=where, error=error))


def _cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _left(life: Life, least: float) -> float:
    began = life.stopwatch() if life.drain_began is None else life.drain_began
    return max(least, began + life.drain_timeout - life.stopwatch())
