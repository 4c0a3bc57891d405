"""A process of a worker's: its event loop, and who ends it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

from pythia import Worker, service

APP = """
import asyncio, sys
{before}
from pythia import Worker

class App(Worker):
    async def on_startup(self):
        print(type(asyncio.get_running_loop()).__module__)
        self.stop()

    async def process_message(self, message):
        raise AssertionError("the queue is empty")

if __name__ == "__main__":
    sys.exit(App().run())
"""


@pytest.mark.parametrize(
    ("before", "loop"),
    [("import uvloop", "uvloop"), ("sys.modules['uvloop'] = None", "asyncio.unix_events")],
    ids=["installed", "absent"],
)
def test_the_loop_is_the_fastest_that_is_installed(tmp_path: Path, before: str, loop: str):
    script = tmp_path / "app.py"
    script.write_text(APP.format(before=before))
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={"PYTHIA_HTTP__PORT": "0", "PYTHIA_BROKER__URL": "memory://", "PYTHIA_LOG__LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, loop, "")


def test_at_the_deadline_the_process_ends_once(monkeypatch: pytest.MonkeyPatch):
    """Whoever comes second waits for the end: two exits at once may run what is to run at the exit twice, and beside each other."""

    class App(Worker):
        async def process_message(self, message): ...

    life, left = service.life_of(App()), []
    monkeypatch.setattr(threading, "Timer", mock.Mock())  # it would end this process
    monkeypatch.setattr(service, "_leave", lambda code: left.append((code, service._leaving.locked())))
    service._Doom(life)._fire()
    assert left == [(75, True)], "nobody else ends it meanwhile"
    assert not service._leaving.locked()
