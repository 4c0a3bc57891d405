"""The pure parts of the benchmark: medians, ratios within a round, bounds, and what is written of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from benchmarks.consume import page, parts, ratios, rounds
from benchmarks.consume.ratios import Verdict, Wanted
from benchmarks.consume.rounds import Contest, Result
from benchmarks.consume.sampler import Sampler
from benchmarks.consume.work import Meter


def figures(rate: float, cpu: float = 1.0) -> rounds.Figures:
    return {"rate": rate, "cpu": cpu, "rss": 30.0}


def result(**seen: list[rounds.Figures | None]) -> Result:
    return Result("Redis, stream", "no-op", {name.replace("_", "-"): rows for name, rows in seen.items()})


def wanted(**bound: float) -> Wanted:
    return Wanted(broker="Redis, stream", workload="no-op", peer="redis-py", figure="rate", **bound)


def test_a_ratio_is_the_median_of_the_pairs_of_a_round():
    seen = result(Pythia=[figures(10), figures(90), figures(60)], redis_py=[figures(1), figures(30), figures(6)])
    assert seen.median("Pythia", "rate") == 60
    assert seen.ratio("Pythia", "redis-py", "rate") == 10  # of 10, 3 and 10; the ratio of the medians is another: 10


def test_a_round_in_which_one_of_the_two_failed_does_not_count():
    seen = result(Pythia=[figures(10), figures(90)], redis_py=[None, figures(30)])
    assert seen.ratio("Pythia", "redis-py", "rate") == 3
    assert seen.ratio("Pythia", "nobody", "rate") is None


def test_everybody_runs_in_each_round_and_who_fails_is_told_of():
    order: list[str] = []

    def runs(name: str) -> rounds.Run:
        def run() -> rounds.Figures:
            order.append(name)
            if name == "b" and len(order) > 2:
                raise RuntimeError("no server")
            return figures(1)

        return run

    said: list[str] = []
    seen = rounds.held(Contest("X", "no-op", {"a": runs("a"), "b": runs("b")}), 2, said.append)
    assert order == ["a", "b", "a", "b"]
    assert seen.rounds["b"][1] is None
    assert [line for line in said if "no server" in line] == ["X, no-op: b did not run: no server"]


@pytest.mark.parametrize(
    ("bound", "found", "holds"),
    [({"most": 0.2}, 0.2, True), ({"most": 0.2}, 0.21, False), ({"least": 4}, 4.0, True), ({"least": 4}, 3.9, False)],
)
def test_a_bound_holds_up_to_itself(bound, found, holds):
    assert Verdict(wanted=wanted(**bound), found=found).holds is holds


def test_what_could_not_be_measured_does_not_hold_and_what_was_not_asked_for_is_not_judged():
    seen = result(Pythia=[figures(10)], redis_py=[None])
    (verdict,) = ratios.judged(
        [seen], [wanted(least=6), Wanted(broker="SQLite", workload="no-op", peer="huey", figure="rate", least=6)]
    )
    assert (verdict.found, verdict.holds) == (None, False)


def test_the_committed_bounds_are_read():
    kept = ratios.read()
    assert len({(one.broker, one.workload, one.peer, one.figure) for one in kept}) == len(kept) > 10
    assert all((one.most is None) != (one.least is None) for one in kept)


def test_the_page_needs_nothing_else_and_shows_everybody():
    seen = result(Pythia=[figures(60_000, 14.25)], redis_py=[figures(11_000, 55)])
    verdicts = ratios.judged([seen], [wanted(least=6), wanted(least=5)])
    said = page.html([seen], verdicts, ["redis 8.1.0 <x>"])
    assert "http" not in said
    assert "redis 8.1.0 &lt;x&gt;" in said
    assert said.count("<rect") == 4
    assert ("missed" in said, "holds" in said) == (True, True)
    assert json.loads(json.dumps(page.plain([seen], verdicts, [])))["bounds"][1]["holds"] is True


def test_the_table_is_put_between_its_marks(tmp_path: Path):
    file = tmp_path / "performance.md"
    file.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    seen = result(Pythia=[figures(60_000, 14.25)], redis_py=[figures(11_000, 55)])
    page.write_into(file, [seen], [], ["redis 8.1.0"])
    said = file.read_text()
    assert said.startswith("before\n")
    assert said.endswith("after\n")
    assert "old" not in said
    assert "| Pythia | 14.2 | 60,000 | 30.0 |" in said
    file.write_text("nothing")
    with pytest.raises(ValueError, match="has no"):
        page.write_into(file, [seen], [], [])


def test_every_sample_of_a_profile_belongs_to_one_part():
    rows = [
        ("pythia/core/lanes", "Lanes._work", 30),
        ("pythia/core/life", "Life.run", 10),
        ("pythia/brokers/redis/link", "Link.ask", 40),
        ("benchmarks/consume/work", "Meter.handle", 5),
        ("asyncio", "", 15),
    ]
    seen = parts.by_part(rows, 20.0)
    assert sum(seen.values()) == pytest.approx(20.0)
    assert seen["slot, lane, handler's context"] == pytest.approx(6.0)
    assert seen["the rest of the engine"] == pytest.approx(2.0)
    assert seen["broker: bytes in, acks out"] == pytest.approx(8.0)
    assert seen["asyncio by itself"] == pytest.approx(3.0)
    assert parts.by_part([], 20.0)["body"] == 0
    assert parts.part_of("pythia/service") == "asyncio by itself"  # no frame of ours is within the loop's own work


def test_the_sampler_sees_the_function_of_ours_that_computes():
    sampler = Sampler()
    before = signal.getsignal(signal.SIGPROF)
    sampler.start()
    try:
        while sampler.seen[PLACE] < 3:
            handle_at_once()
    finally:
        sampler.stop()
        signal.signal(signal.SIGPROF, before)
    assert (*PLACE, sampler.seen[PLACE]) in sampler.rows()


PLACE = ("benchmarks/consume/work", "Meter.handle_at_once")


def handle_at_once() -> None:
    Meter(1000, "CPU-bound").handle_at_once({"order": 4711})
