"""The worker processes of a run: each in a place of its own, which is taken by another when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from pythia.errors import PythiaError, StoreError
from pythia.proof.child import Task
from pythia.proof.ledger import Ledger
from pythia.proof.proxy import Proxy

CHILD = (sys.executable, "-m", "pythia.proof.child")
DYING_SECONDS = 10.0
_STOPPED_STATES = ("T", "t")


def stands_still(pid: int) -> bool:
    """Whether a child of ours is stopped by SIGSTOP, where there is /proc each of its threads: some go on for a while."""
    threads = Path(f"/proc/{pid}/task")
    if not threads.is_dir():
        state = subprocess.run(  # noqa: S603 - asks for our own child, where there is no /proc
            ["/bin/ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return state.stdout.strip()[:1] in _STOPPED_STATES
    try:
        stats = [(thread / "stat").read_text() for thread in threads.iterdir()]
    except OSError:  # one has ended meanwhile
        return False
    return all(stat.rpartition(")")[2].split()[0] in _STOPPED_STATES for stat in stats)


class WorkerEnded(PythiaError):
    """A worker of the run ended by itself."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Slot:
    """One place for a worker process, with the connection that it uses. Faults of one place wait for one another."""

    def __init__(
        self, number: int, task: Task, ledger: Ledger, proxy: Proxy | None, command: Sequence[str] = CHILD
    ) -> None:
        self.number = number
        self.proxy = proxy
        self.busy = threading.Lock()  # a fault is at the process
        self.link_busy = threading.Lock()  # a fault is at its connections
        self.pids: list[int] = []  # all that were ever here
        self._task = task
        self._command = command
        self._ledger = ledger
        self._process: subprocess.Popen[bytes] | None = None
        self._told_gone = True

    @property
    def pid(self) -> int:
        return self.pids[-1] if self.pids else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start a worker here; returns at once."""
        folder = Path(self._task.folder)
        with (folder / f"worker-{self.number}.txt").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - what whoever verifies says
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=_environment(),
                start_new_session=True,  # an interrupt at the terminal is for us
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(self._task.dumps() + b"\n")
            self._process.stdin.close()
        self._told_gone = False
        self._ledger.tell("born", pid=self._process.pid, slot=self.number)
        self.pids.append(self._process.pid)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> int:
        """SIGKILL; how it ended."""
        self.signal(signal.SIGKILL)
        return self.ended(DYING_SECONDS)

    def ended(self, seconds: float) -> int:
        """Wait until it has ended; the exit code, negative for a signal.

        Raises:
            TimeoutError: it has not.
        """
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"worker {self.pid} has not ended within {seconds:g} s") from None
        if not self._told_gone:
            self._told_gone = True
            self._ledger.tell("gone", pid=self.pid)
        return code

    def look_after(self, *, excused: bool = False) -> None:
        """Start another worker where one ended that nobody had killed: that is told. ``excused``: not of one that says that it
        found no room on the disk."""
        if self.running or self._told_gone or not self.busy.acquire(blocking=False):
            return
        try:
            code = None if self._process is None else self._process.poll()
            if code is None:
                return
            self._told_gone = True
            alone = "" if excused and code == StoreError.exit_code else f"ended by itself with {code}"
            self._ledger.tell("gone", pid=self.pid, alone=alone)
            self.start()
        finally:
            self.busy.release()

    def last_words(self) -> str:
        """The end of what the workers here have printed."""
        lines = (Path(self._task.folder) / f"worker-{self.number}.txt").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


class Crew:
    """All workers of a run. A context manager: at the end none is left."""

    def __init__(
        self, tasks: Mapping[int, Task], ledger: Ledger, proxies: Mapping[int, Proxy], command: Sequence[str] = CHILD
    ) -> None:
        self.slots = [Slot(number, task, ledger, proxies.get(number), command) for number, task in tasks.items()]

    def __enter__(self) -> Self:
        for slot in self.slots:
            slot.start()
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self.slots:
            if slot.running:
                slot.signal(signal.SIGCONT)
                slot.kill()

    def wait_until_working(self, begun: Callable[[int], bool], seconds: float) -> float:
        """Until each has begun a message; how long that took.

        Raises:
            WorkerEnded: one ended, or did not begin in time.
        """
        since = time.monotonic()
        while waiting := [slot for slot in self.slots if not begun(slot.pid)]:
            for slot in waiting:
                if not slot.running:
                    code = slot.ended(0)
                    raise WorkerEnded(f"the worker ended with {code} at its start: {slot.last_words()}", max(code, 1))
            if time.monotonic() - since > seconds:
                raise WorkerEnded(f"no message was begun within {seconds:g} s: {waiting[0].last_words()}", 1)
            time.sleep(0.02)
        return time.monotonic() - since

    def stop(self, seconds: float) -> None:
        """SIGTERM to all; each must end by itself, and well."""
        for slot in self.slots:
            slot.look_after()
            slot.signal(signal.SIGTERM)
        for slot in self.slots:
            code = slot.ended(seconds)
            if code not in (0, 75):
                raise WorkerEnded(f"worker {slot.pid} ended with {code} at the stop: {slot.last_words()}", 1)


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *_where_we_are()]))
    return environment


def _where_we_are() -> list[str]:
    """The folder of this package, so that a child runs the same one from whatever folder it is started."""
    return [str(Path(__file__).parents[2])]
