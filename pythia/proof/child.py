"""One worker process of a run: the user's class as ``pythia run`` would run it, with a recorder around its handler.

What it is to do comes by standard input, so that no address with a password is among a process's arguments.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pythia import signals
from pythia.config import set_config_file, set_process_flags
from pythia.core.middleware import Call
from pythia.core.outcome import Outcome
from pythia.core.worker import Worker
from pythia.message import Message
from pythia.proof.history import ending_of
from pythia.proof.ledger import Ledger, digest_of
from pythia.service import RunOptions, life_of, run
from pythia.target import load_target, make

_BY_OUTCOME = {"ack": "finished", "drop": "dropped", "dead_letter": "rejected", "retry": "failed", "defer": "deferred"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker process is told: ``module:attribute``, its folder, and the flags that win over its configuration."""

    target: str
    folder: str
    flags: Mapping[str, Any]
    config_file: str | None = None

    def dumps(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Recorder:
    """The outermost middleware: notes what each handler begins, how it ends, and when the broker had settled it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._numbers = count()
        self._open: dict[
            int, tuple[Message[Any], int]
        ] = {}  # by id(message); the message is kept, so that no other has its

    async def __call__(self, message: Any, call_next: Call) -> Any:
        messages = message if isinstance(message, tuple) else (message,)
        numbers = [self._begin(one) for one in messages]
        try:
            value = await call_next(message)
        except BaseException as error:
            self._end(messages, numbers, ending_of(error))
            raise
        self._end(messages, numbers, "finished")
        return value

    def settled(self, message: Message[Any], outcome: Outcome) -> None:
        """The broker has carried out what became of ``message``."""
        known, number = self._open.pop(id(message), (None, 0))
        if known is message:
            self._ledger.note("settled", number, outcome.kind)

    def _begin(self, message: Message[Any]) -> int:
        number = next(self._numbers)
        self._open[id(message)] = (message, number)
        self._ledger.note("started", number, message.id, message.attempt, digest_of(message.raw))
        return number

    def _end(self, messages: Sequence[Message[Any]], numbers: Sequence[int], ending: str) -> None:
        for message, number in zip(messages, numbers, strict=True):
            said = getattr(message._handle, "outcome", None)  # noqa: SLF001 - what the handler itself said early counts
            early = None if said is None else _BY_OUTCOME.get(said.kind)
            self._ledger.note(early or ending, number)


def work(task: Task) -> int:
    """Run the worker until it is told to stop; its exit code."""
    set_config_file(task.config_file)
    set_process_flags(task.flags)
    worker = make(load_target(task.target))
    ledger = Ledger(Path(task.folder), f"handler-{os.getpid()}.log")
    ledger.note("up")
    recorder = Recorder(ledger)
    worker.middlewares = (recorder, *worker.middlewares)
    life_of(worker).on_running = lambda: _listen(worker, recorder)
    return run(worker, RunOptions(http=False))


def _listen(worker: Worker, recorder: Recorder) -> None:
    """RUNNING, and no handler has begun: from now on each settlement is noted, and then told to the user's own hook."""
    shift = life_of(worker).shift
    assert shift is not None
    theirs = shift.on_outcome

    def told(message: Message[Any], outcome: Outcome) -> None:
        recorder.settled(message, outcome)
        if theirs is not None:
            theirs(message, outcome)

    shift.on_outcome = told


def main() -> int:
    """The process's life. It ends when its parent does, however that ends."""
    with signals.early():
        task = Task(**json.loads(sys.stdin.readline()))
        _end_with_parent(os.getppid())
        return work(task)


def _end_with_parent(parent: int) -> None:
    """Nobody is to be left behind when whoever verifies is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(70)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
