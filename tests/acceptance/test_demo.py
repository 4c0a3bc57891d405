"""``pythia demo`` as a user runs it, on a small environment made for each test."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from tests.acceptance.service_kit import until
from tests.unit.cli_kit import COMMAND, Ended, environment, pythia_command

QUEUE_FILE = "pythia-demo.db"
AT = ("-b", f"sqlite:///{QUEUE_FILE}")


def digest(data: bytes) -> str:
    return f"sha256={urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')}"


class Site:
    """A site-packages folder with one distribution of some files."""

    def __init__(self, folder: Path, files: int) -> None:
        self.folder = folder
        (folder / "shop").mkdir(parents=True)
        rows = ["shop-1.0.dist-info/RECORD,,"]
        for number in range(files):
            data = f"file {number}\n".encode()
            self.file(number).write_bytes(data)
            rows.append(f"shop/{number}.py,{digest(data)},{len(data)}")
        (folder / "shop-1.0.dist-info").mkdir()
        (folder / "shop-1.0.dist-info" / "RECORD").write_text("\n".join(rows))

    def file(self, number: int) -> Path:
        return self.folder / "shop" / f"{number}.py"

    def demo(self, *args: str, cwd: Path, **variables: str) -> Ended:
        return pythia_command("demo", "--path", str(self.folder), *args, cwd=cwd, **variables)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site-packages", 40)


def test_an_environment_that_is_as_installed_is_verified_and_leaves_nothing_behind(site, workdir):
    before = set(workdir.iterdir())
    done = site.demo(cwd=workdir)
    assert (done.code, done.err) == (0, "")
    assert "verifying 40 files of 1 distributions" in done.out
    assert "conservation: 40 received = 40 acked; residual 0" in done.out
    assert "1 files recorded without a digest" in done.out
    assert "\x1b" not in done.out
    assert set(workdir.iterdir()) == before


def test_keep_keeps_the_queue_file_and_a_later_run_verifies_anew(site, workdir):
    for _ in range(2):
        done = site.demo("--keep", "--json", cwd=workdir)
        assert (done.code, done.json["files"], done.json["verified"], done.json["resumed"]) == (0, 40, 40, 0)
        assert (workdir / QUEUE_FILE).exists()


def test_the_summary_for_scripts(site, workdir):
    site.file(7).write_bytes(b"file 8\n")
    site.file(9).unlink()
    done = site.demo("--json", "-c", "3", cwd=workdir)
    summary = done.json
    assert done.code == 1
    assert summary.pop("seconds") > 0
    assert summary.pop("messages_per_second") > 0
    problems = {problem.pop("reason"): problem for problem in summary.pop("problems")}
    assert set(problems) == {"rejected", "attempts_exhausted"}
    assert set(problems["rejected"]) == {"id", "attempts", "detail"}
    sums = {"received": 42, "ack": 38, "retry": 2, "defer": 0, "release": 0, "dead_letter": 2, "drop": 0, "lost": 0}
    assert summary == {
        "ok": False,
        "interrupted": False,
        "site": str(site.folder),
        "broker": f"sqlite:///{workdir / QUEUE_FILE}",
        "queue": "integrity",
        "files": 40,
        "resumed": 0,
        "bytes": sum(site.file(number).stat().st_size for number in range(40) if number != 9),
        "verified": 38,
        "dead_lettered": {"attempts_exhausted": 1, "rejected": 1},
        "dead": 2,
        "left": 0,
        "without_digest": 1,
        "without_record": 0,
        "attempts": 42,
        "messages": {**sums, "in_flight": 0, "residual": 0},
    }
    assert "verifying 40 files" in done.err  # the story, where it does not mix with the summary


def test_a_changed_byte_is_named_with_both_digests_explained_and_gone_after_repair_and_replay(site, workdir):
    original = site.file(3).read_bytes()
    site.file(3).write_bytes(b"file X\n")
    done = site.demo(cwd=workdir)
    assert done.code == 1
    facts = (str(site.file(3)), digest(original), digest(b"file X\n"))
    for fact in facts:
        assert fact in done.out
    assert "\nNOT VERIFIED " in done.out
    at = f"-b sqlite:///{workdir / QUEUE_FILE}"
    assert f"pythia dead show integrity {at}" in done.out
    assert f"pythia dead replay integrity --all {at}" in done.out

    shown = pythia_command("dead", "show", "integrity", *AT, cwd=workdir)
    for fact in (*facts, "rejected"):
        assert fact in shown.out

    unmended = site.demo(cwd=workdir)  # nothing is left to do, and the answer is still no
    assert unmended.code == 1
    assert "verifying" not in unmended.out

    site.file(3).write_bytes(original)
    assert pythia_command("dead", "replay", "integrity", "--all", *AT, cwd=workdir).code == 0
    mended = site.demo("--json", cwd=workdir)
    assert (mended.code, mended.json["files"], mended.json["verified"], mended.json["dead"]) == (0, 1, 1, 0)
    assert not (workdir / QUEUE_FILE).exists()


def test_what_many_files_have_in_common_is_not_told_of_each(tmp_path, workdir):
    site = Site(tmp_path / "site-packages", 60)
    for number in range(50):
        site.file(number).write_bytes(b"changed")
    done = site.demo(cwd=workdir)
    assert done.code == 1
    assert done.out.count("dead-lettered (") == 20
    assert "50 (50 rejected)" in done.out


def test_its_worker_also_runs_by_itself_on_the_kept_file(site, workdir):
    original = site.file(3).read_bytes()
    site.file(3).write_bytes(b"file X\n")
    site.demo(cwd=workdir)
    site.file(3).write_bytes(original)
    assert pythia_command("dead", "replay", "integrity", "--all", *AT, cwd=workdir).code == 0
    target = "pythia.examples.integrity:IntegrityWorker"
    assert pythia_command("run", target, *AT, "--burst", "--no-http", cwd=workdir).code == 0
    (queue,) = pythia_command("queues", *AT, "--json", cwd=workdir).json["queues"]
    assert (queue["ready"], queue["delayed"], queue["in_flight"], queue["dead"]) == (0, 0, 0, 0)


def test_a_vanished_file_is_tried_three_times_and_then_dead_lettered(site, workdir):
    site.file(5).unlink()
    done = site.demo("--json", cwd=workdir)
    assert done.code == 1
    (problem,) = done.json["problems"]
    assert (problem["reason"], problem["attempts"]) == ("attempts_exhausted", 3)
    assert str(site.file(5)) in problem["detail"]
    assert done.json["messages"]["retry"] == 2


def verified_by(health: str) -> int:
    with urllib.request.urlopen(health, timeout=30) as answer:
        return json.load(answer)["messages"]["ack"]


def interrupted(site: Site, workdir: Path, number: int) -> tuple[int, str]:
    """A run that is sent a signal once it has verified some files. One file has vanished, and its retries are so far away
    that the run cannot be over by then."""
    command = [*COMMAND, "demo", "--path", str(site.folder), "-c", "1"]
    variables = environment(PYTHIA_RETRY__BASE_SECONDS="2")
    told = []
    with subprocess.Popen(
        command, cwd=workdir, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            told.append(text)
            if text.startswith("verifying"):
                health = next(word for word in "".join(told).split() if word.endswith("/health"))
                until(lambda: verified_by(health), "files were verified")  # noqa: B023 - called at once
                process.send_signal(number)
    return process.returncode, "".join(told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on_and_the_next_one_finishes_what_is_left(tmp_path, workdir, number):
    site = Site(tmp_path / "site-packages", 1000)
    text = site.file(0).read_bytes()
    site.file(0).unlink()
    code, told = interrupted(site, workdir, number)
    assert code == 128 + number, told
    assert f"interrupted; to go on with what is left: pythia demo --path {site.folder} -c 1" in told
    assert "residual 0" in told
    verified = int(told.partition("\nverified ")[2].split()[0].replace(",", ""))
    assert verified > 0

    site.file(0).write_bytes(text)
    done = site.demo("--json", cwd=workdir)
    assert (done.code, done.json["dead"]) == (0, 0)
    assert (done.json["resumed"], done.json["files"]) == (1000 - verified, 1000 - verified)
    assert done.json["verified"] == 1000 - verified
    assert not (workdir / QUEUE_FILE).exists()


def test_a_run_that_is_killed_while_it_works_leaves_the_rest_to_the_next(tmp_path, workdir):
    site = Site(tmp_path / "site-packages", 1000)
    text = site.file(0).read_bytes()
    site.file(0).unlink()
    code, told = interrupted(site, workdir, signal.SIGKILL)
    assert code == -signal.SIGKILL, told
    site.file(0).write_bytes(text)
    done = site.demo("--json", cwd=workdir)
    assert (done.code, done.json["left"], done.json["dead"]) == (0, 0, 0)
    assert 0 < done.json["resumed"] == done.json["files"] == done.json["verified"] < 1000


def test_what_another_environment_left_is_finished_first_and_then_one_s_own_is_verified(site, tmp_path, workdir):
    other = Site(tmp_path / "other" / "site-packages", 10)
    other.file(1).write_bytes(b"changed")
    assert other.demo(cwd=workdir).code == 1
    done = site.demo("--json", cwd=workdir)
    assert (done.json["files"], done.json["verified"], done.json["dead"]) == (40, 40, 1)
    assert done.code == 1  # the file holds a dead letter, whoever it belongs to


def test_health_and_metrics_are_where_it_says_while_it_runs(site, workdir):
    site.file(0).unlink()  # its retries give us the time
    command = [*COMMAND, "demo", "--path", str(site.folder)]
    variables = environment(PYTHIA_RETRY__BASE_SECONDS="60")
    with subprocess.Popen(command, cwd=workdir, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)  # before it a notice, if the port is taken
        health, metrics = line.split()[-2:]
        process.stdout.readline()
        with urllib.request.urlopen(health, timeout=30) as answer:
            assert json.load(answer)["worker"] == "integrity-worker"
        with urllib.request.urlopen(metrics, timeout=30) as answer:
            assert b"integrity_bytes_total" in answer.read()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130


def test_on_a_terminal_there_is_a_bar_and_the_table_stays(site, workdir):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "demo", "--path", str(site.folder)],
        cwd=workdir,
        env=environment(TERM="xterm"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait(60) == 0, seen
    assert b"40/40" in seen
    assert b"\x1b[" in seen
    assert "residual 0" in seen.decode().splitlines()[-1]


def test_a_broker_of_ones_own_choice_is_used_and_its_file_is_never_removed(site, workdir):
    done = site.demo("-b", "sqlite:///mine.db", cwd=workdir)
    assert done.code == 0
    assert (workdir / "mine.db").exists()
    assert not (workdir / QUEUE_FILE).exists()


def test_in_memory_the_dead_letters_end_with_the_process_and_it_says_so(site, workdir):
    site.file(3).write_bytes(b"file X\n")
    done = site.demo("-b", "memory://", cwd=workdir)
    assert done.code == 1
    assert "in memory" in done.out
    assert "pythia dead" not in done.out


def test_neither_the_project_s_broker_nor_its_queues_are_touched(site, workdir):
    (workdir / "config").mkdir()
    text = 'queues = ["orders"]\n[broker]\nurl = "sqlite:///orders.db"\n[http]\nport = 1\n'
    (workdir / "config" / "pythia.toml").write_text(text)
    done = site.demo(cwd=workdir, PYTHIA_BROKER__URL="sqlite:///orders.db", PYTHIA_QUEUES="orders")
    assert done.code == 0, done.err
    assert not (workdir / "orders.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--path", "nowhere"], 64, "nowhere"),
        (["--path", "."], 64, "no installed distribution"),
        (["--concurrency", "0"], 64, "whole number"),
        (["-b", "sqlite:///no/such/folder.db"], 74, "folder.db"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(workdir, arguments, code, word):
    done = pythia_command("demo", *arguments, cwd=workdir)
    assert done.code == code
    assert word in done.err
    assert done.err.count("\n") == 1


def test_it_verifies_this_environment_without_a_path(workdir):
    summary = pythia_command("demo", "--json", cwd=workdir)
    assert summary.json["site"] == sys.prefix
    assert summary.json["files"] > 500
    assert summary.json["messages"]["residual"] == 0
    assert summary.json["left"] == 0
    assert summary.json["verified"] + sum(summary.json["dead_lettered"].values()) == summary.json["files"]
