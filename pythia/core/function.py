"""A worker from a function: ``@handler("orders")``. The function stays callable, for tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from pythia.core.worker import Worker

F = TypeVar("F", bound=Callable[..., Any])


def handler(*queues: str, **class_attributes: Any) -> Callable[[F], F]:
    """Make a function the ``process_message`` of a ``Worker`` subclass named after it, found as ``function.worker_class``.

    ``class_attributes`` are those of ``Worker`` (``concurrency=20``, ``retry=RetryPolicy(...)``).

    Raises:
        TypeError: a queue that is no name (``@handler`` without parentheses, say), or an attribute that ``Worker`` has not.
    """
    if not all(isinstance(queue, str) for queue in queues):  # a function, where ``handler`` was not called
        raise TypeError('say which queue: @handler("orders")')
    unknown = sorted(name for name in class_attributes if name not in Worker.__annotations__)
    if unknown:
        raise TypeError(f"a Worker has no attribute {', '.join(unknown)}")

    def decorate(function: F) -> F:
        attributes = dict(class_attributes)
        if len(queues) > 1:
            attributes["queues"] = queues
        elif queues:
            attributes["queue"] = queues[0]
        attributes["process_message"] = _method(function)
        attributes["__module__"] = function.__module__
        attributes["__doc__"] = function.__doc__
        worker = type(function.__name__, (Worker,), attributes)
        cast("Any", function).worker_class = worker
        return function

    return decorate


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a method, of the same kind and with the same annotations."""
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def process_message(self: Worker, message: Any) -> Any:  # noqa: ARG001 - a function has no self
            return await function(message)

        return process_message

    @wraps(function)
    def process_message_in_thread(self: Worker, message: Any) -> Any:  # noqa: ARG001 - a function has no self
        return function(message)

    return process_message_in_thread
