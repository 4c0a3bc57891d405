"""Where the processor time of a process goes: which code its main thread executes, asked a thousand times a second of CPU time."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from types import FrameType

PACE_SECONDS = 0.001
_OURS = ("/pythia/", "/benchmarks/consume/")
_REST = "asyncio"


class Sampler:
    """From ``start`` to ``stop``. A sample counts for the innermost function of ours, with all that it calls of others'."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()  # module and function

    def start(self) -> None:
        """In the main thread."""
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, PACE_SECONDS, PACE_SECONDS)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def rows(self) -> Sequence[tuple[str, str, int]]:
        """Module, function and samples, the most first."""
        return [(*place, count) for place, count in self.seen.most_common()]

    def _look(self, _: int, frame: FrameType | None) -> None:
        self.seen[_place(frame)] += 1


def _place(frame: FrameType | None) -> tuple[str, str]:
    while frame is not None:
        file = frame.f_code.co_filename
        for ours in _OURS:
            before, found, module = file.rpartition(ours)
            if found and "site-packages" not in before:
                return f"{ours[1:]}{module}".removesuffix(".py"), frame.f_code.co_qualname
        frame = frame.f_back
    return _REST, ""
