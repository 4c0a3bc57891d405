"""A full disk: at the start one line and 74; while running it is waited out, nothing is lost, and it heals by itself."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_kit import NOTE, Place, Service, assert_one_clear_line, assert_one_failure, until

APP = NOTE.replace('"effects"', 'os.environ["LEDGER"]') + (
    """
class App(Worker):
    concurrency = 20
    retry = RetryPolicy(max_attempts=2, delays_seconds=(0.1,))
    sink = "results"

    async def process_message(self, message):
        note("begin", message.body, message.attempt)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        note("end", message.body, message.attempt)
        match message.body % 10:
            case 0:
                raise LookupError("again")
            case 1:
                raise Reject("no such order")
            case 2:
                raise Drop("a test order")
            case 3:
                return {"done": message.body}
"""
)


QUIET = (
    NOTE
    + """
class App(Worker):
    concurrency = 20

    async def process_message(self, message):
        note("begin", message.body)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
"""
)


class SmallDisk:
    """A file system of two megabytes with a queue on it, that can be filled up and emptied again."""

    def __init__(self, root: Path) -> None:
        self.mounted = root / "disk"
        self._ballast = self.mounted / "ballast"
        self.place = Place(self.mounted, APP)
        self.place.environment["LEDGER"] = str(root / "effects")  # the ledger is not on the full disk
        self._root = root

    def ledger(self) -> list[str]:
        path = self._root / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def fill(self) -> None:
        """Not a byte is left: also what the file system keeps back for growing files is taken."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mounted], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("only root may mount a small disk; the test with a limit on file sizes runs for everybody")
    try:
        yield SmallDisk(tmp_path)
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def test_publishing_to_a_full_disk_is_refused_with_74_and_one_line_and_stores_nothing(disk: SmallDisk) -> None:
    disk.place.publish("default", [1])
    disk.fill()
    for _ in range(2):
        done = disk.place.command("publish", "default", "2")
        assert done.returncode == 74
        assert_one_clear_line(done.stderr, "queue.db", "disk is full", "free some space")
        assert done.stdout == ""
    assert disk.place.depth()["ready"] == 1
    disk.free()
    disk.place.publish("default", [3])
    assert disk.place.rows("SELECT count(*) FROM messages") == [(2,)]


def test_a_queue_file_that_cannot_be_made_on_a_full_disk_ends_with_74(disk: SmallDisk) -> None:
    disk.fill()
    done = disk.place.command("publish", "default", "1")
    assert done.returncode == 74
    assert_one_clear_line(done.stderr, "queue.db", "disk is full")
    code, text = disk.place.run_to_the_end(PYTHONDONTWRITEBYTECODE="1")
    assert code == 74
    assert_one_failure(text, "queue.db", "disk is full")


def test_a_worker_that_is_started_on_a_full_disk_ends_with_74(disk: SmallDisk) -> None:
    """Nothing that it did could be settled. What is in the file stays, and can still be looked at."""
    disk.place.publish("default", [1])
    disk.fill()
    code, text = disk.place.run_to_the_end()
    assert code == 74
    assert_one_failure(text, "queue.db", "disk is full", "free some space")
    assert disk.place.depth()["ready"] == 1


def test_a_disk_that_fills_up_under_a_running_worker_is_waited_out_for_longer_than_a_lease(disk: SmallDisk) -> None:
    """Every outcome is asked for while it is full; each is carried out once, afterwards; no message runs again for it."""
    place, numbers = disk.place, range(100)
    place.publish("default", list(numbers))
    with place.running("--port", "0", PYTHIA_LEASE_SECONDS="2") as service:
        until(lambda: len(disk.ledger()) >= 20, "20 handlers run")
        disk.fill()
        Path(disk.mounted, "go").symlink_to("/dev/null")
        service.wait_for("settle.failed")
        _stay_full(service, seconds=3)
        disk.free()
        until(lambda: place.rows("SELECT count(*) FROM messages WHERE queue = 'default'") == [(0,)], "all settled")
        until(lambda: service.health()["messages"]["in_flight"] == 0, "and counted")
        until(lambda: service.health()["status"] == "ok", "it is well again")
        messages = service.health()["messages"]
        assert len(service.events("settle.failed")) == 1
        assert service.stop() == 0
    assert {key: messages[key] for key in ("retry", "dead_letter", "drop", "ack", "lost", "residual")} == {
        "retry": 10,
        "dead_letter": 10 + 10,  # rejected, and failed twice
        "drop": 10,
        "ack": 70,
        "lost": 0,
        "residual": 0,
    }
    runs = Counter(line.split()[1] for line in disk.ledger() if line.startswith("end"))
    assert runs == {str(number): 2 if number % 10 == 0 else 1 for number in numbers}
    assert Counter(letter["reason"] for letter in place.dead()) == {"rejected": 10, "attempts_exhausted": 10}
    assert place.depth("results")["ready"] == 10


def test_a_full_disk_does_not_keep_a_worker_from_stopping(disk: SmallDisk) -> None:
    """What it cannot settle comes again when its lease is over: it says so with 75."""
    disk.place.publish("default", [4, 5, 6])
    with disk.place.running(PYTHIA_DRAIN_TIMEOUT_SECONDS="3") as service:
        until(lambda: len(disk.ledger()) == 3, "3 handlers run")
        disk.fill()
        Path(disk.mounted, "go").symlink_to("/dev/null")
        service.wait_for("settle.failed")
        assert service.stop() == 75
    disk.free()
    assert disk.place.rows("SELECT count(*) FROM messages") == [(3,)]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux lets one process limit another")
def test_a_file_that_may_not_be_written_for_a_while_is_waited_out(tmp_path: Path) -> None:
    """The same without a disk of its own: every write of the worker fails, until it may write again."""
    place = Place(tmp_path, QUIET)
    place.publish("default", list(range(50)))
    with place.running("--port", "0", PYTHIA_LEASE_SECONDS="2") as service:
        until(lambda: len(place.ledger()) >= 20, "20 handlers run")
        was = resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        (tmp_path / "go").touch()
        service.wait_for("settle.failed")
        _stay_full(service, seconds=3)
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, was)
        until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "all settled")
        until(lambda: service.health()["messages"]["in_flight"] == 0, "and counted")
        messages = service.health()["messages"]
        assert (messages["received"] - messages["release"], messages["ack"], messages["lost"]) == (50, 50, 0)
        assert service.stop() == 0
    assert sorted(place.ledger()) == sorted(f"begin {number}" for number in range(50))


def _stay_full(service: Service, *, seconds: float) -> None:
    """Longer than the lease; the worker lives, and says that it is not well."""
    until(lambda: service.health()["status"] == "degraded", "it says that it is not well")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert service.health()["status"] == "degraded"
        assert service.ask("/livez")[0] == 200
        time.sleep(0.1)
