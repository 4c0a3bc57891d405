"""Where a handler's code runs: on the loop, or in a thread for a plain ``def``."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pythia.core.middleware import Call
from pythia.errors import ConfigError

if TYPE_CHECKING:
    from pythia.core.worker import Worker

HANDLER_THREAD = "pythia-handler"
MOST_THREADS = 4096  # lanes bound the running ones; the rest are abandoned, by a timeout, and end when they end

M = TypeVar("M", bound=Callable[..., Any])

_busy: set[int] = set()  # idents of the threads in which a handler runs


def default(method: M) -> M:
    """Mark a method of ``Worker`` that does nothing until a subclass writes its own."""
    vars(method)["_pythia_default"] = True
    return method


def written(method: Callable[..., Any]) -> bool:
    """Whether a subclass wrote this method."""
    return not getattr(method, "_pythia_default", False)


def handler_of(worker: Worker) -> tuple[bool, Call]:
    """Whether the worker takes batches, and its handler as a coroutine function.

    Raises:
        ConfigError: an execution mode that the handler cannot have.
    """
    cls = type(worker)
    batched = written(cls.process_batch)
    method: Callable[[Any], Any] = worker.process_batch if batched else worker.process_message
    plain = not inspect.iscoroutinefunction(method)
    mode = worker.execution or ("thread" if plain else "asyncio")
    match mode:
        case "asyncio" if not plain:
            return batched, method
        case "thread":
            return batched, _in_thread(cls.__name__, method, plain=plain)
        case "asyncio":
            raise ConfigError(f'{cls.__name__}: execution = "asyncio" needs an `async def` handler', key="execution")
        case _:
            raise ConfigError(
                f'{cls.__name__}: execution = {mode!r} is not available in this version; use "asyncio" or "thread"',
                key="execution",
            )


def busy_threads() -> int:
    """How many handlers run in threads of this process at this moment, abandoned ones included."""
    return len(_busy)


def _in_thread(name: str, method: Callable[[Any], Any], *, plain: bool) -> Call:
    """Run ``method`` in a thread, with the message's context; an ``async def`` gets a loop of its own there.

    A cancelled call leaves its thread behind: a thread cannot be killed, so its slot goes to another.
    """
    pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix=f"{HANDLER_THREAD}-{name}")

    def call(message: Any) -> Any:
        _busy.add(threading.get_ident())
        try:
            return method(message) if plain else asyncio.run(method(message))
        except (
            StopIteration,
            GeneratorExit,
        ) as error:  # a future cannot carry them: they would end whoever waits for it
            raise RuntimeError(f"the handler raised {type(error).__name__}") from error
        finally:
            _busy.discard(threading.get_ident())

    async def handler(message: Any) -> Any:
        context = contextvars.copy_context()
        value = await asyncio.get_running_loop().run_in_executor(pool, partial(context.run, call, message))
        return await value if inspect.isawaitable(value) else value  # a decorator hid an `async def` in a `def`

    return handler
