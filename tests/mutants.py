"""Every negative control in one table: what was broken on purpose, where it runs, and as what it was found.

``python -m tests.mutants`` prints it and ends with 1 when one survives; ``./dev soak tests/test_mutants.py`` does the same.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pythia.proof.simulation import simulate
from tests.crashes.flaws import FLAWS, NEVER_SETTLED, ONE_MORE, found
from tests.crashes.run import played
from tests.faults import mutants as workers
from tests.kit import servers
from tests.simulation.mutants import MUTANTS as SIMULATED

MOST_SEEDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One of them. ``found_by`` empty: it survived. ``named``: it was found as what it is."""

    mutant: str
    where: str
    found_by: str
    named: bool

    def __str__(self) -> str:
        verdict = self.found_by or "SURVIVED"
        return f"{self.mutant:<52} · {self.where:<24} · {verdict}{'' if self.named else ' (NOT AS WHAT IT IS)'}"


def rows() -> Iterator[Row]:
    """All of them, one after the other."""
    yield from _simulated()
    yield from _verified()
    yield from _killed()


def _simulated() -> Iterator[Row]:
    for name, (plant, verdicts) in SIMULATED.items():
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            result = simulate(None, range(MOST_SEEDS))
        said = "" if result.ok else f"{result.verdict}, after {result.seeds} seeds"
        yield Row(mutant=name, where="simulation", found_by=said, named=result.verdict in verdicts)


def _verified() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="pythia-mutants-") as folder, contextlib.chdir(folder):
        verdicts = workers.run_all(Path(folder), list(workers.MUTANTS))
    for name, verdict in verdicts.items():
        flaw = workers.MUTANTS[name].flaw
        flaws = sorted((other for other, those in verdict.flaws.items() if those), key=lambda other: other != flaw)
        yield Row(mutant=name, where="pythia verify, SQLite", found_by=", ".join(flaws), named=flaw in flaws)


def _killed() -> Iterator[Row]:
    urls = _urls()
    cases = [
        case
        for case in (*FLAWS.values(), NEVER_SETTLED, ONE_MORE)
        if case.broker == "sqlite" or _needs(case.broker) in urls
    ]
    for result in played(cases, urls):
        said = found(result)
        yield Row(
            mutant=result.case.mutant, where=f"crash points, {result.case.broker}", found_by=said, named=bool(said)
        )


def _needs(broker: str) -> str:
    return f"PYTHIA_TEST_{broker.partition('-')[0].upper()}_URL"


def _urls() -> Mapping[str, str]:
    """Of the brokers that are here: crash points are looked at on those."""
    urls = {_needs("rabbitmq"): servers.find_rabbitmq(), _needs("redis"): servers.find_redis()}
    return {name: url for name, url in urls.items() if url is not None}


def main() -> int:
    """Print the table as it comes."""
    table = []
    for row in rows():
        print(row, flush=True)
        table.append(row)
    survivors = sum(not row.named for row in table)
    print(f"{len(table)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
