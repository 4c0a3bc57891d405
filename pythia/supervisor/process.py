"""One process, from its start to its end, as the supervisor sees it."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from pythia.supervisor.channel import Wire
from pythia.supervisor.merging import Snapshot, read
from pythia.supervisor.order import Order
from pythia.supervisor.policy import KILL_GRACE_SECONDS

_NOT_FOR_CHILDREN = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
)  # the supervisor's own


class Handle(Protocol):
    """A running process: what the supervisor needs of it."""

    pid: int
    wire: Wire

    def poll(self) -> int | None: ...
    def signal(self, number: int) -> None: ...


Start = Callable[[Order], Handle]


class Spawned:
    """A fresh interpreter: it inherits no loop, no thread, no lock and no descriptor but its wire and the output.

    It has a process group of its own: Ctrl-C reaches the supervisor alone, which then stops everybody once.
    """

    def __init__(self, order: Order) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "pythia.supervisor", str(number), f"{order.post.target}#{order.slot}"],
                pass_fds=(number,),
                stdin=subprocess.DEVNULL,
                env=environment,
                process_group=0,
            )
        self.pid = self._process.pid
        self.wire = Wire(ours)
        self.wire.send(pickle.dumps(order))

    def poll(self) -> int | None:
        """Its exit code once it has ended (negative: the signal), and then it is reaped."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


@dataclass(slots=True)
class Living:
    """What is known of a process that has not been reaped."""

    handle: Handle
    started_at: float  # monotonic, like all times here
    worker: str | None = None  # its name, once it said so
    drain_seconds: float | None = None
    running_at: float | None = None
    failed: str | None = None  # why it could not start, in its own words
    metrics: Snapshot | None = None  # the last it said
    kill_at: float | None = None  # set when it was told to stop
    closed: bool = False  # its wire

    @property
    def pid(self) -> int:
        return self.handle.pid

    @property
    def stopping(self) -> bool:
        return self.kill_at is not None

    def take_in(self, message: Mapping[str, Any], now: float) -> None:
        """What it says about itself; what cannot be understood is left."""
        if isinstance(card := message.get("hello"), dict):
            self.worker, drain = str(card.get("worker")), card.get("drain_timeout_seconds")
            self.drain_seconds = float(drain) if isinstance(drain, int | float) else None
        if message.get("running"):
            self.running_at = now
        if message.get("failed"):
            self.failed = str(message["failed"])
        if "metrics" in message:
            with suppress(ValueError):
                self.metrics = read(message["metrics"])

    def dismiss(self, now: float, longest: float) -> None:
        """SIGTERM; a second one hurries it. ``longest`` seconds are its own deadline, by which it ends by itself."""
        if self.kill_at is None:
            self.kill_at = now + longest + KILL_GRACE_SECONDS
        self.handle.signal(signal.SIGTERM)
        self.handle.signal(signal.SIGCONT)  # one that is frozen would not hear it

    def kill_if_late(self, now: float) -> None:
        """SIGKILL, if it was told to stop and is still there past its deadline."""
        if self.kill_at is not None and now >= self.kill_at:
            self.handle.signal(signal.SIGKILL)
            self.kill_at = now + KILL_GRACE_SECONDS


def in_words(code: int) -> str:
    """``exit 70``, ``SIGKILL``."""
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def reap_strangers(ours: frozenset[int]) -> None:
    """As the first process of a container: take note of the end of whoever was left to us. Does nothing elsewhere."""
    if os.getpid() != 1:
        return
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid in ours:
                return  # ours is reaped by its own handle, and the next round finds the rest
            os.waitpid(found.si_pid, 0)
