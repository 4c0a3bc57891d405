"""The points that a message passes in one process, in words and in order; and the end of that process at one of them."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple


class Point(NamedTuple):
    """``nth``: which passing of several of the same name."""

    name: str
    nth: int = 1

    def __str__(self) -> str:
        return self.name if self.nth == 1 else f"{self.name} ({self.nth})"


class Points:
    """Of this process. At ``deadly`` it is killed as from outside: nothing is flushed, nothing is said, no ``finally`` runs."""

    def __init__(self, deadly: Point | None = None, *, leaving_out: str = "") -> None:
        """``leaving_out``: points with this word in their names, which are passed by chance, do not count."""
        self.passed: list[Point] = []
        self._leaving_out = leaving_out
        self._deadly = deadly
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()  # the SQLite writer and the Redis keeper are threads
        self._over = False
        self.on_over: Callable[[], object] = lambda: None

    def passing(self, name: str) -> None:
        """Somebody is at this point."""
        with self._lock:
            if self._over or (self._leaving_out and self._leaving_out in name):
                return
            self._counts[name] += 1
            point = Point(name, self._counts[name])
            if point == self._deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            self.passed.append(point)

    def passing_first(self, name: str) -> None:
        """The same for what happens again and again, with or without a message: its first time counts."""
        if not self._counts[name]:
            self.passing(name)

    def over(self) -> None:
        """The message has come to its end: what is passed from now on has nothing to do with it."""
        self._over = True
        self.on_over()
