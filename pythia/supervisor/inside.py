"""Whether this process is one that a supervisor started: such a one starts none of its own."""

from __future__ import annotations

_here: list[bool] = []


def mark() -> None:
    """This is one."""
    _here.append(True)


def is_child() -> bool:
    """Whether this is one."""
    return bool(_here)
