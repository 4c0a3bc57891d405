"""Tasks born during ``on_startup`` belong to the worker: kept alive, their exceptions told, cancelled after ``on_shutdown``."""

from __future__ import annotations

import asyncio
import contextvars
from types import TracebackType
from typing import Any, Self

from pythia.core.events import Observer, TaskFailed

LAST_WORDS_SECONDS = 1.0

_adopting: contextvars.ContextVar[Adoption | None] = contextvars.ContextVar("pythia_adopting", default=None)


class Adoption:
    """While entered, adopts every task that is created in this context, and in none other, of the running loop."""

    def __init__(self, emit: Observer) -> None:
        self._emit = emit
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.open = True
        self.former = self._loop.get_task_factory()
        self._loop.set_task_factory(self._make)
        self._token = _adopting.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        _adopting.reset(self._token)
        self.open = False
        factory = self._loop.get_task_factory()
        while isinstance(adoption := getattr(factory, "__self__", None), Adoption) and not adoption.open:
            factory = adoption.former  # ours, and that of another worker that began before us and was done meanwhile
        self._loop.set_task_factory(factory)

    async def cancel(self) -> None:
        """Cancel what still runs, and give it a second for its last words."""
        tasks = {task for task in self._tasks if not task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_SECONDS)

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        former = self.former
        task: Any = asyncio.Task(coro, loop=loop, **options) if former is None else former(loop, coro, **options)
        if _adopting.get() is self:
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return task  # type: ignore[no-any-return]  # a task factory's product

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._emit(TaskFailed(where=f"task {task.get_name()}", error=error))
