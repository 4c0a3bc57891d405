"""What a process that dies by itself leaves behind, so that who comes after it can tell that from being killed.

Nobody is told how a process ended but its parent, and SIGKILL, a crash and ``os._exit`` run no code of ours. What they do
leave: a fatal signal has ``faulthandler`` write to a file that is open already; ``os._exit`` of this process is ours to wrap;
and the kernel counts whom it kills for want of memory. An end without any of these says nothing about the messages in hand.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_READ_BYTES = 4096
OUT_OF_MEMORY = "out of memory"

_noting: set[int] = set()  # the file that takes this process's last words, while there is one


@contextmanager
def noted(file: int) -> Iterator[None]:
    """While entered, a fatal signal's stack and an ``os._exit`` of this process are written to ``file`` first.

    The signals are those of ``faulthandler``: SIGSEGV, SIGFPE, SIGABRT, SIGBUS and SIGILL; its stacks go to ``file`` and
    not to stderr meanwhile. A forked child has neither: its end is not ours.
    """
    enabled, original = faulthandler.is_enabled(), os._exit
    noting = _exit_that_notes(file, original)
    faulthandler.enable(file)
    os._exit = noting  # type: ignore[assignment]  # it never returns either
    _noting.add(file)
    try:
        yield
    finally:
        _noting.discard(file)
        if os._exit is noting:
            os._exit = original
        faulthandler.disable()
        if enabled:
            with suppress(RuntimeError, ValueError, OSError):  # there is no stderr any more
                faulthandler.enable()


def _exit_that_notes(file: int, original: Callable[[int], Any]) -> Callable[[int], None]:
    owner = os.getpid()

    def _exit(status: int) -> None:
        if os.getpid() == owner and file in _noting:
            with suppress(OSError):
                os.write(file, f"os._exit({status})\n".encode())
        original(status)

    return _exit


def leave_quietly() -> None:
    """The process ends by our own decision, with ``os._exit``: no message is to blame."""
    _noting.clear()


def _in_child() -> None:
    if _noting:
        _noting.clear()
        faulthandler.disable()


os.register_at_fork(after_in_child=_in_child)


def cause_of(words: bytes) -> str | None:
    """The first line of what was left; None if nothing was."""
    first = words[:MOST_READ_BYTES].decode(errors="replace").strip().partition("\n")[0]
    return first.removeprefix("Fatal Python error: ") or None


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKills:
    """How many processes the kernel has killed for want of memory: of one control group (0: unknown), and of the host."""

    group: int = 0  # which group: its number, not used again while the machine runs
    in_group: int = 0
    on_host: int = 0

    def moved_since(self, before: OomKills) -> bool:
        """Whether somebody was killed meanwhile who may have been one of ours: the group knows better than the host."""
        if self.group and self.group == before.group:
            return self.in_group > before.in_group
        return self.on_host > before.on_host


class OomRecord:
    """Where the kernel counts; all zero where it does not (not Linux, an old kernel)."""

    def __init__(self, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self._host = proc / "vmstat"
        self._group = _counter_of(_read(proc / "self" / "cgroup"), groups)

    def read(self) -> OomKills:
        """The counts at this moment; some 50 µs."""
        on_host = _oom_kill(_read(self._host)) or 0
        in_group = None if self._group is None else _oom_kill(_read(self._group))
        if self._group is None or in_group is None:
            return OomKills(on_host=on_host)
        return OomKills(group=_number(self._group.parent), in_group=in_group, on_host=on_host)


def _counter_of(membership: str, groups: Path) -> Path | None:
    """The file of the control group that counts this process's memory; version 1 beside version 2 keeps it in version 1."""
    rows = [line.split(":", 2) for line in membership.splitlines() if line.count(":") >= 2]
    first = [
        groups / "memory" / path.lstrip("/") / "memory.oom_control" for _, names, path in rows if names == "memory"
    ]
    second = [groups / path.lstrip("/") / "memory.events" for number, _, path in rows if number == "0"]
    return next((file for file in (*first, *second) if file.exists()), None)


def _number(group: Path) -> int:
    try:
        return group.stat().st_ino
    except OSError:
        return 0


def _oom_kill(text: str) -> int | None:
    words = next((line.split() for line in text.splitlines() if line.startswith("oom_kill ")), None)
    return int(words[1]) if words and len(words) == 2 and words[1].isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
