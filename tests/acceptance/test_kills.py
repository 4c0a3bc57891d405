"""Killed, stopped, frozen or locked out at a moment of the test's choice; nothing is lost, and nothing done twice without a cause.

Moments by chance, and many of them: ``tests/faults/test_endurance.py``.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.acceptance.service_kit import NOTE, Place, until

PATIENT = (
    NOTE
    + """
class App(Worker):
    concurrency = 20

    async def process_message(self, message):
        note("begin", message.body, os.getpid())
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        note("end", message.body, os.getpid())
"""
)

WAITS_TO_BE_FROZEN = (
    NOTE
    + """
class App(Worker):
    async def process_message(self, message):
        note("begin", message.body, os.getpid())
        if not os.path.exists("once"):
            open("once", "w").close()
            while not os.path.exists("thawed"):
                time.sleep(0.001)
        else:
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
        note("end", message.body, os.getpid())
"""
)

SLOW_START = """
import os, time
from pythia import Worker

if "SLOW_IMPORT" in os.environ:
    print("importing", flush=True)
    time.sleep(3600)

class App(Worker):
    async def on_startup(self):
        import asyncio
        print("starting up", flush=True)
        await asyncio.sleep(3600)

    async def on_shutdown(self):
        print("on_shutdown ran", flush=True)

    async def process_message(self, message):
        pass
"""

PUBLISHES = """
import os, sys
from pythia import SyncPublisher

flight = int(sys.argv[2])
confirmed = os.open("confirmed", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
with SyncPublisher(sys.argv[1]) as publisher:
    while True:
        ids = publisher.publish_many("default", [{"n": n} for n in range(flight)])
        os.write(confirmed, "".join(i + "\\n" for i in ids).encode())
"""

LOCKS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_worker_killed_while_it_drains_loses_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, PATIENT)
    place.publish("default", [f"m{number}" for number in range(40)])
    with place.running(PYTHIA_LEASE_SECONDS="2") as first:
        until(lambda: len(place.ledger()) >= 20, "20 handlers running")
        first.signal(signal.SIGTERM)
        first.wait_for("worker.stopping")
        until(lambda: place.depth()["ready"] == 20, "what none had begun is handed back")
        first.kill()
    (tmp_path / "go").touch()
    assert place.run_to_the_end("--burst", PYTHIA_LEASE_SECONDS="2")[0] == 0
    with place.running(PYTHIA_LEASE_SECONDS="2") as second:
        until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "the killed worker's leases have run out")
        assert second.stop() == 0
    begun = [line.removeprefix("begin ").rpartition(" ") for line in place.ledger() if line.startswith("begin ")]
    caught, runs = {name for name, _, pid in begun if pid == str(first.pid)}, Counter(name for name, *_ in begun)
    ended = [line.split()[1] for line in place.ledger() if line.startswith("end ")]
    assert sorted(ended) == sorted(f"m{number}" for number in range(40)), "each came to its end, and once"
    assert len(caught) == 20
    assert runs == {name: 1 + (name in caught) for name in ended}, (
        "what the kill caught was run again, and nothing else"
    )


def test_a_stop_during_on_startup_is_clean_and_runs_no_on_shutdown(tmp_path: Path) -> None:
    service = Place(tmp_path, SLOW_START).start()
    until(lambda: "starting up\n" in service.text, "on_startup runs")
    assert service.stop() == 0
    assert "on_shutdown ran\n" not in service.text
    assert "Traceback" not in "".join(service.text)


def test_a_stop_while_the_users_module_is_imported_is_clean(tmp_path: Path) -> None:
    service = Place(tmp_path, SLOW_START).start(SLOW_IMPORT="1")
    until(lambda: "importing\n" in service.text, "the import has begun")
    assert service.stop() == 0
    assert "Traceback" not in "".join(service.text)


def test_a_reload_signal_while_the_users_module_is_imported_does_not_kill(tmp_path: Path) -> None:
    service = Place(tmp_path, SLOW_START).start(SLOW_IMPORT="1")
    until(lambda: "importing\n" in service.text, "the import has begun")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        service.signal(number)
    assert service.stop() == 0


def test_a_stop_while_the_broker_is_waited_for_is_clean(tmp_path: Path) -> None:
    place = Place(tmp_path, PATIENT)
    place.publish("default", ["m"])
    with locked(place):
        service = place.start(PYTHIA_BROKER__CONNECT_TIMEOUT_SECONDS="0.2")
        service.wait_for("broker.lost")
        assert service.stop() == 0
    assert place.depth()["ready"] == 1


def test_a_process_stopped_for_longer_than_its_lease_settles_too_late_and_disturbs_nobody(tmp_path: Path) -> None:
    """The other has it by then: the late settlement is stale, counted, and changes nothing."""
    place = Place(tmp_path, WAITS_TO_BE_FROZEN)
    with place.running("--port", "0", PYTHIA_LEASE_SECONDS="2") as first:
        place.publish("default", ["m"])
        until((tmp_path / "once").exists, "its handler runs")
        place.freeze(first.pid)
        (tmp_path / "thawed").touch()
        with place.running(PYTHIA_LEASE_SECONDS="2") as second:
            until(lambda: f"begin m {second.pid}" in place.ledger(), "the second worker handles it")
            first.signal(signal.SIGCONT)
            until(lambda: first.events("settle.stale") + first.events("lease.lost"), "the first has noticed")
            until(lambda: f"end m {first.pid}" in place.ledger(), "its handler has ended")
            until(lambda: first.health()["messages"]["in_flight"] == 0, "the first holds nothing")
            messages = first.health()["messages"]
            assert (messages["received"], messages["lost"], messages["residual"]) == (1, 1, 0)
            assert place.rows("SELECT state, attempt, deliveries FROM messages") == [(2, 1, 2)], "it is the second's"
            (tmp_path / "go").touch()
            until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "the second has settled it")
            assert [first.stop(), second.stop()] == [0, 0]
            assert len(first.events("message.ownership_lost")) == 1
    assert sum(line.startswith("begin m ") for line in place.ledger()) == 2
    assert place.rows("SELECT count(*) FROM dead_letters") == [(0,)]


def test_a_busy_process_stopped_for_longer_than_its_lease_costs_at_most_a_second_run(tmp_path: Path) -> None:
    place = Place(tmp_path, PATIENT)
    names = [f"m{number}" for number in range(100)]
    place.publish("default", names)
    with place.running("--port", "0", PYTHIA_LEASE_SECONDS="2") as first:
        until(lambda: len(place.ledger()) >= 20, "20 handlers running")
        place.freeze(first.pid)
        (tmp_path / "go").touch()
        with place.running("--port", "0", PYTHIA_LEASE_SECONDS="2") as second:
            until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "the second has done everything")
            first.signal(signal.SIGCONT)
            for service in (first, second):
                until(lambda service=service: service.health()["messages"]["in_flight"] == 0, "it holds nothing")
                assert service.health()["messages"]["residual"] == 0
            assert first.health()["messages"]["lost"] >= 20
            assert second.health()["messages"]["ack"] == 100
            assert [first.stop(), second.stop()] == [0, 0]
    begun = [line.split()[1] for line in place.ledger() if line.startswith("begin")]
    assert set(begun) == set(names)
    assert max(begun.count(name) for name in names) == 2


def test_what_a_killed_publisher_had_confirmed_is_stored(tmp_path: Path) -> None:
    """And what was not yet confirmed is stored by whole flights of a thousand, or not at all."""
    place = Place(tmp_path)
    (tmp_path / "publishes.py").write_text(PUBLISHES)
    chance = random.Random(8)
    for _ in range(4):
        command = [sys.executable, "publishes.py", place.url, "3000"]
        with subprocess.Popen(command, cwd=tmp_path, env=place.environment) as publisher:
            had = len(place.ledger("confirmed"))
            until(lambda had=had: len(place.ledger("confirmed")) > had, "something confirmed")
            time.sleep(chance.uniform(0.0, 0.2))  # the moment of the kill
            publisher.kill()
    confirmed = place.ledger("confirmed")
    place.depth()  # whoever comes next rolls back what the killed one had begun
    stored = {row[0] for row in place.rows("SELECT id FROM messages")}
    assert len(confirmed) >= 4 * 3000
    assert set(confirmed) <= stored
    assert len(stored) % 1000 == 0


def test_a_file_locked_by_another_process_for_a_while_is_waited_for(tmp_path: Path) -> None:
    """Longer than one transaction waits for the lock: settlements are refused, kept, and asked again."""
    place = Place(tmp_path, PATIENT)
    names = [f"m{number}" for number in range(60)]
    place.publish("default", names)
    with place.running("--port", "0") as service:
        until(lambda: len(place.ledger()) >= 20, "20 handlers running")
        with locked(place):
            (tmp_path / "go").touch()
            until(lambda: sum(line.startswith("end") for line in place.ledger()) >= 20, "handled while it is locked")
            service.wait_for("settle.failed", deadline=30)
        until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "all settled")
        until(lambda: service.health()["messages"]["in_flight"] == 0, "and counted")
        messages = service.health()["messages"]
        assert (messages["ack"], messages["lost"], messages["residual"]) == (60, 0, 0)
        assert len(service.events("settle.failed")) == 1
        assert service.stop() == 0
    assert sorted(place.ledger()) == sorted(
        f"{verb} {name} {service.pid}" for name in names for verb in ("begin", "end")
    )


class locked:
    """While entered, another process holds the queue file's lock."""

    def __init__(self, place: Place) -> None:
        self._command = [sys.executable, "-c", LOCKS, str(place.file)]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "locked\n"

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate()
