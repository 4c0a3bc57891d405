"""What the same faults do to Pythia and to FastStream: one producer, one proxy, one schedule, one judge.

    python benchmarks/bench_peer_faults.py [--broker rabbitmq|redis] [--scenario NAME] [--rounds N] [--seed N]
                                           [--json FILE] [--keep DIR]

Each scenario takes about 30 s for each contestant: two worker processes, 200 messages a second, a handler of 20 ms, a broker of
the benchmark's own. Rounds are interleaved, so that a busy machine slows all alike, and have schedules of their own. Peers are
installed from their hash-locked files into ``.venv-peers``. ``pythia/proof`` starts the workers, breaks things, and judges what
the processes wrote down; see docs/proof.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers import faults  # noqa: E402 - the path is set above
from benchmarks.peers.contestants import CONTESTANTS, Contestant, python_of, versions_of  # noqa: E402
from benchmarks.peers.faults import SCENARIOS, Scenario  # noqa: E402
from benchmarks.peers.figures import Figures, figures_of, places_of, table, together  # noqa: E402
from benchmarks.peers.stands import RabbitStand, RedisStand, Stand  # noqa: E402
from pythia.config import WorkerConfig  # noqa: E402
from pythia.errors import PythiaError  # noqa: E402
from pythia.proof.checker import read  # noqa: E402
from pythia.proof.run import Plan, verify  # noqa: E402

STANDS = {"rabbitmq": RabbitStand, "redis": RedisStand}
RESULTS = ROOT / "bench-results" / "peer-faults.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a contestant in a scenario."""

    broker: str
    server: str  # its version
    scenario: str
    contestant: str
    figures: Figures

    @property
    def name(self) -> str:
        return f"{self.broker}, {self.scenario}, {self.contestant}"


def run(stand: Stand, scenario: Scenario, contestant: Contestant, *, seed: int, folder: Path) -> Row:
    """Run one scenario against one contestant."""
    stand.prepare(contestant.settings)
    plan = Plan(
        url=stand.url,
        folder=folder,
        config=WorkerConfig(),
        target=contestant.target(poison=scenario.poison),
        command=contestant.command(poison=scenario.poison),
        seconds=faults.RUN_SECONDS,
        seed=seed,
        workers=faults.WORKERS,
        rate=faults.RATE,
        lease=faults.LEASE_SECONDS,
        venue=stand,
        kinds=(scenario.kind,),
        drain_seconds=faults.PATIENCE_SECONDS,
    )
    broken_off = ""
    try:
        verify(plan)
    except (PythiaError, TimeoutError) as error:
        broken_off = str(error)
    history = read(plan.history)
    if broken_off:  # what was written down until then counts
        history.invalid.append(broken_off)
        history.moments.setdefault("over", time.monotonic())
    return Row(
        broker=stand.name,
        server=str(history.promised.get("server_version")),
        scenario=scenario.name,
        contestant=contestant.name,
        figures=figures_of(history, places_of(plan.history), counts_attempts=not contestant.is_peer),
    )


def run_all(stand: Stand, scenarios: Sequence[Scenario], *, seeds: Sequence[int], folder: Path) -> Iterator[Row]:
    """Every contestant in every scenario of one broker."""
    for scenario in scenarios:
        if stand.name not in scenario.brokers:
            continue
        rows: list[Row] = []
        for seed in seeds:
            for contestant in CONTESTANTS:
                name = f"{stand.name} {scenario.name} {contestant.name} {seed}".lower().replace(",", "")
                rows.append(run(stand, scenario, contestant, seed=seed, folder=folder / name.replace(" ", "-")))
                print(f"{rows[-1].name}: lost {rows[-1].figures.lost}", flush=True)
        for contestant in CONTESTANTS:
            own = [row for row in rows if row.contestant == contestant.name]
            yield replace(own[0], figures=together([row.figures for row in own]))


def versions() -> dict[str, str]:
    """What was measured, and on what."""
    return {
        "peers": versions_of(python_of("faststream"), "faststream", "aio-pika", "redis"),
        "pythia": versions_of(sys.executable, "pythia-worker", "aio-pika", "redis"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def report(rows: Sequence[Row], about: dict[str, str], file: Path) -> None:
    """Print the tables and write the JSON."""
    for broker, server in dict.fromkeys((row.broker, row.server) for row in rows):
        print(f"\n{broker} {server}\n")
        print(table([(row.scenario, row.contestant, row.figures) for row in rows if row.broker == broker]))
    for row in rows:
        for note in row.figures.notes:
            print(f"{row.name}: {note}")
    file.parent.mkdir(parents=True, exist_ok=True)
    runs = [
        {
            "broker": row.broker,
            "server": row.server,
            "scenario": row.scenario,
            "contestant": row.contestant,
            **row.figures.as_json(),
        }
        for row in rows
    ]
    settings = {one.name: one.text for one in CONTESTANTS}
    file.write_text(json.dumps({"about": about, "settings": settings, "runs": runs}, indent=1) + "\n")
    print(f"\nwritten to {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", choices=sorted(STANDS), help="one of the two; default both")
    parser.add_argument("--scenario", choices=[one.name for one in SCENARIOS], help="one of them; default all")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, each with the next seed; default 1")
    parser.add_argument(
        "--seed", type=int, default=1, help="the first round's; the same seed, the same schedule; default 1"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"default {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--keep", type=Path, help="keep the histories there, for pythia.proof.checker")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    seeds = range(chosen.seed, chosen.seed + chosen.rounds)
    about = versions() | {"seeds": ", ".join(map(str, seeds))}
    print(*(f"{name}: {text}" for name, text in about.items()), sep="\n")
    scenarios = [one for one in SCENARIOS if chosen.scenario in (None, one.name)]
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="pythia-peers-") as place:
            folder = (chosen.keep or Path(place)).absolute()
            for name, make in STANDS.items():
                if chosen.broker in (None, name):
                    with make() as stand:
                        rows += run_all(stand, scenarios, seeds=seeds, folder=folder)
    finally:
        report(rows, about, chosen.json)  # of what was run, when it was interrupted


if __name__ == "__main__":
    main()
