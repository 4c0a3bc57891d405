"""The benchmark under faults puts every contestant under the same schedule, and counts what the judge counts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.peers import faults
from benchmarks.peers.faults import SCENARIOS, Scenario
from benchmarks.peers.figures import Figures, figures_of, places_of, table, together
from pythia.proof.checker import read
from pythia.proof.schedule import Planned, schedule

PRODUCED = """\
intent a - 0 d 1.0
confirmed a 1.1
intent b - 1 d 1.0
confirmed b 1.1
intent c - 2 d 1.0
confirmed c 1.1
intent late - 3 d 6.0
doubt late 6.1
"""


def write(folder: Path, *, first: str, second: str = "") -> Path:
    """A history: a kill of process 1 at 5.0, process 2 in its place at 5.5, quiet from 20.0 on."""
    told = [
        {"what": "born", "t": 0.0, "pid": 1, "slot": 0},
        {"what": "began", "t": 5.0, "fault": 0, "kind": "kill", "cause": "kill", "pids": [1]},
        {"what": "gone", "t": 5.1, "pid": 1},
        {"what": "evidence", "t": 5.2, "fault": 0, "text": "ended by SIGKILL"},
        {"what": "born", "t": 5.4, "pid": 2, "slot": 0},
        {"what": "healed", "t": 5.5, "fault": 0, "heirs": [2], "pids": [1, 2]},
        {"what": "quiet", "t": 20.0},
        {"what": "over", "t": 30.0},
    ]
    (folder / "run.json").write_text(json.dumps({"recovery_seconds": 5.0, "slack_seconds": 1.0, "keys": "process"}))
    (folder / "producer-9.log").write_text(PRODUCED)
    (folder / "nemesis-9.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in told))
    (folder / "handler-1.log").write_text(first)
    (folder / "handler-2.log").write_text(second)
    (folder / "broker-9.log").write_text("left in-flight 1\n")
    return folder


def figures(folder: Path, *, counts_attempts: bool = True) -> Figures:
    return figures_of(read(folder), places_of(folder), counts_attempts=counts_attempts)


def planned(scenario: Scenario, recovery: float) -> list[Planned]:
    return schedule(
        "dense",
        (scenario.kind,),
        seed=1,
        workers=faults.WORKERS,
        lease=faults.LEASE_SECONDS,
        seconds=faults.RUN_SECONDS,
        recovery=recovery,
    )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_faults_strike_at_the_same_time_however_long_a_contestant_takes_to_start(scenario: Scenario):
    quick, slow = (planned(scenario, faults.LEASE_SECONDS + 5.0 + boot) for boot in (0.1, 60.0))
    assert quick == slow != []


def test_what_a_kill_interrupted_is_a_repeat_with_a_cause_and_what_nobody_finished_is_lost(tmp_path: Path):
    write(
        tmp_path,
        first="started 0 a 1 d 1.2\nfinished 0 1.3\nstarted 1 b 1 d 4.9\n",
        second="started 0 b 1 d 9.0\nfinished 0 9.1\nstarted 1 late 1 d 10.0\nfinished 1 10.1\n",
    )
    found = figures(tmp_path)
    assert (found.confirmed, found.faults, found.lost, found.left) == (3, 1, 1, 1)
    assert (found.repeats, found.unexplained, found.silent) == (1, 0, 0)
    assert found.recoveries == pytest.approx([4.5])  # not what it began before: that was published before the kill
    assert found.slowest == pytest.approx(8.0)


def test_a_worker_that_begins_nothing_any_more_never_recovered(tmp_path: Path):
    write(tmp_path, first="started 0 a 1 d 1.2\nfinished 0 1.3\n")
    found = figures(tmp_path)
    assert found.silent == 1
    assert found.recovery_slowest == math.inf
    assert found.as_json()["recoveries"] == [None]
    assert "∞" in table([("kill", "somebody", found)])


def test_a_failure_explains_the_next_run_of_whom_nobody_told_the_attempt(tmp_path: Path):
    first = (
        "started 0 a 1 d 1.2\nfailed 0 1.3\nstarted 1 a 1 d 1.4\nfinished 1 1.5\nstarted 2 a 1 d 1.6\nfinished 2 1.7\n"
    )
    write(tmp_path, first=first)
    assert figures(tmp_path).unexplained == 2
    assert figures(tmp_path, counts_attempts=False).unexplained == 1  # the third has no failure before it


def test_of_several_rounds_the_counts_are_added_and_the_recoveries_kept_apart(tmp_path: Path):
    second = "started 0 late 1 d 9.0\nfinished 0 9.1\n"
    write(tmp_path, first="started 0 a 1 d 1.2\nfinished 0 1.3\n", second=second)
    one = figures(tmp_path)
    both = together([one, one])
    assert (both.confirmed, both.lost, both.faults) == (6, 4, 2)
    assert both.recoveries == pytest.approx([3.5, 3.5])
    assert both.recovery_median == one.recovery_median
