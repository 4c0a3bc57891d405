"""Code around the handler: the first middleware is outermost, the handler innermost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

Call = Callable[[Any], Awaitable[Any]]


class Middleware(Protocol):
    """Sees decoded messages (with ``process_batch``: the tuple of them), the handler's value and its exceptions.

    It may raise any of those that a handler may. It cannot settle twice.
    """

    async def __call__(self, message: Any, call_next: Call) -> Any: ...


def compose(middlewares: Sequence[Middleware], handler: Call) -> Call:
    """``handler`` with every middleware around it."""
    call = handler
    for middleware in reversed(middlewares):
        call = partial(_through, middleware, call)
    return call


async def _through(middleware: Middleware, call_next: Call, message: Any) -> Any:
    return await middleware(message, call_next)
