"""The engine of ``pythia verify`` on private servers, which it may break too: nothing is lost, every repeat has its cause."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pythia.config import WorkerConfig
from pythia.proof.files import QueueFile, small_disk
from pythia.proof.nemesis import Venue
from pythia.proof.run import RECOVERY_SECONDS, Plan, Result, verify
from pythia.proof.schedule import (
    BLOCK_KIND,
    BOOT_SECONDS,
    FULL_KIND,
    LINK_KINDS,
    LOCK_KIND,
    PROCESS_KINDS,
    Kind,
    schedule,
)
from tests.faults.breaking import ALARM, CLOSED, CRASH, DELETED, HUNG, RESTART, RESTART_APP, breaking
from tests.faults.venues import DURABLE, venue_of

EVERYWHERE = ("sqlite", *DURABLE)
LEASE = 2.0
KILLS, CUTS, RESTARTS = ("kill", "kill-all"), ("reset", "close", "cut-mid-frame"), ("restart", "crash", "restart-app")

# 7 faults, one of them at the server, in 14 seconds; the rest of the time is for the last to be recovered from.
SMOKE_SECONDS, SMOKE_SEED = 25.0, 3
LONG_SECONDS, LONG_SEED = 420.0, 30
LONG_MESSAGES, LONG_KILLS, LONG_CUTS, LONG_RESTARTS = 50_000, 30, 30, 3


def weighing(kinds: Sequence[Kind], **weights: int) -> list[Kind]:
    """Those of ``kinds`` that are named, as often as is said."""
    return [replace(kind, weight=weights[kind.name]) for kind in kinds if kind.name in weights]


def smoke_kinds(name: str, at_the_server: Sequence[Kind]) -> list[Kind]:
    """Three kills, three cuts, and one fault of the server's own."""
    if name == "sqlite":
        return [*weighing(PROCESS_KINDS, kill=3, freeze=1, stop=1), *at_the_server]
    cuts = [kind for kind in LINK_KINDS if kind.name in CUTS]
    return [*weighing(PROCESS_KINDS, kill=3), *cuts, RESTART_APP if name == "rabbitmq" else CRASH]


def long_kinds(venue: Venue) -> list[Kind]:
    """Everything that can be done, kills and cuts more often than the rest."""
    links = () if isinstance(venue, QueueFile) else LINK_KINDS
    return weighted([*PROCESS_KINDS, BLOCK_KIND, *links, *venue.kinds])


def weighted(kinds: Sequence[Kind]) -> list[Kind]:
    weights = {"kill": 5, "reset": 2, "cut-mid-frame": 2}
    return [replace(kind, weight=weights.get(kind.name, 1)) for kind in kinds]


@contextlib.contextmanager
def broken(name: str, folder: Path) -> Iterator[tuple[str, Venue]]:
    """The URL of a broker of this name, and how it is broken."""
    if name != "sqlite":
        with venue_of(name) as venue:
            yield venue.url, breaking(venue)
        return
    with small_disk(folder / "disk") as disk:
        file = (disk or folder) / "queue.db"
        yield f"sqlite:///{file}", QueueFile(file, own_disk=disk is not None)


def run(url: str, venue: Venue, folder: Path, kinds: Sequence[Kind], **more: object) -> Result:
    """One run of the engine, said in a line."""
    plan = {"seconds": SMOKE_SECONDS, "seed": SMOKE_SEED, "lease": LEASE, **more}
    result = verify(Plan(url=url, folder=folder, config=WorkerConfig(), venue=venue, kinds=kinds, **plan))
    print(f"{result.facts['broker']}: {result.verdict} · {result.seconds:.1f} s · {dict(result.verdict.faults)}")
    return result


def check(result: Result) -> None:
    """That every promise was kept, and that it was tried."""
    verdict = result.verdict
    assert (verdict.word, verdict.invalid) == ("PASS", []), {
        flaw: rows[:9] for flaw, rows in verdict.flaws.items() if rows
    }
    assert sum(verdict.duplicated.values()) > 0, "nothing was caught in anybody's hands: the test shows nothing"


def of(faults: Counter[str], *kinds: str) -> int:
    return sum(faults[kind] for kind in kinds)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_killed_cut_and_restarted_nothing_is_lost_and_every_repeat_has_its_cause(name: str, tmp_path: Path) -> None:
    with broken(name, tmp_path) as (url, venue):
        result = run(url, venue, tmp_path, smoke_kinds(name, venue.kinds))
    check(result)
    faults = result.verdict.faults
    assert faults["kill"] >= 3
    if name == "sqlite":
        assert faults[LOCK_KIND.name] + faults[FULL_KIND.name] >= 1
    else:
        assert of(faults, *CUTS) >= 3
        assert of(faults, *RESTARTS) >= 1


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_fifty_thousand_messages_survive_thirty_kills_thirty_cuts_and_three_restarts(name: str, tmp_path: Path) -> None:
    with broken(name, tmp_path) as (url, venue):
        kinds = long_kinds(venue)
        much = {"seconds": LONG_SECONDS, "messages": LONG_MESSAGES, "drain_seconds": 180.0}
        result = run(url, venue, tmp_path, kinds, seed=LONG_SEED, **much)
    check(result)
    verdict = result.verdict
    assert verdict.counts["confirmed"] >= LONG_MESSAGES
    assert of(verdict.faults, *KILLS) >= LONG_KILLS
    assert set(verdict.faults) == {kind.name for kind in kinds}, "each kind was done, with evidence"
    if name != "sqlite":
        assert of(verdict.faults, *CUTS) >= LONG_CUTS
        assert of(verdict.faults, *RESTARTS) >= LONG_RESTARTS
    slow = [(number, seconds) for number, _, seconds in verdict.recoveries if seconds > LEASE + RECOVERY_SECONDS]
    assert slow == []


@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_runs_are_planned_as_they_are_called(name: str) -> None:
    at_the_server = [LOCK_KIND, FULL_KIND] if name == "sqlite" else [RESTART, CRASH, HUNG, CLOSED, ALARM]
    links = () if name == "sqlite" else LINK_KINDS
    short = planned_by(smoke_kinds(name, at_the_server), SMOKE_SECONDS, SMOKE_SEED)
    long = planned_by(weighted([*PROCESS_KINDS, BLOCK_KIND, *links, *at_the_server]), LONG_SECONDS, LONG_SEED)
    assert short["kill"] >= 3
    assert of(long, *KILLS) >= LONG_KILLS
    if name == "sqlite":
        assert of(short, LOCK_KIND.name, FULL_KIND.name) >= 1
    else:
        assert (of(short, *CUTS) >= 3, of(short, *RESTARTS)) == (True, 1)
        assert of(long, *CUTS) >= LONG_CUTS
        assert of(long, *RESTARTS) >= LONG_RESTARTS


def planned_by(kinds: Sequence[Kind], seconds: float, seed: int) -> Counter[str]:
    recovery = LEASE + RECOVERY_SECONDS + BOOT_SECONDS
    planned = schedule("dense", kinds, seed=seed, workers=2, lease=LEASE, seconds=seconds, recovery=recovery)
    return Counter(fault.kind for fault in planned)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DURABLE)
def test_workers_go_on_when_their_queue_is_deleted_under_them_again_and_again(name: str, tmp_path: Path) -> None:
    """What was in it is gone, and said to be; what was confirmed a second after the last time is not."""
    with broken(name, tmp_path) as (url, venue):
        kinds = [replace(DELETED, weight=2), *weighing(PROCESS_KINDS, kill=1, stop=1)]
        result = run(url, venue, tmp_path, kinds, seconds=60.0, rate=500.0, drain_seconds=15.0)
    assert (result.verdict.word, result.verdict.invalid) == ("PASS", []), dict(result.verdict.flaws)
    assert result.verdict.faults[DELETED.name] >= 3


# It can be told from workers that lose messages. More of those: tests/faults/test_verify_mutants.py.

HASTY = """
import asyncio
from pythia import Worker

class App(Worker):
    concurrency = 8

    async def process_message(self, message):
        await message.ack()
        await asyncio.sleep(0.3)
"""


@pytest.mark.parametrize(
    "name", ["redis-stream", *(pytest.param(name, marks=pytest.mark.soak) for name in ("rabbitmq", "redis-list"))]
)
def test_a_worker_that_acks_before_its_work_is_done_is_found_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hasty.py").write_text(HASTY)
    monkeypatch.chdir(tmp_path)
    with broken(name, tmp_path) as (url, venue):
        kinds = weighing(PROCESS_KINDS, **{"kill-all": 1})
        result = run(url, venue, tmp_path, kinds, target="hasty:App", seconds=6.0, rate=40.0, drain_seconds=5.0)
    verdict = result.verdict
    assert (verdict.invalid, verdict.faults["kill-all"]) == ([], 1)
    assert [flaw for flaw, found in verdict.flaws.items() if found] == ["lost"]
    assert 1 <= len(verdict.flaws["lost"]) <= 16, "what was in the hands of the killed workers"
