"""The machines of a simulated world: each runs one worker process at a time, which can be killed, halted, stopped and started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import copy_context
from random import Random
from typing import Any

from pythia.config import WorkerConfig
from pythia.core.calling import written
from pythia.core.state import WorkerState
from pythia.core.worker import Worker
from pythia.errors import PythiaError
from pythia.proof.seeded_loop import Process, SimulatedClock
from pythia.proof.witness import Seam, Witness, World
from pythia.service import RunOptions, life_of, live

OPTIONS = RunOptions(http=False, signals=False)
BEAT_SECONDS = 5.0  # a pulse that nobody watches

MakeWorker = Callable[[], Worker]
Vary = Callable[[int, Mapping[str, Any]], WorkerConfig]


class ReloadFailed(Exception):
    """What a user's hook raises."""


class Host:
    """One machine. ``make`` gives a new worker for each process on it, ``vary`` its configuration with other lanes and keys."""

    def __init__(self, world: World, make: MakeWorker, vary: Vary) -> None:
        self._world = world
        self._make = make
        self._vary = vary
        self.clock = SimulatedClock(world.loop)
        self.worker: Worker
        self.process: Process
        self.seam: Seam
        self.task: asyncio.Task[None] | None = None
        self._made: list[Worker] = []

    @property
    def up(self) -> bool:
        """A process runs, or is on its way up or down."""
        return self.task is not None and not self.task.done() and not self.process.dead

    @property
    def serving(self) -> bool:
        return self.up and not self.process.halted and self.worker.state is WorkerState.RUNNING

    def start(self, *, again: bool = False) -> None:
        """Start a process; ``again`` with the worker of the one before, which was stopped."""
        self._world.processes += 1
        self.process = Process(self._world.processes, copy_context())
        if not again:
            self.worker = self._make()
            self._made.append(self.worker)
        self.seam = Seam(self._world, self.process)
        self._equip(self.worker, self.seam)
        self.note_lanes()
        self.task = self.process.context.run(asyncio.create_task, self._live(self.worker, self.process))

    def start_if_down(self) -> None:
        if not self.up:
            self.start()

    def _equip(self, worker: Worker, seam: Seam) -> None:
        life, loop = life_of(worker), self._world.loop
        life.clock, life.stopwatch, life.beat_seconds = self.clock, loop.stopwatch, BEAT_SECONDS
        life.random = Random(self._world.random.getrandbits(32))  # noqa: S311 - jitter, no secret
        life.open_broker = lambda _config: seam
        life.open_store = lambda _config: seam
        theirs = [one for one in worker.middlewares if not isinstance(one, Witness)]
        worker.middlewares = (Witness(self._world, self.process, worker), *theirs)

    async def _live(self, worker: Worker, process: Process) -> None:
        try:
            await live(worker, OPTIONS)
        except Exception as error:  # noqa: BLE001 - whatever ends a worker is what the judge must know
            self._world.note("failed", process.number, text=f"{type(error).__name__}: {error}")
            if not isinstance(error, PythiaError):
                self._world.errors.append(error)

    def note_lanes(self) -> None:
        self._note_lanes(self.worker.config)

    def _note_lanes(self, config: WorkerConfig) -> None:
        most = config.concurrency * (config.batch.size if written(type(self.worker).process_batch) else 1)
        self._world.note("lanes", self.process.number, text=str(most))

    # What is done to it.

    def kill(self, *, at_once: bool) -> None:
        """SIGKILL: the broker notices at once (a connection) or when the leases are over."""
        self._world.note("fault", self.process.number, text="kill")
        self._world.loop.kill(self.process)
        self.seam.crash(at_once=at_once)

    def halt(self, *, renewing: bool) -> None:
        """SIGSTOP, or a blocked loop whose lease keeper still renews."""
        self._world.note("fault", self.process.number, text="blocked loop" if renewing else "pause")
        self._world.loop.halt(self.process)
        if not renewing:
            for consumer in self.seam.live():
                consumer.stop_renewing()

    def go_on(self) -> None:
        """SIGCONT. The keeper renews again what is still ours."""
        if self.process.dead or not self.process.halted:
            return
        self._world.note("wenton", self.process.number)
        for consumer in self.seam.live():
            self._world.store.renew_again(consumer.holder, self._world.clock.time())
        self._world.loop.go_on(self.process)

    def stop(self) -> None:
        """SIGTERM; it goes down by itself."""
        self._world.note("stopping", self.process.number)
        self._inside(self.worker.stop)

    def pause(self) -> None:
        self._inside(self.worker.pause)
        self._world.note("paused", self.process.number)

    def resume(self) -> None:
        self._inside(self.worker.resume)
        self._world.note("resumed", self.process.number)

    def reload(self, concurrency: int, others: Mapping[str, Any], *, fails: bool) -> None:
        """SIGUSR1, with another number of lanes and other keys; ``fails``: the user's hook raises in the end."""
        config, worker = self._vary(concurrency, others), self.worker
        applies, takes = self._world.random.random() < 0.5, self._world.random.choice((0.0, 1.0))

        async def read_again() -> None:
            if applies:  # as the default does, before it calls the user's hook
                await life_of(worker).reloader.apply(config)
            else:  # as the user's own may
                worker.config = config
            await asyncio.sleep(takes)
            if fails:
                raise ReloadFailed

        self._note_lanes(config)
        worker.reload_config = read_again  # type: ignore[method-assign]  # its sources say the same for ever
        self._inside(life_of(worker).reload)

    def _inside(self, act: Callable[[], object]) -> None:
        """What begins by it is this process's."""
        self.process.context.copy().run(act)

    # What its workers say of themselves, when all is over.

    def note_residuals(self) -> None:
        """The engines' own accounts: they must add up."""
        for worker in self._made:
            life = life_of(worker)
            counts = life.tally.outcomes()
            stopped = life.state is WorkerState.STOPPED
            if counts["residual"] or (stopped and counts["in_flight"]):
                self._world.note("residual", self.process.number, text=f"{worker.name}: {counts}")
