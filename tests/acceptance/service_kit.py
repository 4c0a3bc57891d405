"""Runs ``pythia`` as a user would: in a process of its own, observed by its log, its files and its exit code."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pythia import SyncPublisher
from tests.kit.frozen import freeze

PYTHIA = (sys.executable, "-m", "pythia")
DEADLINE = 60.0

NOTE = """
import asyncio, os, signal, time
from pythia import Defer, Drop, Reject, Retry, RetryPolicy, Worker

LEDGER = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def note(*words):
    os.write(LEDGER, (" ".join(map(str, words)) + "\\n").encode())
"""
"""How a worker's module begins: ``note(...)`` is one line in the ledger ``effects``, whole whatever happens to the process."""

_PR_CAPBSET_DROP, _CAPABILITIES_TO_WRITE_ANYWHERE = 24, (1, 2)  # Linux: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def bound_by_permissions() -> None:
    """In a child, before it becomes the command: root too must respect what a file's mode says from now on."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in _CAPABILITIES_TO_WRITE_ANYWHERE:
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                os._exit(99)


def assert_one_clear_line(text: str, *words: str) -> str:
    """That ``text`` is one line for a person, which holds ``words`` (regular expressions), and no traceback."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert not re.search("Traceback|bug of Pythia", text), text
    for word in words:
        assert re.search(word, text), f"{word!r} is not in {text!r}"
    return lines[0]


def assert_one_failure(text: str, *words: str) -> None:
    """That a log tells of exactly one error, the end of the worker, in one line with ``words``."""
    lines = [json.loads(line) for line in text.splitlines()]
    errors = [line for line in lines if line["level"] == "error"]
    assert [line["event"] for line in errors] == ["worker.failed"], text
    assert_one_clear_line(errors[0]["message"], *words)
    assert "Traceback" not in text


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The first true answer of ``condition``; fails, naming ``what``, when none comes before the deadline."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline:g} s: {what}")


class Service:
    """A ``pythia run`` that was started; its log is read line by line as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, event: str, *, count: int = 1, deadline: float = DEADLINE) -> list[dict[str, Any]]:
        """Until the log has ``count`` lines of ``event``."""
        with self._news:
            found = self._news.wait_for(lambda: len(self.events(event)) >= count or self._over(), deadline)
        if not found or len(self.events(event)) < count:
            raise AssertionError(f"no {event!r} in the log: {''.join(self.text[-20:])}")
        return self.events(event)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == event]

    @property
    def url(self) -> str:
        """Where its probes answer."""
        url: str = self.wait_for("worker.starting")[0]["http"]
        return url

    def ask(self, path: str, deadline: float = 10.0) -> tuple[int, str]:
        """GET; the status and the body. Fails when there is no answer before the deadline."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=deadline)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.ask("/health")[1])
        return answer

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, deadline: float = DEADLINE) -> int:
        """Its exit code, once it has ended and everything that it logged was read."""
        code = self.process.wait(deadline)
        self._reader.join(deadline)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.ended()

    def _over(self) -> bool:
        return not self._reader.is_alive()

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        for line in stream:
            with self._news:
                self.text.append(line)
                if line.startswith("{"):
                    self.lines.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


class Place:
    """A directory with a worker module and a queue file, and the commands that use them."""

    def __init__(self, directory: Path, module: str = "") -> None:
        self.directory = directory
        self.file = directory / "queue.db"
        self.url = f"sqlite:///{self.file}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHIA_")}
        self.environment["PYTHONUNBUFFERED"] = "1"
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start is as quick as a user's
        (directory / "app.py").write_text(module)

    def start(
        self, *arguments: str, target: str = "app:App", default_port: bool = False, **environment: str
    ) -> Service:
        """``pythia run``; without probes unless ``--port`` is among the arguments, or ``default_port``."""
        command = [*PYTHIA, "run", *target.split(), "-b", self.url, "--log-format", "json", *arguments]
        if not default_port and not {"--port", "--no-http"} & set(arguments):
            command.append("--no-http")
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Service(process)

    @contextmanager
    def running(self, *arguments: str, target: str = "app:App", **environment: str) -> Iterator[Service]:
        """Started and consuming inside; killed at the end if it is still there."""
        service = self.start(*arguments, target=target, **environment)
        try:
            service.wait_for("consumer.registered")
            yield service
        finally:
            service.kill()

    def command(
        self, *arguments: str, stdin: str | None = None, as_anybody: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end. ``as_anybody``: with the powers of any user, even if the tests run as root."""
        return subprocess.run(
            [*PYTHIA, *arguments],
            cwd=self.directory,
            env=self.environment | {"PYTHIA_BROKER__URL": self.url} | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            preexec_fn=bound_by_permissions if as_anybody else None,
        )

    def run_to_the_end(self, *arguments: str, target: str = "app:App", **environment: str) -> tuple[int, str]:
        """``pythia run`` without probes until it ends; its exit code and what it said."""
        done = self.command("run", target, "--no-http", "--log-format", "json", *arguments, **environment)
        return done.returncode, done.stdout + done.stderr

    def freeze(self, pid: int) -> None:
        """Stop a process of its workers in a moment in which it keeps nobody out of the queue file."""
        freeze(pid, self.file)

    def publish_bytes(self, queue: str, body: bytes, **said: Any) -> str:
        """Publish as any application may: whatever bytes, whatever they claim to be."""
        with SyncPublisher(self.url) as publisher:
            return publisher.publish(queue, body, **said)

    def dead(self, queue: str = "default") -> list[dict[str, Any]]:
        done = self.command("dead", "list", queue, "--json", "--limit", "1000")
        assert done.returncode == 0, done.stderr
        items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        return items

    def publish(self, queue: str, bodies: list[Any]) -> list[str]:
        """Publish each body as JSON; the ids."""
        lines = "".join(json.dumps(body) + "\n" for body in bodies)
        done = self.command("publish", queue, "-", "--lines", stdin=lines)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def depth(self, queue: str = "default") -> dict[str, Any]:
        done = self.command("queues", queue, "--json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)["queues"][0]
        return answer

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the queue file says, read beside the service."""
        connection = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def ledger(self, name: str = "effects") -> list[str]:
        """The lines that handlers appended to a file."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []
