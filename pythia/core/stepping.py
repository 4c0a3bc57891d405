"""Runs a handler in a context of its own, inside the long-lived task of its lane."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import copy_context
from types import CoroutineType, coroutine
from typing import Any

from pythia.core.context import Current, current
from pythia.core.middleware import Call
from pythia.core.shift import Shift


@coroutine
def drive(handler: Call, argument: Any, handled: Current, shift: Shift) -> Generator[Any, None, Any]:
    """Await ``handler(argument)`` with every step run in one fresh context, so that no context variable leaks into the next
    message, and in which ``handled`` is the current one.

    ``shift.stepping`` names the delivery while one of its steps runs: whoever watches the loop from outside sees which
    handler blocks it. Cancellation and other exceptions thrown at the waiting task reach the coroutine.
    """
    run, delivery = copy_context().run, handled.delivery
    coro: Coroutine[Any, Any, Any] | None = None
    error: BaseException | None = None
    while True:
        shift.stepping = delivery
        try:
            if coro is None:
                coro, awaited = run(_begin, handler, argument, handled)
            elif error is None:
                awaited = run(coro.send, None)
            else:
                awaited = run(coro.throw, error)
        except StopIteration as stop:
            return stop.value
        except GeneratorExit as error_of_handler:
            raise RuntimeError("the handler raised GeneratorExit") from error_of_handler
        finally:
            shift.stepping = None
        error = None
        try:
            yield awaited
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as thrown:  # noqa: BLE001 - whatever is thrown belongs to the coroutine
            error = thrown


def _begin(handler: Call, argument: Any, handled: Current) -> tuple[Coroutine[Any, Any, Any], Any]:
    """The handler's coroutine, after its first step, and what it waits for; StopIteration when it waited for nothing."""
    current.set(handled)
    try:
        made = handler(argument)
    except StopIteration as error:  # of a plain function: it has returned nothing
        raise RuntimeError("the handler raised StopIteration") from error
    coro = made if type(made) is CoroutineType else _awaited(made)
    return coro, coro.send(None)


async def _awaited(made: Any) -> Any:
    return await made
