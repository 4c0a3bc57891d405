"""Plays cases in a process of its own: ``python -m tests.crashes.run < cases > results``, both JSON.

Its own, because it forks: whoever runs tests has threads.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.crashes.cases import Case, Result, play
from tests.crashes.points import Point

ROOT = Path(__file__).parents[2]


def played(cases: Iterable[Case], urls: Mapping[str, str]) -> list[Result]:
    """Have a process play them. ``urls``: variables that say where the servers are."""
    rows = [[case.broker, case.outcome, case.point, case.mutant] for case in cases]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**unmeasured, "PYTHONPATH": str(ROOT), **urls}  # who is killed measures nothing
    done = subprocess.run(
        [sys.executable, "-m", "tests.crashes.run"],
        input=json.dumps(rows),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr[-4000:])
    return [_read(row) for row in json.loads(done.stdout)]


def _read(row: Mapping[str, object]) -> Result:
    fields = dict(row)
    fields["case"] = _case(fields["case"])
    fields["passed"] = [Point(*point) for point in fields["passed"]]
    return Result(**fields)


def _case(row: Sequence[object]) -> Case:
    broker, outcome, point, mutant = row
    return Case(broker=broker, outcome=outcome, point=None if point is None else Point(*point), mutant=mutant)


def _row(result: Result) -> dict[str, object]:
    fields = {name: getattr(result, name) for name in result.__slots__}
    case = result.case
    return {**fields, "case": [case.broker, case.outcome, case.point, case.mutant]}


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # or each child would copy what it looks through
    sys.stdout.write(json.dumps([_row(result) for result in play(map(_case, json.load(sys.stdin)))]))
