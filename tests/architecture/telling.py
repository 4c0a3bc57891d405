"""How a check of ``./dev lint`` says what it found."""

from __future__ import annotations

from collections.abc import Iterable


def tell(problems: Iterable[str]) -> int:
    """Each on a line of its own; 1 if there was any."""
    found = list(problems)
    for problem in found:
        print(problem)
    return 1 if found else 0
