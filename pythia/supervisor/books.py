"""The numbers of a service: what processes that are gone had counted, and how often one was replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pythia.supervisor import merging
from pythia.supervisor.merging import Snapshot
from pythia.supervisor.policy import Reason


@dataclass(frozen=True, slots=True)
class Totals:
    """What the metrics are made of, at one moment."""

    gone: Snapshot
    living: Sequence[Snapshot]
    restarts: Mapping[tuple[str, str], int]  # (worker, reason)


class Books:
    """Kept on the loop's thread; ``totals`` are values, for any."""

    def __init__(self) -> None:
        self._gone: Snapshot = merging.NOTHING
        self._restarts: Counter[tuple[str, str]] = Counter()

    def open(self, worker: str) -> None:
        """A worker has told its name: its first replacement is to be seen as an increase."""
        for reason in get_args(Reason):
            self._restarts.setdefault((worker, reason), 0)

    def keep(self, last: Snapshot | None) -> None:
        """The last that a process said, which is gone; None: it never said anything."""
        if last is not None:
            self._gone = merging.kept(self._gone, last)

    def restarted(self, worker: str, reason: Reason) -> None:
        self._restarts[worker, reason] += 1

    def totals(self, living: Iterable[Snapshot | None]) -> Totals:
        said = [snapshot for snapshot in living if snapshot is not None]
        return Totals(self._gone, said, dict(self._restarts))
