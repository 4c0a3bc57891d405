"""Drives a handler's coroutine in a context of its own, inside the long-lived task of its lane."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any, TypeVar

from pythia.core.shift import Shift
from pythia.message import Delivery

T = TypeVar("T")


@coroutine
def drive(coro: Coroutine[Any, Any, T], context: Context, shift: Shift, delivery: Delivery) -> Generator[Any, None, T]:
    """Await ``coro`` with every step run in ``context``, so that no context variable leaks into the next message.

    ``shift.stepping`` names the delivery while one of its steps runs: whoever watches the loop from outside sees which
    handler blocks it. Cancellation and other exceptions thrown at the waiting task reach the coroutine.
    """
    run, error = context.run, None
    while True:
        shift.stepping = delivery
        try:
            awaited = run(coro.send, None) if error is None else run(coro.throw, error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a StopIteration's value is untyped
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
