"""The request to stop: made when ``stop()`` is called, from any thread, task, handler or signal handler; awaiting it is optional."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from types import TracebackType
from typing import Any


class StopRequest(Coroutine[Any, Any, None]):
    """Awaits STOPPED. It is a coroutine object, so that ``asyncio.create_task(worker.stop())`` takes it, and unlike one it
    does not complain when nobody awaits it. Cancelling the wait does not take the request back."""

    __slots__ = ("_done", "_inside", "_waiting")

    def __init__(self, done: Future[None], inside: Callable[[], bool]) -> None:
        self._done = done
        self._inside = inside  # the caller is part of what is being stopped: it must not wait for itself
        self._waiting: Coroutine[Any, Any, None] | None = None

    async def _wait(self) -> None:
        if not self._inside():
            await asyncio.shield(asyncio.wrap_future(self._done))

    def _coroutine(self) -> Coroutine[Any, Any, None]:
        if self._waiting is None:
            self._waiting = self._wait()
        return self._waiting

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine().send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        error = typ if isinstance(typ, BaseException) else typ() if val is None else typ(val)
        return self._coroutine().throw(error.with_traceback(tb))

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
