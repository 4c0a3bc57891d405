"""The first process of a container, where one worker runs without a supervisor: it passes signals on, and reaps.

The kernel gives the first process whoever has lost its parent, and a worker that took care of those would take the ends of its
own handlers' children from them. So the worker is forked off, before it has a thread or a loop, into a group of its own (Ctrl-C
then reaches it once), and what stays behind does nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def is_first() -> bool:
    """Whether this is the first process of its namespace."""
    return os.getpid() == 1


def run_beneath(work: Callable[[], int]) -> int:
    """Run ``work`` in a child; the exit code, in both processes: 128 + N for a child that signal N has ended."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    awaited = (signal.SIGCHLD, *PASSED_ON)
    former = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        return work()
    while True:
        number = signal.sigwait(awaited)
        if number != signal.SIGCHLD:
            os.kill(child, number)
        elif (status := _reap(child)) is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reap(child: int) -> int | None:
    """Everybody who has ended; how ``child`` did, once it has."""
    ended: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            ended = status
