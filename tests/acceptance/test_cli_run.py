"""``pythia run`` and what is typed beside it, as a user types it: in processes, on a queue file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_kit import COMMAND, Ended, environment, pythia_command

WORKER = """
import os
from pathlib import Path
from pythia import Reject, Worker, handler

class Orders(Worker):
    queue = "orders"

    async def process_message(self, message):
        if message.body == "bad":
            raise Reject("it is bad")
        with Path("done.txt").open("a") as file:
            file.write(f"{message.body} {message.queue} {os.environ.get('FROM_FILE')}\\n")

@handler("mails")
async def on_mail(message):
    Path("mail.txt").write_text(str(message.body))
"""


@pytest.fixture
def shop(tmp_path) -> Callable[..., Ended]:
    """Types ``pythia ARGS`` in a directory with workers.py."""
    (tmp_path / "workers.py").write_text(WORKER)

    def type_command(*args: str, **more: Any) -> Ended:
        return pythia_command(*args, cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"), **more)

    (tmp_path / "run").mkdir()
    return type_command


class Service:
    """A ``pythia run`` in the background; its log is read as it comes."""

    def __init__(self, args: tuple[str, ...], cwd: Path) -> None:
        env = environment(XDG_RUNTIME_DIR=str(cwd / "run"), PYTHONUNBUFFERED="1")
        self.process = subprocess.Popen(
            [*COMMAND, "run", *args], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._grew = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grew:
                self.lines.append(line)
                self._grew.notify_all()

    def event(self, name: str, seconds: float = 30) -> dict[str, Any]:
        """The first line of the log with this event."""
        deadline = time.monotonic() + seconds
        with self._grew:
            while True:
                for line in self.lines:
                    if f'"event":"{name}"' in line:
                        return json.loads(line)
                assert self._grew.wait(deadline - time.monotonic()), "".join(self.lines)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def running(*args: str, cwd: Path) -> Iterator[Service]:
    service = Service(args, cwd)
    try:
        service.event("worker.running")
        yield service
    finally:
        service.stop()


def test_burst_handles_what_is_ready_and_ends(shop, tmp_path):
    assert shop("publish", "orders", "-", "--lines", stdin='"a"\n"bad"\n"b"\n').code == 0
    done = shop("run", "workers:Orders", "--burst", "--port", "0")
    assert done.code == 0, done.err
    assert sorted(line.split()[0] for line in (tmp_path / "done.txt").read_text().splitlines()) == ["a", "b"]
    (row,) = shop("queues", "--json").json["queues"]
    assert (row["ready"], row["in_flight"], row["dead"]) == (0, 0, 1)
    (item,) = shop("dead", "show", "orders", "--json").json["items"]
    assert (item["reason"], item["body"], item["error"]["message"]) == ("rejected", "bad", "it is bad")
    assert shop("dead", "purge", "orders", "--all").code == 0
    assert shop("queues", "--exit-code").code == 0


def test_the_options_of_run_win_over_the_class_and_the_environment(shop, tmp_path):
    shop("publish", "bulk", '"a"')
    (tmp_path / ".env").write_text("FROM_FILE=yes\nPYTHIA_CONCURRENCY=7\nPYTHIA_WORKER_NAME=from-file\n")
    options = ["-q", "bulk", "-q", "orders", "-n", "shop", "--env-file", ".env", "-l", "debug", "--log-format", "json"]
    done = shop("run", "workers:Orders", *options, "--burst", "--no-http", PYTHIA_QUEUES="nowhere")
    assert done.code == 0, done.err
    assert (tmp_path / "done.txt").read_text() == "a bulk yes\n"
    starting = next(json.loads(line) for line in (done.out + done.err).splitlines() if "worker.starting" in line)
    assert (starting["worker"], starting["queues"]) == ("shop", ["bulk", "orders"])
    assert (starting["concurrency"], starting["http"]) == (7, None)


def test_max_messages_ends_it_early(shop, tmp_path):
    shop("publish", "orders", '"a"', "--count", "20")
    assert shop("run", "workers:Orders", "-c", "1", "--max-messages", "3", "--no-http").code == 0
    assert len((tmp_path / "done.txt").read_text().splitlines()) == 3


def test_a_handler_function_runs(shop, tmp_path):
    shop("publish", "mails", '"hello"')
    assert shop("run", "workers:on_mail", "--burst", "--no-http").code == 0
    assert (tmp_path / "mail.txt").read_text() == "hello"


def test_verbose_shows_the_traceback_of_the_users_error(shop, tmp_path):
    (tmp_path / "broken.py").write_text("def load():\n    raise ValueError('boom')\n\nload()\n")
    assert "Traceback" not in shop("run", "broken").err
    verbose = shop("-v", "run", "broken").err
    assert "Traceback" in verbose
    assert "importing broken raised ValueError: boom" in verbose.splitlines()[-1]


def test_a_running_worker_is_asked_paused_and_resumed(shop, tmp_path):
    with running("workers:Orders", "--port", "0", cwd=tmp_path) as service:
        url = service.event("worker.starting")["http"]
        service.event("consumer.registered")
        assert shop("health", "--live", "--url", url).code == 0
        ready = shop("health", "--url", url)
        assert (ready.code, ready.out) == (0, "ready (running)\n")
        paused = shop("pause", str(service.process.pid), "--json")
        assert (paused.code, paused.json["paused"]) == (0, True)
        unready = shop("health", "--url", url, "--json")
        assert (unready.code, unready.json["reasons"][0]["code"]) == (1, "paused")
        assert shop("health", "--live", "--url", url).code == 0
        assert shop("resume").code == 0
        assert shop("health", "--url", url).code == 0
        assert service.stop() == 0
    assert shop("pause", str(service.process.pid)).code == 64
    assert list((tmp_path / "run").rglob("*.json")) == []


def test_a_reload_signal_while_user_code_is_imported_does_not_kill(shop, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\nfrom workers import Orders\n"
    )
    done = shop("run", "slow:Orders", "--burst", "--no-http")
    assert done.code == 0, done.err


def test_sigterm_while_user_code_is_imported_ends_it_cleanly(shop, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nfrom workers import Orders\n"
    )
    done = shop("run", "slow:Orders", "--no-http")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_what_init_prints_works_as_printed_and_its_tests_pass(shop, tmp_path):
    made = shop("init", "order-desk")
    assert made.code == 0
    commands = [line.strip() for line in made.out.splitlines() if " -m " in line or line.strip().startswith("pythia ")]
    run, publish, queues, test = commands
    project = tmp_path / "order-desk"
    env = environment(
        XDG_RUNTIME_DIR=str(tmp_path), PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )

    def type_line(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line, shell=True, cwd=project, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    assert type_line(publish).returncode == 0
    ran = type_line(f"{run} --burst --port 0")
    assert ran.returncode == 0, ran.stderr
    assert '"name":"world"' in ran.stdout + ran.stderr
    assert type_line(queues).stdout.splitlines()[1].split()[:2] == ["order-desk", "0"]
    for line in (test, f"{sys.executable} -m unittest discover -s tests"):
        tested = type_line(line)
        assert tested.returncode == 0, tested.stdout + tested.stderr
