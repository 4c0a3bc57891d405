"""An event loop without a machine beneath it: its time is virtual, and chance, which a seed decides, orders what is ready.

Nothing is waited for: when nothing is ready, the time is that of the next timer. There are no threads, sockets or processes;
whoever asks for one is refused, and it is noted what was asked for. Tasks belong to *processes* of this small world, which
can be halted (SIGSTOP) and killed (SIGKILL): what is killed runs no line more, not even its ``finally``.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from random import Random
from typing import Any, NoReturn

from pythia.errors import PythiaError

TURN_SECONDS = 20e-6  # what a turn of the loop takes
LOOK_SECONDS = 50e-6  # what passes between two looks at a stopwatch
HORIZON_SECONDS = 10_000_000.0
PARTING_ROUNDS, PARTING_SECONDS = 10, 60.0


class Stuck(PythiaError):
    """Nothing is ready, nothing ever will be, or not before the end of days: somebody waits for what does not come."""


class Beyond(PythiaError):
    """The code under simulation asked for something of a real machine."""


class Process:
    """One process of the simulated world: the tasks that were made in its ``context``."""

    def __init__(self, number: int, context: Context) -> None:
        self.number = number
        self.context = context
        self.halted = False
        self.dead = False
        self.parked: list[asyncio.Handle] = []
        context.run(PROCESS.set, self)


PROCESS: ContextVar[Process | None] = ContextVar("pythia_simulated_process", default=None)


class SeededTask(asyncio.Task[Any]):
    """A task whose place in a set is that of its making, not of its address: a set of tasks has one order for a seed."""

    def __init__(self, coro: Any, *, loop: SeededLoop, **options: Any) -> None:
        loop.made += 1
        self.number = loop.made
        self.process = PROCESS.get()
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class SeededLoop(asyncio.BaseEventLoop):
    """Runs everything on virtual time. ``shuffle`` is how likely a turn's ready callbacks lose the order in which they came."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, random: Random, *, shuffle: float = 1.0) -> None:
        super().__init__()
        self.set_debug(enabled=False)
        self._clock_resolution = 1e-9
        self._now = 0.0
        self._random = random
        self._shuffle = shuffle
        self._killed: list[Process] = []
        self._held: list[asyncio.Task[Any]] = []  # of killed processes: a collected coroutine would run its `finally`
        self.made = 0
        self.needs: str | None = None  # the first thing of a real machine that was asked for
        self.set_task_factory(lambda loop, coro, **options: SeededTask(coro, loop=loop, **options))
        self.set_exception_handler(lambda _loop, _context: None)  # told when a task is collected: at no certain moment

    def time(self) -> float:
        return self._now

    def stopwatch(self) -> float:
        """The time, as who measures work sees it: it passes while one looks."""
        self._now += LOOK_SECONDS
        return self._now

    # Processes.

    def halt(self, process: Process) -> None:
        """Stop it where it stands: what would run now runs when it goes on, its timers late."""
        process.halted = True

    def go_on(self, process: Process) -> None:
        process.halted = False
        self._ready.extend(process.parked)
        process.parked.clear()

    def kill(self, process: Process) -> None:
        """End it: none of its tasks takes another step."""
        process.halted = process.dead = True
        self._killed.append(process)
        self._held += [task for task in asyncio.all_tasks(self) if getattr(task, "process", None) is process]

    def part(self) -> None:
        """Cancel whatever is left, the killed included, until it has ended; then close. What they do now nobody looks at."""
        for process in self._killed:
            self.go_on(process)
        left = asyncio.all_tasks(self)
        for _ in range(PARTING_ROUNDS):
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.wait(left, timeout=PARTING_SECONDS))
            left = asyncio.all_tasks(self)
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - swallows every cancellation
        self._held.clear()
        self.close()

    # Turns.

    def _run_once(self) -> None:
        """One turn: what is ready, in an order that chance decides; time moves on when nothing is."""
        ready, timers = self._ready, self._scheduled
        while timers and timers[0]._cancelled:  # noqa: SLF001 - as the base class does
            heapq.heappop(timers)
        self._now += TURN_SECONDS
        if not ready and not self._stopping:
            self._leap(timers)
        while timers and timers[0].when() <= self._now:
            ready.append(heapq.heappop(timers))
        turn = list(ready)
        ready.clear()
        if len(turn) > 1 and self._random.random() < self._shuffle:
            self._random.shuffle(turn)
        for handle in turn:
            self._run_handle(handle)

    def _leap(self, timers: list[asyncio.TimerHandle]) -> None:
        if not timers or timers[0].when() > HORIZON_SECONDS:
            raise Stuck("somebody waits for what does not come")
        self._now = max(self._now, timers[0].when())

    def _run_handle(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:  # noqa: SLF001 - as the base class does
            return
        process: Process | None = handle._context.get(PROCESS)  # type: ignore[attr-defined]  # noqa: SLF001 - whose it is
        if process is None or not process.halted:
            handle._run()  # noqa: SLF001 - as the base class does
        else:
            process.parked.append(handle)

    # What is not there.

    def call_soon_threadsafe(  # type: ignore[override]  # typeshed ties the arguments to the callback's
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != getattr(self, "_thread_id", None) and self.is_running():
            self.needs = self.needs or "a thread"
        return self.call_soon(callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave when their time has come."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


def _refusing(name: str, what: str) -> Callable[..., NoReturn]:
    def refused(self: SeededLoop, *_args: Any, **_options: Any) -> NoReturn:
        self.needs = self.needs or f"{what} (loop.{name})"
        raise Beyond(f"there is no {what.removeprefix('a ')} in a simulation (loop.{name})")

    return refused


_BEYOND = {
    "a thread": ("run_in_executor",),
    "a socket": (
        *("create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection"),
        *("create_unix_server", "getaddrinfo", "getnameinfo", "start_tls", "connect_accepted_socket", "sendfile"),
        *("sock_connect", "sock_accept", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_sendall", "sock_sendto"),
        *("add_reader", "add_writer", "connect_read_pipe", "connect_write_pipe"),
    ),
    "a process": ("subprocess_exec", "subprocess_shell"),
    "a signal": ("add_signal_handler",),
}
for _what, _names in _BEYOND.items():
    for _name in _names:
        setattr(SeededLoop, _name, _refusing(_name, _what))


class SimulatedClock:
    """One machine's clocks: the monotonic one is the loop's, the other may be stepped."""

    def __init__(self, loop: SeededLoop, start: float = 1_700_000_000.0) -> None:
        self._loop = loop
        self._ahead = start

    def time(self) -> float:
        return self._loop.time() + self._ahead

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def step(self, seconds: float) -> None:
        """What NTP or an operator does to the time of day."""
        self._ahead += seconds
