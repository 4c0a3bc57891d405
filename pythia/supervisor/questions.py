"""Questions that every process is asked at once: answered when all have answered, or when it is late."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pythia.supervisor.process import Living
from pythia.supervisor.slot import Seen

Answers = dict[int, dict[str, Any]]  # by pid


@dataclass(slots=True)
class _Question:
    number: int
    late_at: float
    future: Future[list[Seen]]
    waiting: set[int]  # pids
    answers: Answers = field(default_factory=dict)


class Questions:
    """Those that are open. All of it on the loop's thread; ``look`` tells how every slot is, with its answer."""

    def __init__(self, look: Callable[[Answers], list[Seen]]) -> None:
        self._look = look
        self._open: list[_Question] = []
        self._asked = 0

    def ask(self, what: str, living: Iterable[Living], late_at: float, future: Future[list[Seen]]) -> None:
        """Ask those that have introduced themselves, listen, and are not on their way out if that matters."""
        self._asked += 1
        request = json.dumps({"id": self._asked, "do": what}).encode()
        waiting = set()
        for one in living:
            if one.worker is None or one.closed or one.handle.wire.clogged or (what == "reload" and one.stopping):
                continue
            one.handle.wire.send(request)
            waiting.add(one.pid)
        self._open.append(_Question(self._asked, late_at, future, waiting))

    def answered(self, pid: int, message: dict[str, Any]) -> None:
        for question in self._open:
            if question.number == message["id"] and pid in question.waiting:
                question.waiting.discard(pid)
                question.answers[pid] = message

    def gone(self, pid: int) -> None:
        """It will not answer any more."""
        for question in self._open:
            question.waiting.discard(pid)

    def close(self, now: float) -> None:
        """Answer those that nobody is waited for any more, and those that are late."""
        done = [question for question in self._open if not question.waiting or now >= question.late_at]
        self._open = [question for question in self._open if question not in done]
        for question in done:
            answer(question.future, self._look(question.answers))

    @property
    def soonest(self) -> float | None:
        """When the next one is late."""
        return min((question.late_at for question in self._open), default=None)


def answer(future: Future[Any], value: Any) -> None:
    """Unless nobody waits any more, or it was answered."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_result(value)
