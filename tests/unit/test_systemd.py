"""What systemd is told, over a socket like its own."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pythia import WorkerConfig
from pythia.core.events import WorkerRunning, WorkerStopping
from pythia.core.metrics import Metrics
from pythia.core.state import WorkerState
from pythia.core.status import Connection, Status
from pythia.core.tally import Tally
from pythia.observability.health import HEARTBEAT_LIMIT_SECONDS
from pythia.observability.systemd import Notifier


class Systemd:
    """Listens where ``NOTIFY_SOCKET`` points."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(path.replace("@", "\0", 1))
        self.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}

    def heard(self) -> list[str]:
        """The lines that have come since the last time."""
        lines = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listening = Systemd(str(tmp_path / "notify"))
    with listening.socket:
        yield listening


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def status(clock: Clock) -> Status:
    made = Status(WorkerConfig(broker={"url": "memory://"}), Tally(), Metrics())
    made.heartbeat = clock.now
    return made


def run(status: Status) -> None:
    status.state, status.started_up = WorkerState.RUNNING, True
    status.connection = Connection(connected=True, since=0.0)
    status.tally.queue("orders").registered = True


def test_ready_is_told_once_and_not_before_the_worker_has_started(systemd: Systemd, status: Status, clock: Clock):
    notifier = Notifier(status, systemd.environment, clock=clock)
    status.state = WorkerState.STARTING
    notifier.look()
    assert "READY=1" not in systemd.heard()
    run(status)
    notifier(WorkerRunning(ready_after_seconds=0.1))
    assert systemd.heard() == ["READY=1", "STATUS=running"]
    notifier.look()
    assert systemd.heard() == []


def test_a_worker_that_waits_for_its_broker_has_started_and_says_that_it_waits(
    systemd: Systemd, status: Status, clock: Clock
):
    status.waiting_for_broker = True
    Notifier(status, systemd.environment, clock=clock).look()
    assert systemd.heard()[:2] == ["READY=1", "STATUS=initializing, waiting_for_broker"]


def test_one_that_fails_to_start_is_never_ready(systemd: Systemd, status: Status, clock: Clock):
    status.state, status.failure = WorkerState.ERROR, "no such table"
    Notifier(status, systemd.environment, clock=clock).look()
    assert systemd.heard() == ["STATUS=error, failed"]


def test_stopping_is_told_at_once_and_signs_of_life_go_on_during_the_drain(
    systemd: Systemd, status: Status, clock: Clock
):
    run(status)
    notifier = Notifier(status, systemd.environment, clock=clock)
    notifier.look()
    systemd.heard()
    status.state = WorkerState.STOPPING
    notifier(WorkerStopping(cause="SIGTERM", in_flight=3))
    assert systemd.heard() == ["STOPPING=1", "STATUS=stopping, draining"]
    clock.now = status.heartbeat = clock.now + 16
    notifier.look()
    assert systemd.heard() == ["WATCHDOG=1"]


def test_signs_of_life_come_twice_as_often_as_they_are_due(systemd: Systemd, status: Status, clock: Clock):
    run(status)
    notifier = Notifier(status, systemd.environment, clock=clock)
    signs = 0
    for _ in range(4 * 60):
        clock.now = status.heartbeat = clock.now + 0.25
        notifier.look()
        signs += systemd.heard().count("WATCHDOG=1")
    assert signs == 4


def test_a_handler_that_blocks_the_loop_is_left_alone_for_a_minute_and_not_longer(
    systemd: Systemd, status: Status, clock: Clock
):
    run(status)
    notifier = Notifier(status, systemd.environment, clock=clock)
    signs = []
    for _ in range(4 * 200):
        clock.now += 0.25  # and the loop does not turn
        notifier.look()
        signs += [clock.now - status.heartbeat] * systemd.heard().count("WATCHDOG=1")
    assert HEARTBEAT_LIMIT_SECONDS - 15 <= signs[-1] < HEARTBEAT_LIMIT_SECONDS
    status.heartbeat = clock.now
    notifier.look()
    assert "WATCHDOG=1" in systemd.heard()


@pytest.mark.parametrize("changed", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "soon"}])
def test_no_sign_of_life_is_given_that_was_not_asked_of_this_process(
    systemd: Systemd, status: Status, clock: Clock, changed: dict[str, str]
):
    run(status)
    notifier = Notifier(status, systemd.environment | changed, clock=clock)
    clock.now = status.heartbeat = clock.now + 60
    notifier.look()
    assert "READY=1" in (heard := systemd.heard())
    assert "WATCHDOG=1" not in heard


@pytest.mark.parametrize("fails", [False, True])
def test_a_reload_is_framed_whatever_becomes_of_it(systemd: Systemd, status: Status, fails: bool):
    notifier = Notifier(status, systemd.environment)
    try:
        with notifier.reloading():
            begun = systemd.heard()
            assert begun[0] == "RELOADING=1"
            assert re.fullmatch(r"MONOTONIC_USEC=\d+", begun[1])
            if fails:
                raise LookupError
    except LookupError:
        assert fails
    assert systemd.heard() == ["READY=1"]


def test_an_abstract_socket_is_spoken_to(status: Status):
    listening = Systemd(f"@pythia-test-{secrets.token_hex(8)}")
    with listening.socket:
        run(status)
        Notifier(status, listening.environment).look()
        assert "READY=1" in listening.heard()


def test_a_reader_that_is_stuck_or_gone_holds_nothing_up(systemd: Systemd, status: Status, clock: Clock):
    run(status)
    notifier = Notifier(status, systemd.environment, clock=clock)
    for _ in range(10_000):  # more than its buffer takes
        clock.now = status.heartbeat = clock.now + 30
        notifier.look()
    systemd.socket.close()
    clock.now = status.heartbeat = clock.now + 30
    notifier.look()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_that_it_knows_it_says_nothing(status: Status, environment: dict[str, str]):
    run(status)
    notifier = Notifier(status, environment)
    notifier.look()
    with notifier.reloading():
        pass
