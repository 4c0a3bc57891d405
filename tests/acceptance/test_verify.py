"""``pythia verify`` as a user runs it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pythia.proof.nemesis import Nemesis
from tests.acceptance.service_kit import PYTHIA, Place, assert_one_clear_line, until
from tests.kit import servers

SHOP = """
from pythia import Reject, Worker

class OrderWorker(Worker):
    queue = "orders"

    async def process_message(self, message):
        if message.body["sku"] == "x":
            raise Reject("unknown sku")
"""
BRIEF = ("--minutes", "0.1", "--lease", "1", "--rate", "300")
SHORT = ("--minutes", "0.2", "--seed", "3", "--lease", "2", "--rate", "300")


def children_of(folder: Path) -> list[int]:
    """The worker processes of a run, as its history names them."""
    rows = [json.loads(line) for path in folder.glob("nemesis-*.jsonl") for line in path.read_text().splitlines()]
    return [row["pid"] for row in rows if row["what"] == "born"]


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_this_machine_and_sqlite_are_verified_with_a_worker_of_our_own(tmp_path: Path):
    place = Place(tmp_path)
    done = place.command("verify", *SHORT, "--report", "out", PYTHIA_BROKER__URL="sqlite:///q.db")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(
        r"messages [\d,]+ · confirmed [\d,]+ · in doubt [\d,]+ · faults \d+ \(\d kinds\) · lost 0 · invented 0 · "
        r"order violations 0 · duplicated \d+ \(all explained\) · recovery p50/p99/max [\d./]+ s · seed 3 · PASS",
        lines[-2],
    )
    assert lines[-1] == "report: out/report.html"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["verdict"], report["flaws"], report["invalid"]) == ("PASS", {}, [])
    assert report["faults"]
    assert report["confirmed"] > 500
    page = (tmp_path / "out" / "report.html").read_text()
    assert "PASS" in page
    assert "<svg" in page
    assert not re.search(r"<script|<link|src=|href=|https?://|@import", page), "it needs nothing but itself"
    assert not any(map(alive, children_of(tmp_path / "out" / "history"))), "a worker is left"

    again = subprocess.run(
        [sys.executable, "-m", "pythia.proof.checker", str(tmp_path / "out" / "history")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stdout.strip().rpartition(" · ")[2]) == (0, "PASS")
    assert place.command("queues", "--json", PYTHIA_BROKER__URL="sqlite:///q.db").returncode == 0


def test_the_users_worker_is_verified_with_the_users_bodies(tmp_path: Path):
    place = Place(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "bodies").write_text('{"sku": "silk"}\n{"sku": "x"}\n{"sku": "wool"}\n')
    done = place.command("verify", "shop", *BRIEF, "--bodies", "bodies", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["run"]["target"] == "shop:OrderWorker"
    third = report["confirmed"] / 3
    assert 0.9 * third <= report["dead"] <= 1.1 * third + 5


def test_a_worker_that_loses_messages_is_told_with_exit_1_and_the_report_names_them(tmp_path: Path):
    place = Place(tmp_path)
    patch = "\nfrom pythia.core import held, outcome\nheld.Held.judge = lambda self, error: outcome.ACK\n"
    (tmp_path / "shop.py").write_text(SHOP + patch)
    done = place.command("verify", "shop:OrderWorker", *BRIEF, "--body", '{"sku": "x"}', "--report", "out")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2].endswith("FAIL")
    assert "Not dead" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("mode", ["stream", "list"])
def test_a_redis_with_a_password_is_verified_through_a_proxy_and_nobody_tells_the_password(tmp_path: Path, mode: str):
    servers.require_private_redis()
    with servers.PrivateRedis() as redis:
        redis.cli("CONFIG", "SET", "requirepass", "canary-7f")
        url = redis.url.replace("redis://", "redis://:canary-7f@") + f"?mode={mode}"
        place = Place(tmp_path)
        done = place.command("verify", *SHORT, "--report", "out", PYTHIA_BROKER__URL=url)
        assert done.returncode == 0, done.stdout + done.stderr
        left = redis.cli("-a", "canary-7f", "--no-auth-warning", "KEYS", "*verify*")
        assert left.strip() == "", "its queue is taken away"
    kinds = json.loads((tmp_path / "out" / "report.json").read_text())["faults"]
    assert kinds.keys() & {
        "reset",
        "close",
        "half-open",
        "deaf",
        "mute",
        "latency",
        "bandwidth",
        "slices",
        "cut-mid-frame",
    }
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    told = [path for path in files if b"canary" in path.read_bytes()]
    assert told == []
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-b", "redis://broker.example/0"), 64, ("broker.example", "--yes-this-broker")),
        (("-b", "memory://"), 64, ("memory", "--simulate")),
        (("-b", "redis://127.0.0.1:1/0"), 69, ("127.0.0.1:1",)),
        (("nothing.here:App",), 64, ("nothing.here",)),
        (("--body", "{n: 1}"), 65, ("--body", "not JSON")),
        (("--bodies", "missing"), 65, ("missing",)),
        (("--minutes", "0"), 64, ("minutes",)),
        (("--schedule", "loose"), 64, ("loose",)),
        (("-b", "ftp://x"), 78, ("ftp",)),
    ],
)
def test_what_cannot_be_verified_is_said_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
):
    done = Place(tmp_path).command("verify", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert_one_clear_line(done.stderr.strip(), *words)


def test_a_worker_that_cannot_start_ends_the_run_with_what_it_said(tmp_path: Path):
    (tmp_path / "shop.py").write_text(
        SHOP + "\n    async def on_startup(self):\n        raise OSError('no database')\n"
    )
    done = Place(tmp_path).command("verify", "shop", *BRIEF)
    assert done.returncode == 70, done.stdout + done.stderr
    assert "ended with 70 at its start" in done.stderr


def test_ctrl_c_leaves_no_worker_behind(tmp_path: Path):
    process = subprocess.Popen(
        [*PYTHIA, "verify", "--minutes", "5", "-b", "sqlite:///q.db", "--report", "out"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    history = tmp_path / "out" / "history"
    until((history / "run.json").exists, "the run has begun")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert children_of(history)
    assert not any(map(alive, children_of(history)))


def test_simulated_the_users_worker_needs_no_broker(tmp_path: Path):
    (tmp_path / "shop.py").write_text(SHOP)
    done = Place(tmp_path).command("verify", "shop", "--simulate", "--seeds", "20", "--body", '{"sku": "silk"}')
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok: 20 seeds")


def test_every_kind_of_fault_has_somebody_who_does_it():
    from pythia.proof.schedule import BLOCK_KIND, LINK_KINDS, PROCESS_KINDS

    nobody = {"ledger": None, "following": None, "producer_proxy": None, "venue": None, "drain_seconds": 1.0}
    nemesis = Nemesis((), None, None, **nobody)
    for kind in (*PROCESS_KINDS, *LINK_KINDS, BLOCK_KIND):
        assert nemesis._injection(kind)
