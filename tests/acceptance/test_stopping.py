"""Stopping a service: what runs finishes, what waits goes back, and the exit code tells the truth."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from tests.acceptance.service_kit import PYTHIA, Place, until

SLOW = """
import asyncio, os
from pythia import Worker

class App(Worker):
    concurrency = 50

    async def process_message(self, message):
        note(f"begin {message.body}")
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        note(f"end {message.body}")

def note(line):
    fd = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (line + "\\n").encode())
    os.close(fd)
"""

ENDLESS = """
import asyncio, time
from pythia import Worker

class App(Worker):
    async def process_message(self, message):
        match message.body:
            case "swallow":
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        pass
            case "sleep":
                await asyncio.sleep(3600)
            case "block":
                time.sleep(3600)

            case "talk":
                for _ in range(100):
                    print("." * 10_000, flush=True)

class Threaded(Worker):
    def process_message(self, message):
        time.sleep(3600)
"""


def test_running_handlers_finish_and_are_acked_and_nothing_new_starts(tmp_path: Path) -> None:
    """SIGTERM with 50 in flight and 1,000 waiting: 50 ends, 0 redeliveries, 1,000 ready, exit 0."""
    place = Place(tmp_path, SLOW)
    place.publish("default", list(range(1050)))
    with place.running() as service:
        until(lambda: len(place.ledger()) >= 50, "50 handlers running")
        service.signal(signal.SIGTERM)
        service.wait_for("worker.stopping")
        (tmp_path / "go").touch()
        assert service.ended() == 0
    begun = [line for line in place.ledger() if line.startswith("begin")]
    ended = [line for line in place.ledger() if line.startswith("end")]
    assert len(begun) == len(ended) == 50
    depth = place.depth()
    assert (depth["ready"], depth["in_flight"]) == (1000, 0)
    assert place.rows("SELECT count(*) FROM messages WHERE attempt > 1") == [(0,)]


def test_a_handler_that_swallows_its_cancellation_is_handed_back_and_the_exit_is_75(tmp_path: Path) -> None:
    place = Place(tmp_path, ENDLESS)
    ids = place.publish("default", ["swallow", "sleep"])
    with place.running(PYTHIA_DRAIN_TIMEOUT_SECONDS="4") as service:
        until(lambda: place.depth()["in_flight"] == 2, "both in flight")
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        assert service.ended() == 75
        assert time.monotonic() - began < 4 + 2
        released = service.events("drain.released")[0]
    assert sorted(released["message_ids"]) == sorted(ids)
    depth = place.depth()
    assert (depth["ready"], depth["in_flight"]) == (2, 0)
    assert place.rows("SELECT DISTINCT attempt FROM messages") == [(1,)]


def test_a_handler_that_blocks_the_loop_for_ever_ends_with_the_process(tmp_path: Path) -> None:
    """Nothing can run on the loop: the process leaves at the deadline, names the message, and its lease runs out."""
    place = Place(tmp_path, ENDLESS)
    ids = place.publish("default", ["block"])
    with place.running(PYTHIA_DRAIN_TIMEOUT_SECONDS="2", PYTHIA_LEASE_SECONDS="2") as service:
        until(lambda: place.depth()["in_flight"] == 1, "in flight")
        service.signal(signal.SIGTERM)
        assert service.ended() == 75
        assert service.events("drain.released")[0]["message_ids"] == ids
    with place.running():
        until(lambda: place.rows("SELECT deliveries, attempt FROM messages") == [(2, 1)], "delivered again, uncounted")


def test_a_log_that_nobody_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    place = Place(tmp_path, ENDLESS)
    place.publish("default", ["talk"])
    command = [*PYTHIA, "run", "app:App", "-b", place.url, "--no-http"]
    environment = place.environment | {"PYTHIA_DRAIN_TIMEOUT_SECONDS": "2"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
        until(lambda: place.depth()["in_flight"] == 1, "in flight")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75


def test_a_thread_that_never_returns_ends_with_the_process(tmp_path: Path) -> None:
    place = Place(tmp_path, ENDLESS)
    place.publish("default", ["thread"])
    with place.running(target="app:Threaded", PYTHIA_DRAIN_TIMEOUT_SECONDS="2") as service:
        until(lambda: place.depth()["in_flight"] == 1, "in flight")
        service.signal(signal.SIGTERM)
        assert service.ended() == 75
    assert place.depth()["ready"] == 1


def test_an_idle_worker_stops_at_once(tmp_path: Path) -> None:
    place = Place(tmp_path, SLOW)
    with place.running() as service:
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 5  # of which most is the interpreter's own end on a busy machine
        assert service.events("worker.stopped")[0]["seconds"] >= 0


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    place = Place(tmp_path, ENDLESS)
    place.publish("default", ["sleep"])
    with place.running(PYTHIA_DRAIN_TIMEOUT_SECONDS="50") as service:
        until(lambda: place.depth()["in_flight"] == 1, "in flight")
        service.signal(signal.SIGTERM)
        service.wait_for("worker.stopping")
        service.signal(signal.SIGTERM)
        assert service.ended(deadline=20) == 75
    assert place.depth()["ready"] == 1


def test_a_storm_of_signals_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, SLOW)
    with place.running() as service:
        for _ in range(50):
            service.signal(signal.SIGUSR1)
            service.signal(signal.SIGUSR2)
        for _ in range(20):
            if service.process.poll() is None:
                service.signal(signal.SIGTERM)
        assert service.ended() == 0
