"""What passes between coroutines and the writer thread."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pythia.brokers.sqlite.holder import Holder
from pythia.brokers.sqlite.store import Store


@dataclass(frozen=True, slots=True)
class Setback:
    """Why a call came to nothing; ``in_doubt``: its change may be there all the same."""

    error: Exception
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Something to be written. ``landed`` and ``failed`` are called in the writer thread, once the outcome is known."""

    work: Callable[[Store], Any]
    landed: Callable[[Any], None]
    failed: Callable[[Setback], None]


def together(changes: Sequence[Change]) -> Change:
    """One change made of several: all of them land, in order, or none does."""

    def landed(values: Sequence[Any]) -> None:
        for change, value in zip(changes, values, strict=True):
            change.landed(value)

    def failed(setback: Setback) -> None:
        for change in changes:
            change.failed(setback)

    return Change(lambda store: [change.work(store) for change in changes], landed, failed)


@dataclass(frozen=True, slots=True)
class Question:
    """Something to be read, outside of any write transaction."""

    work: Callable[[Store], Any]
    landed: Callable[[Any], None]
    failed: Callable[[Setback], None]


class Answer:
    """A coroutine's wait for the thread.

    ``unclaimed`` is called, from any thread, with a good answer that reaches nobody: the wait was cancelled before it came,
    or between its coming and the coroutine's next step.
    """

    __slots__ = ("future", "loop", "unclaimed")

    def __init__(self, unclaimed: Callable[[Any], object] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.unclaimed = unclaimed

    async def come(self) -> Any:
        """What the thread answers."""
        try:
            return await self.future
        except asyncio.CancelledError:
            if not self.future.cancelled() and self.future.exception() is None:  # it had come
                self.abandon(self.future.result(), None)
            raise

    def deliver(self, value: Any, error: Exception | None) -> None:
        """In the event loop: hand over."""
        if self.future.done():
            self.abandon(value, error)
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)

    def abandon(self, value: Any, error: Exception | None) -> None:
        """Nobody waits: undo what would stay behind."""
        if error is None and self.unclaimed is not None:
            self.unclaimed(value)


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """A consumer that waits for up to ``limit`` deliveries."""

    holder: Holder
    limit: int
    answer: Answer


@dataclass(frozen=True, slots=True, eq=False)
class Stop:
    """The end of the thread, after all that was asked before it."""

    answer: Answer | None


Call = Change | Question | Waiter | Stop

_Told = tuple[Answer, Any, Exception | None]


class Outbox:
    """Answers on their way: one hop into each event loop for all that a transaction settled."""

    def __init__(self) -> None:
        self._told: dict[asyncio.AbstractEventLoop, list[_Told]] = defaultdict(list)

    def put(self, answer: Answer, value: Any, error: Exception | None = None) -> None:
        self._told[answer.loop].append((answer, value, error))

    def send(self) -> None:
        """Deliver everything; what was meant for a loop that is closed by now is abandoned."""
        told, self._told = self._told, defaultdict(list)
        for loop, answers in told.items():
            try:
                loop.call_soon_threadsafe(_deliver, answers)
            except RuntimeError:  # the loop is closed
                for answer, value, error in answers:
                    answer.abandon(value, error)


def _deliver(answers: Iterable[_Told]) -> None:
    for answer, value, error in answers:
        answer.deliver(value, error)
