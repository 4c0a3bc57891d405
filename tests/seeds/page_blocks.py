"""The Python blocks of the first page, as printed, and the ways to run one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

PAGE = Path(__file__).parent / "page"
DEADLINE = 30.0  # seconds for anything that a busy machine does at once

# The imports that the page makes in an earlier block, or leaves out.
IMPORTS = """\
import asyncio
import time
from datetime import datetime

import aiohttp

from pythia.config import WorkerConfig
from pythia.core import Worker
from pythia.core.lifecycle import LifecycleManager, WorkerState
"""


def files() -> list[Path]:
    return sorted(PAGE.glob("*.py"))


def text(name: str) -> str:
    return (PAGE / f"{name}.py").read_text()


def load(name: str, **helpers: Any) -> Any:
    """The names of a block after it ran, in a module of its own. ``helpers`` are put beside the imports."""
    module = ModuleType(f"page_{name}")
    names = vars(module)
    exec(compile(IMPORTS, "imports", "exec"), names)
    names.update(helpers)
    exec(compile(text(name), str(PAGE / f"{name}.py"), "exec"), names)
    return module


class Script:
    """A block run by a Python of its own in an empty folder; its log lines are read as they come."""

    def __init__(
        self, folder: Path, name: str, *, before: str = IMPORTS, after: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        path = folder / f"{name[3:]}.py"
        path.write_text(f"{before}\n{text(name)}\n{after}")
        self.lines: list[dict[str, Any]] = []
        self._rest = b""
        self._said = folder / f"{name}.log"
        with self._said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", path.name],
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._reading = self._said.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._reading.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log line with this event; every event that came so far is in ``events``."""
        deadline = time.monotonic() + DEADLINE
        while True:
            ended = self.process.poll() is not None
            self._read()
            for line in self.lines:
                if line["event"] == event:
                    return line
            assert not ended, f"ended with {self.process.returncode} before {event!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {event!r} within {DEADLINE} s:\n{self.output}"
            time.sleep(0.02)

    def ends_after(self, number: signal.Signals) -> int:
        """Its exit code, after this signal."""
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self._read()
        return code

    @property
    def events(self) -> Sequence[str]:
        return [line["event"] for line in self.lines]

    @property
    def output(self) -> str:
        return self._said.read_text(errors="replace")

    def _read(self) -> None:
        *whole, self._rest = (self._rest + self._reading.read()).split(b"\n")
        self.lines += [json.loads(line) for line in whole]
