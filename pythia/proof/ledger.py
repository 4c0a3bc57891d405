"""Where a run's processes write down what they see: files for appending, one ``write`` a line.

A line is whole or absent, whatever happens to its writer: what was written survives the process. (Not the machine: nothing
waits for the disk here.) ``pythia.proof.checker`` tells what the lines are.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

LONG_SECONDS = 0.5
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def digest_of(body: bytes) -> str:
    """What a body is recognised by."""
    return blake2b(body, digest_size=8).hexdigest()


class Ledger:
    """One file of one process. Safe for use by several threads."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = os.open(folder / name, _FLAGS, 0o644)

    def note(self, *words: object) -> None:
        """Append the words and the time."""
        text = " ".join(map(str, words))
        os.write(self._file, f"{text} {time.monotonic():.6f}\n".encode())

    def note_without_time(self, *words: object) -> None:
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())

    def tell(self, what: str, **facts: Any) -> float:
        """Append a row of JSON with the time, which is returned."""
        now = time.monotonic()
        os.write(self._file, f"{json.dumps({'what': what, 't': round(now, 6), **facts})}\n".encode())
        return now

    def close(self) -> None:
        os.close(self._file)


class Following:
    """Reads what handlers write while they write it. ``seen``: ids whose handler came to any end; ``over``: for the last time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at: dict[Path, tuple[int, bytes]] = {}
        self._open: dict[tuple[Path, bytes], tuple[bytes, float]] = {}
        self._long: dict[bytes, tuple[int, float]] = {}  # runs of half a second and more
        self.seen: set[bytes] = set()
        self.over: set[bytes] = set()
        self.begun = 0
        self.last_start: dict[int, float] = {}  # of each process

    def look(self) -> Following:
        """Read what is new."""
        for path in self._folder.glob("handler-*.log"):
            read, rest = self._at.get(path, (0, b""))
            with path.open("rb") as file:
                file.seek(read)
                news = file.read()
            *lines, last = (rest + news).split(b"\n")
            self._at[path] = (read + len(news), last)
            self._take(path, lines)
        return self

    def run_of(self, name: bytes) -> tuple[int, float]:
        """Which process a message kept, and for how long; of short ones nothing is kept."""
        return self._long.get(name, (0, 0.0))

    def _take(self, path: Path, lines: Sequence[bytes]) -> None:
        for line in lines:
            words = line.split(b" ")
            if words[0] == b"started":
                self._open[path, words[1]] = (words[2], float(words[-1]))
                self.begun += 1
                self.last_start[_pid(path)] = float(words[-1])
            elif words[0] not in (b"settled", b"up"):
                name, began = self._open.pop((path, words[1]))
                self.seen.add(name)
                if (seconds := float(words[-1]) - began) >= LONG_SECONDS:
                    self._long[name] = (_pid(path), seconds)
                if words[0] in (b"finished", b"rejected", b"dropped"):
                    self.over.add(name)


def _pid(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
