"""What the handlers of a test's own worker write down, and how it is read back.

A line is one ``write`` to a file opened for appending: whole, whatever happens to its writer. Times are of the machine's
monotonic clock, which all its processes share. Nothing is judged here: that is ``pythia.proof.checker``'s.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

HANDLER = """
import asyncio, os, time
from pythia import Reject, RetryPolicy, Worker

LEDGER = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def note(verb, message):
    line = f"{verb} {message.id} {message.attempt} {os.getpid()} {time.monotonic():.6f}\\n"
    os.write(LEDGER, line.encode())
"""
"""How a worker's module begins."""


class Effect(NamedTuple):
    """A line of a handler's: ``start``, and then ``end``, ``fail`` or ``reject``, unless it was interrupted."""

    verb: str
    id: str
    attempt: int
    pid: int
    at: float


def effects_in(folder: Path) -> list[Effect]:
    """All that was written down there."""
    path = folder / "effects"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Effect(verb, name, int(attempt), int(pid), float(at)) for verb, name, attempt, pid, at in rows]


class Counting:
    """How many lines of each verb there are, counted while they are written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "effects"
        self._read = 0
        self._rest = b""
        self.verbs: Counter[str] = Counter()

    def look(self) -> Counter[str]:
        """Count what is new."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                news = file.read()
            self._read += len(news)
            *lines, self._rest = (self._rest + news).split(b"\n")
            self.verbs.update(line.partition(b" ")[0].decode() for line in lines)
        return self.verbs
