"""A process of a worker's runs on uvloop where that is installed, and on asyncio's own loop where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
