"""Watches source files for ``pythia run --reload``: looks at their times twice a second, which works on every file system."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_SECONDS = 0.5
_SUFFIXES = (".py", ".toml", ".env")
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})

Times = Mapping[str, tuple[int, int]]  # path → (time of change in ns, size)


class Watch:
    """While entered, calls ``changed`` with a path once files have changed and are quiet again. On a thread of its own."""

    def __init__(self, directories: Sequence[Path], changed: Callable[[Path], None], seconds: float = _SECONDS) -> None:
        self._directories = directories
        self._changed = changed
        self._seconds = seconds
        self._over = threading.Event()
        self._known = times(directories)
        self._thread = threading.Thread(target=self._look, name="pythia-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        last = self._known
        while not self._over.wait(self._seconds):
            now = times(self._directories)
            if now != self._known and now == last:  # an editor, or a checkout, is done
                different = difference(self._known, now)
                self._known = now
                self._changed(Path(different))
            last = now


def times(directories: Sequence[Path]) -> Times:
    """Every source file below the directories; hidden ones and installed packages apart."""
    return {entry.path: _stamp(entry) for directory in directories for entry in _files(str(directory))}


def difference(before: Times, after: Times) -> str:
    """One path that was changed, made or removed."""
    return min(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def _files(directory: str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(directory))
    except OSError:  # it is gone, or not for us
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".") and entry.name not in _SKIPPED:
                yield from _files(entry.path)
        elif entry.name.endswith(_SUFFIXES):
            yield entry


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size
