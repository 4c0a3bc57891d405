"""How ``pythia demo`` shows itself: a progress bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from pythia.cli.output import console, line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How far the work is."""

    total: int
    left: int
    attempts: int
    bytes: int
    dead: int
    seconds: float

    @property
    def rate(self) -> float:
        """Attempts a second."""
        return self.attempts / self.seconds if self.seconds > 0 else 0.0

    def facts(self) -> str:
        """The changing part of a line."""
        speed = self.bytes / 1e6 / self.seconds if self.seconds > 0 else 0.0
        return f"{speed:,.1f} MB/s, {self.rate:,.0f} messages/s, {self.dead:,} dead"


class Display(Protocol):
    """Where the demo speaks."""

    def say(self, text: str) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...


@contextmanager
def display(args: Namespace) -> Iterator[Display]:
    """The display that suits where the output goes. With ``--json`` stdout is the summary's alone, and stderr is used."""
    stream = sys.stderr if args.json else sys.stdout
    if not stream.isatty():
        yield _Lines(stream)
        return
    with _bar(args) as bar:
        yield _Terminal(bar, bar.add_task("verifying", total=None, facts=""))


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = time.monotonic() + LINE_SECONDS

    def say(self, text: str) -> None:
        print(line(text), file=self._stream, flush=True)

    def update(self, snapshot: Snapshot) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.say(f"{snapshot.total - snapshot.left:,} of {snapshot.total:,} files, {snapshot.facts()}")


class _Terminal:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def say(self, text: str) -> None:
        self._bar.console.print(line(text), markup=False, soft_wrap=True)

    def update(self, snapshot: Snapshot) -> None:
        done = snapshot.total - snapshot.left
        self._bar.update(self._task, total=snapshot.total, completed=done, facts=snapshot.facts(), refresh=True)


def _bar(args: Namespace) -> Progress:
    """Drawn by ``update``, without a thread of its own; gone at the end, when the table says it all."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    return Progress(*columns, console=console(args, stderr=args.json), transient=True, auto_refresh=False)
