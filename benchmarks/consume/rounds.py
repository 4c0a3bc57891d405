"""Interleaved rounds: everybody runs once in each, so that a busy machine slows all alike; ratios are taken within a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

Figures = dict[str, float]  # rate: messages a second; cpu: µs of processor time a message; rss: MB
Run = Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Contest:
    """Who does the same work on the same queue."""

    broker: str
    workload: str
    contestants: Mapping[str, Run]


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured: for each contestant, its figures of each round; None: it did not run to the end in that one."""

    broker: str
    workload: str
    rounds: Mapping[str, list[Figures | None]] = field(default_factory=dict)

    def median(self, name: str, figure: str) -> float | None:
        """Of all rounds; None without any."""
        seen = [figures[figure] for figures in self.rounds.get(name, ()) if figures is not None and figure in figures]
        return median(seen) if seen else None

    def ratio(self, one: str, other: str, figure: str) -> float | None:
        """The median of ``one``'s figure over ``other``'s, each pair from the same round."""
        pairs = zip(self.rounds.get(one, ()), self.rounds.get(other, ()), strict=False)
        found = [a[figure] / b[figure] for a, b in pairs if a and b and b.get(figure)]
        return median(found) if found else None


def held(contest: Contest, rounds: int, tell: Callable[[str], None]) -> Result:
    """Hold it. Who fails is told of in one line, and left out of that round."""
    seen: dict[str, list[Figures | None]] = {name: [] for name in contest.contestants}
    for number in range(rounds):
        for name, run in contest.contestants.items():
            try:
                figures: Figures | None = run()
            except Exception as error:  # noqa: BLE001 - a broker that is absent, a peer that cannot be installed
                tell(f"{contest.broker}, {contest.workload}: {name} did not run: {error}")
                figures = None
            seen[name].append(figures)
        tell(f"{contest.broker}, {contest.workload}: round {number + 1} of {rounds}")
    return Result(contest.broker, contest.workload, seen)
