"""What a history comes to, in figures: the verdict of ``pythia.proof.checker``, and three things it does not ask."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pythia.proof.checker import OVER, History, judge

_ADDED = (
    *("confirmed", "faults", "lost", "left", "dead_letters"),
    *("repeats", "unexplained", "invented", "silent", "ended"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """``left``: what the broker still holds in the end. ``recoveries``: seconds from each fault's end until the worker, or the
    one in its place, began a message that was published since: what it had in memory does not count. ``silent``: workers that began nothing more after the last fault. ``ended``: those that ended by
    themselves, and were started again. ``slowest``: from a message's confirmation to its end."""

    confirmed: int
    faults: int
    lost: int
    left: int
    dead_letters: int
    repeats: int
    unexplained: int
    invented: int
    silent: int
    ended: int
    slowest: float
    recoveries: Sequence[float]
    notes: Sequence[str] = ()

    @property
    def recovery_median(self) -> float:
        return sorted(self.recoveries)[len(self.recoveries) // 2] if self.recoveries else 0.0

    @property
    def recovery_slowest(self) -> float:
        return max(self.recoveries, default=0.0)

    def as_json(self) -> dict[str, Any]:
        """JSON has no infinity: never is null."""
        recoveries = [None if seconds == math.inf else round(seconds, 3) for seconds in self.recoveries]
        return asdict(self) | {"recoveries": recoveries}


def together(figures: Sequence[Figures]) -> Figures:
    """Those of several runs: counts added, recoveries side by side, the slowest message of all."""
    sums = {name: sum(getattr(one, name) for one in figures) for name in _ADDED}
    return Figures(
        **sums,
        slowest=max(one.slowest for one in figures),
        recoveries=[seconds for one in figures for seconds in one.recoveries],
        notes=[note for one in figures for note in one.notes],
    )


def figures_of(history: History, places: Mapping[int, int], *, counts_attempts: bool) -> Figures:
    """``places``: of each process. ``counts_attempts``: whether the handlers knew their attempt; if not, it is taken to be right."""
    if not counts_attempts:
        count_attempts(history)
    verdict = judge(history)
    flaws = verdict.flaws
    return Figures(
        confirmed=len(history.confirmed),
        faults=sum(verdict.faults.values()),
        lost=len(flaws["lost"]),
        left=sum(history.left.values()),
        dead_letters=len(history.dead),
        repeats=sum(verdict.duplicated.values()),
        unexplained=len(flaws["unexplained"]),
        invented=len(flaws["invented"]) + len(flaws["ghosts"]) + len(flaws["corrupt"]),
        silent=silent(history),
        ended=len(flaws["died"]),
        slowest=slowest_message(history),
        recoveries=list(recoveries(history, places)),
        notes=tuple(verdict.invalid),
    )


def count_attempts(history: History) -> None:
    """An attempt is one more than the runs of this message that had failed before it began."""
    failed: Counter[str] = Counter()
    moments = [(run.began, 1, run) for run in history.runs.values()]
    moments += [(run.ended, 0, run) for run in history.runs.values() if run.ending == "failed"]
    for _, begins, run in sorted(moments, key=lambda moment: moment[:2]):
        if begins:
            run.attempt = 1 + failed[run.id]
        else:
            failed[run.id] += 1


def places_of(folder: Path) -> dict[int, int]:
    """In which place of the crew each process of a run was."""
    lines = [line for path in folder.glob("nemesis-*.jsonl") for line in path.read_text().splitlines()]
    return {row["pid"]: row["slot"] for row in map(json.loads, lines) if row["what"] == "born"}


def recoveries(history: History, places: Mapping[int, int]) -> Iterator[float]:
    """Of each fault and each place that is to work after it. What the next fault cut short is left to that one."""
    bound, quiet = history.promised.get("recovery_seconds", 10.0), history.moments.get("quiet", math.inf)
    said = {name: at for name, (*_, at) in history.intents.items()}
    runs = [(places[run.pid], said.get(run.id, -math.inf), run.began) for run in history.runs.values()]
    struck = [(places[pid], fault.began) for fault in history.faults.values() for pid in fault.pids]
    for fault in history.faults.values():
        since = fault.healed
        for place in {places[pid] for pid in fault.heirs if fault.evidence}:
            again = min((began for at, told, began in runs if at == place and told >= since), default=math.inf)
            over = min((began for at, began in struck if at == place and began > since), default=math.inf)
            if again < over:
                yield again - since
            elif min(over, quiet) - since > bound:
                yield math.inf


def silent(history: History) -> int:
    """How many of the workers that were there at the end had begun nothing since everything was mended."""
    quiet = history.moments.get("quiet", math.inf)
    mended = max((fault.healed for fault in history.faults.values()), default=-math.inf)
    heard = {run.pid for run in history.runs.values() if run.began >= mended}
    return sum(born <= mended and gone > quiet and pid not in heard for pid, (born, gone) in history.lives.items())


def slowest_message(history: History) -> float:
    """The longest that a confirmed message waited until it was handled; those that never were are among the lost."""
    ends: dict[str, float] = {}
    for run in history.runs.values():
        if run.ending in OVER:
            ends[run.id] = min(run.ended, ends.get(run.id, math.inf))
    return max((ends[name] - at for name, at in history.confirmed.items() if name in ends), default=0.0)


COLUMNS = {
    "confirmed": "confirmed",
    "faults": "faults",
    "lost": "lost",
    "left": "left in broker",
    "dead_letters": "dead letters",
    "repeats": "repeats with a cause",
    "unexplained": "without",
    "invented": "invented",
    "recovery_median": "recovery p50, s",
    "recovery_slowest": "max, s",
    "slowest": "slowest message, s",
    "silent": "silent at the end",
    "ended": "ended by themselves",
}


def table(rows: Sequence[tuple[str, str, Figures]]) -> str:
    """Rows of scenario, contestant and figures as Markdown."""
    lines = [f"| {' | '.join(['scenario', '', *COLUMNS.values()])} |", f"|{'---|' * (len(COLUMNS) + 2)}"]
    for scenario, contestant, figures in rows:
        cells = [scenario, contestant, *(_written(getattr(figures, name)) for name in COLUMNS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _written(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "∞" if value == math.inf else f"{value:.1f}"
