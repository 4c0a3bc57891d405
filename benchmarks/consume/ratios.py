"""The ratios that Pythia is held to: ``benchmarks/ratios.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.consume.rounds import Result

FILE = Path(__file__).resolve().parents[1] / "ratios.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """``figure`` of Pythia over that of ``peer``: at most, or at least, so much."""

    broker: str
    workload: str
    peer: str
    figure: str
    most: float | None = None
    least: float | None = None

    def allows(self, ratio: float) -> bool:
        return (self.most is None or ratio <= self.most) and (self.least is None or ratio >= self.least)

    @property
    def bound(self) -> str:
        return f"≤ {self.most:.3f}" if self.most is not None else f"≥ {self.least or 0.0:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found; None: it could not be measured, and so does not hold."""

    wanted: Wanted
    found: float | None

    @property
    def holds(self) -> bool:
        return self.found is not None and self.wanted.allows(self.found)


def read(file: Path = FILE) -> list[Wanted]:
    """All of them."""
    return [Wanted(**row) for row in json.loads(file.read_text())]


def judged(results: Iterable[Result], wanted: Sequence[Wanted]) -> list[Verdict]:
    """Those of the contests that were held."""
    by_place = {(result.broker, result.workload): result for result in results}
    return [
        Verdict(wanted=one, found=by_place[place].ratio("Pythia", one.peer, one.figure))
        for one in wanted
        if (place := (one.broker, one.workload)) in by_place
    ]


def installed(name: str) -> bool:
    """Whether this distribution is."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
