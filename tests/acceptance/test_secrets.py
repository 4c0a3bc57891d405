"""A broker's password, given by the environment, is in nothing that Pythia prints, logs, answers or shows in a process list."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.service_kit import DEADLINE, NOTE, PYTHIA, Place, Service, until
from tests.kit import servers

CANARY = "c4n4ry"
PASSWORD = (
    f"{CANARY}%2F5%3Ax%40"  # in a URL it is escaped, in a driver's hands it is not: either way it holds the canary
)

APP = (
    NOTE
    + """
class App(Worker):
    queue = "secrets"

    async def process_message(self, message):
        pass
"""
)

UNREACHABLE = {
    "amqp": f"amqp://shop:{PASSWORD}@127.0.0.1:1/shop",
    "amqps": f"amqps://shop:{PASSWORD}@127.0.0.1:1/shop",
    "stream": f"redis://shop:{PASSWORD}@127.0.0.1:1/0",
    "list": f"redis://:{PASSWORD}@127.0.0.1:1/0?mode=list",
    "pubsub": f"rediss://:{PASSWORD}@127.0.0.1:1/0?mode=pubsub",
    "parameter": f"redis://127.0.0.1:1/0?password={PASSWORD}",
}
COMMANDS = (
    ("check",),
    ("queues",),
    ("queues", "--watch"),
    ("publish", "secrets", "1"),
    ("dead", "list", "secrets"),
    ("move", "-", "sqlite:///moved.db", "secrets"),
    ("config", "show", "--origin"),
)


def _refusing_rabbitmq() -> str:
    return f"amqp://guest:{PASSWORD}@{urlsplit(servers.require_rabbitmq()).netloc.rpartition('@')[2]}/"


def _refusing_redis() -> str:
    return f"redis://nobody:{PASSWORD}@{urlsplit(servers.require_redis()).netloc.rpartition('@')[2]}/0"


REFUSING: dict[str, Callable[[], str]] = {"amqp": _refusing_rabbitmq, "redis": _refusing_redis}


def assert_clean(text: str) -> None:
    """That the canary is nowhere in ``text``, in any case of letters."""
    assert CANARY not in text.lower(), re.findall(f"(?i).*{CANARY}.*", text)[:3]


def start(place: Place, url: str) -> Service:
    """``pythia run`` with the URL in the environment alone."""
    process = subprocess.Popen(
        [*PYTHIA, "run", "app:App", "--port", "0", "--log-format", "json", "--log-level", "debug"],
        cwd=place.directory,
        env=place.environment | {"PYTHIA_BROKER__URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Service(process)


def told_by_every_command(place: Place, url: str, *options: str) -> dict[tuple[str, ...], tuple[int, str]]:
    """What each command ends with and prints."""
    told = {}
    for command in COMMANDS:
        done = place.command(*options, *command, PYTHIA_BROKER__URL=url)
        told[command] = done.returncode, done.stdout + done.stderr
    return told


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_a_worker_that_waits_for_its_broker_shows_no_password_anywhere(tmp_path: Path, kind: str) -> None:
    service = start(Place(tmp_path, APP), UNREACHABLE[kind])
    try:
        service.wait_for("broker.lost")
        for path in ("/health", "/readyz", "/metrics", "/config", "/"):
            status, body = service.ask(path)
            assert status in (200, 503)
            assert_clean(body)
        assert json.loads(service.ask("/health")[1])["broker"]["url"].count("***") == 1
        for shown in ("cmdline", "comm", "status"):
            assert_clean(Path(f"/proc/{service.pid}/{shown}").read_text())
        assert service.stop() == 0
    finally:
        service.kill()
    said = "".join(service.text)
    assert_clean(said)
    assert "***" in said
    assert not [
        line for line in service.text if not line.startswith("{")
    ]  # nothing beside the log: no driver prints by itself
    told = {line["event"].split(".")[0] for line in service.lines}
    assert told - {"loop"} == {"worker", "broker"}  # a machine so busy that it blocks a loop may be told of


@pytest.mark.parametrize("kind", REFUSING)
def test_a_worker_that_is_refused_says_so_once_without_the_password_and_ends_with_78(tmp_path: Path, kind: str) -> None:
    service = start(Place(tmp_path, APP), REFUSING[kind]())
    assert service.ended() == 78
    said = "".join(service.text)
    assert_clean(said)
    assert [line["event"] for line in service.lines if line["level"] == "error"] == ["broker.refused", "worker.failed"]
    assert not [line for line in service.text if not line.startswith("{")]


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, ("-v",)) for kind in UNREACHABLE), ("amqp", ()), ("stream", ())]
)
def test_no_command_prints_the_password_of_a_broker_that_is_not_there(
    tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    for command, (code, said) in told_by_every_command(Place(tmp_path), UNREACHABLE[kind], *options).items():
        assert_clean(said)
        assert (command, code) == (command, 0 if command[0] == "config" else 69)
        if not options and command[0] not in ("check", "config"):
            assert said.count("\n") == 1, said


@pytest.mark.parametrize("options", [(), ("-v",)], ids=["one line", "traceback"])
@pytest.mark.parametrize("kind", REFUSING)
def test_no_command_prints_the_password_that_a_broker_refuses(
    tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    for command, (code, said) in told_by_every_command(Place(tmp_path), REFUSING[kind](), *options).items():
        assert_clean(said)
        assert (command, code) == (command, 0 if command[0] == "config" else 78)
        if not options and command[0] not in ("check", "config"):
            assert said.count("\n") == 1, said


SCRIPT = """
import os
from pythia import SyncPublisher
with SyncPublisher(os.environ["URL"]) as publisher:
    publisher.publish("secrets", 1)
"""


@pytest.mark.parametrize(
    "url", [*UNREACHABLE.values(), *REFUSING.values()], ids=[*UNREACHABLE, *map("refusing {}".format, REFUSING)]
)
def test_an_application_that_lets_the_error_fly_shows_a_traceback_without_the_password(
    tmp_path: Path, url: str | Callable[[], str]
) -> None:
    url = url if isinstance(url, str) else url()
    environment = Place(tmp_path).environment | {"URL": url}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 1
    assert re.search(r"^pythia\.errors\.Broker(Unavailable|Refused): ", done.stderr, re.MULTILINE)
    assert_clean(done.stdout + done.stderr)
    assert done.stderr.startswith("Traceback")  # no driver's logger printed before it


def test_a_leak_would_be_found(tmp_path: Path) -> None:
    place = Place(tmp_path)
    done = place.command("queues", "-b", UNREACHABLE["amqp"])
    assert_clean(done.stdout + done.stderr)
    process = subprocess.Popen([*PYTHIA, "queues", "--watch", "-b", UNREACHABLE["amqp"]], stderr=subprocess.DEVNULL)
    try:
        until(lambda: CANARY in Path(f"/proc/{process.pid}/cmdline").read_text(), "an argument is visible")
        with pytest.raises(AssertionError):
            assert_clean(Path(f"/proc/{process.pid}/cmdline").read_text())
    finally:
        process.kill()
        process.wait()
