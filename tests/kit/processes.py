"""Servers that a test starts for itself: each in a session of its own, ended with us however we end."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BOOT_SECONDS = 90.0  # RabbitMQ takes six on a quiet machine
STOP_SECONDS = 20.0

# Kills the group when its input ends without a word: this process died, be it of SIGKILL.
_GUARD = 'read word && exit 0; kill -s KILL -- "-$1" 2>/dev/null'


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Started:
    """One running server: a process group that can be stopped, killed and suspended as a whole."""

    def __init__(self, command: Sequence[str | Path], *, env: Mapping[str, str], output: Path) -> None:
        self._output = output
        with output.open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd=output.parent,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        atexit.register(self.kill)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float = BOOT_SECONDS) -> None:
        """Until ``ready()``; a server that ended or takes too long is killed, and its last words are in the error."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self._process.args} did not start: {self._last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what does not heed it."""
        self.resume()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all of it; returns when it is gone. Idempotent."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(b"over\n")
                self._guard.stdin.close()
        self._guard.wait()
        atexit.unregister(self.kill)

    def suspend(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a zombie's group
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        return self._output.read_text(errors="replace")[-2000:]
