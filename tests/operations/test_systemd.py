"""The unit for systemd: that systemd understands it, and that a worker which runs as it says tells systemd what it should."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_kit import NOTE, PYTHIA, Place, until

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "config" / "systemd" / "pythia@.service"
SECONDS = 60.0

APP = (
    NOTE
    + """
class App(Worker):
    async def process_message(self, message):
        note("begin", message.id, os.getpid())
        time.sleep(message.body)
"""
)


def settings() -> dict[str, list[str]]:
    """What the unit says, by name; a name may stand several times."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_says_what_the_exit_codes_and_deadlines_ask_for():
    unit = {name: values[-1] for name, values in settings().items()}
    assert unit["Type"] == "notify"
    assert unit["SuccessExitStatus"] == "75"
    assert unit["RestartPreventExitStatus"] == "64 78"
    assert unit["KillSignal"] == "SIGTERM"
    assert int(unit["TimeoutStopSec"]) >= 25 + 5  # above drain_timeout_seconds
    assert 0 < int(unit["WatchdogSec"]) <= 60
    assert unit["ExecReload"] == "/bin/kill -USR1 $MAINPID"
    assert (unit["DynamicUser"], unit["NoNewPrivileges"], unit["ProtectSystem"]) == ("yes", "yes", "strict")
    assert unit["CapabilityBoundingSet"] == ""


def test_no_variable_of_the_unit_is_one_that_pythia_would_refuse():
    names = [word.partition("=")[0] for value in settings()["Environment"] for word in value.split()]
    assert not [name for name in names if name.startswith("PYTHIA_")]
    assert settings()["ExecStart"] == ["/opt/pythia/bin/pythia run ${TARGET}"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit_and_finds_it_confined(tmp_path: Path):
    there = UNIT.read_text().replace("/opt/pythia/bin/pythia", "/bin/true")  # it wants the program to exist
    unit = tmp_path / "pythia@orders.service"
    unit.write_text(there)
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(["systemd-analyze", *command, unit], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr, done.stderr


class Systemd:
    """Listens where ``NOTIFY_SOCKET`` points, and remembers what came and when."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.lines: list[str] = []

    def wait_for(self, line: str) -> None:
        """Until ``line`` comes; what came before it is in ``lines``."""
        deadline = time.monotonic() + SECONDS
        while line not in self.lines:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                self.lines += self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"no {line} among {self.lines}") from None

    def forget(self) -> None:
        self.lines.clear()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listening = Systemd(tmp_path / "notify")
    with listening.socket:
        yield listening


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}


def test_a_service_tells_its_start_its_reload_its_signs_of_life_and_its_stop(
    tmp_path: Path, systemd: Systemd, environment: dict[str, str]
):
    place = Place(tmp_path, APP)
    with place.running(**environment) as service:
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=running")
        systemd.forget()
        systemd.wait_for("WATCHDOG=1")
        systemd.forget()
        service.signal(signal.SIGUSR1)
        systemd.wait_for("RELOADING=1")
        systemd.wait_for("READY=1")
        systemd.forget()
        service.signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert service.ended() == 0


def test_a_handler_that_blocks_is_no_reason_to_be_restarted_and_a_process_that_stands_still_is(
    tmp_path: Path, systemd: Systemd, environment: dict[str, str]
):
    place = Place(tmp_path, APP)
    with place.running(**environment) as service:
        place.publish("default", [6])
        until(place.ledger, "the handler runs")
        service.wait_for("loop.blocked")
        for _ in range(4):  # half a second each: it still sleeps
            systemd.forget()
            systemd.wait_for("WATCHDOG=1")
        os.kill(service.pid, signal.SIGSTOP)
        systemd.socket.settimeout(2.0)
        with pytest.raises(TimeoutError):
            while True:
                systemd.socket.recv(4096)  # what it had said before
        os.kill(service.pid, signal.SIGCONT)
        systemd.forget()
        systemd.wait_for("WATCHDOG=1")


def test_a_worker_that_waits_for_its_broker_is_a_service_that_has_started(
    tmp_path: Path, systemd: Systemd, environment: dict[str, str]
):
    place = Place(tmp_path, APP)
    place.url = "amqp://127.0.0.1:1/"
    service = place.start(**environment)
    try:
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=initializing, waiting_for_broker")
    finally:
        service.kill()


def test_a_library_that_runs_a_worker_leaves_what_systemd_is_told_to_its_program(
    tmp_path: Path, systemd: Systemd, environment: dict[str, str]
):
    place = Place(tmp_path, APP)
    script = "import asyncio\nfrom app import App\n\nasync def main():\n    async with App().running():\n        pass\n\nasyncio.run(main())\n"
    (tmp_path / "program.py").write_text(script)
    done = subprocess.run(
        [PYTHIA[0], "program.py"],
        cwd=tmp_path,
        env=place.environment | environment | {"PYTHIA_BROKER__URL": "memory://"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    systemd.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.socket.recv(4096)
