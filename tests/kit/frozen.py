"""Stops a process so that it stands still and holds no lock on a queue file."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from pythia.proof.crew import stands_still

STILL_SECONDS = 30.0


def freeze(pid: int, file: Path | None = None) -> None:
    """SIGSTOP; returns when every thread stands still, which on a busy machine takes a while.

    ``file`` is locked meanwhile: a process that is stopped within a transaction would keep all others out of it.
    """
    with closing(sqlite3.connect(file or ":memory:", timeout=STILL_SECONDS, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + STILL_SECONDS
        while not stands_still(pid):
            assert time.monotonic() < deadline, f"{pid} does not stand still"
            time.sleep(0.005)
