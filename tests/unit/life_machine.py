"""A Hypothesis machine that plays with a real worker: the lifecycle, the engine and the memory broker, in virtual time.

It does at random what a day may bring, looks after every step whether everything that was promised still holds, and notes
which moves of the two tables it has seen: a machine that never got as far as RUNNING proves nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pythia.broker import ConsumerCancelled, Settled
from pythia.brokers.memory import MemoryBroker
from pythia.clock import settle_loop
from pythia.core.events import MessageOwnershipLost
from pythia.core.retry import RetryPolicy
from pythia.core.state import DELIVERY, WORKER, WorkerState
from pythia.core.worker import Worker
from pythia.errors import BrokerRefused, BrokerUnavailable, Defer, Drop, LifecycleError, Reject, StoreError
from tests.unit.core_kit import Kit, Seam, until

S = WorkerState
DRAIN_SECONDS, LEASE_SECONDS = 20.0, 30.0
HOWS: dict[str, Callable[[], Exception | None]] = {
    "ack": lambda: None,
    "fail": lambda: ValueError("failed"),
    "defer": lambda: Defer(3),
    "reject": lambda: Reject("never"),
    "drop": lambda: Drop("not wanted"),
}


class Seen:
    """What a campaign has come to see: of worker states and moves, and of a message's events."""

    def __init__(self) -> None:
        self.states: set[WorkerState] = set()
        self.moves: set[tuple[WorkerState, WorkerState]] = set()
        self.events: Counter[str] = Counter()

    def missing(self) -> list[str]:
        """What it has not seen. ``park`` needs keys of the worker's own, and is played in test_ordering."""
        missing = [f"state {state}" for state in S if state not in self.states]
        missing += [f"move {m.here} → {m.there}" for m in WORKER if (m.here, m.there) not in self.moves]
        events = {move.event for move in DELIVERY} - {"park"}
        return missing + [f"event {event}" for event in sorted(events) if not self.events[event]]


class Player(Worker):
    concurrency = 3
    retry = RetryPolicy(base_seconds=1, jitter=0, max_attempts=3)
    handler_timeout_seconds = 35
    machine: LifeMachine

    async def on_startup(self) -> None:
        if self.machine.startup == "raises":
            raise OSError("no database")
        await self.machine.may_start.wait()

    async def process_message(self, message: Any) -> None:
        await self.machine.handle(self, message)


class LifeMachine(RuleBasedStateMachine):
    """One worker at a time, and the messages that outlive it."""

    seen = Seen()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.startup = "returns"
        self.handlers: list[tuple[Worker, asyncio.Future[None]]] = []
        self.published = self.replayed = 0
        self.ended: Counter[str] = Counter()  # of workers that were killed
        self.moved: list[tuple[WorkerState, WorkerState]] = []
        self.broken: list[str] = []
        self.do(self._new())

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self._end())
        self.runner.close()

    # What may happen.

    @precondition(lambda self: self._may_launch)
    @rule(
        connect=st.sampled_from(["served", "served", "served", "away", "refused"]),
        startup=st.sampled_from(["returns", "returns", "returns", "hangs", "raises"]),
    )
    def start(self, connect: str, startup: str) -> None:
        self.do(self._start(connect, startup))

    @precondition(lambda self: self.kit.faults.connect is not None)
    @rule()
    def the_broker_comes_back(self) -> None:
        self.do(self._broker_returns())

    @precondition(lambda self: self.state is S.STARTING)
    @rule()
    def on_startup_returns(self) -> None:
        self.do(self._started())

    @rule(delay=st.sampled_from([0.0, 0.0, 5.0]), count=st.integers(1, 6))
    def publish(self, delay: float, count: int) -> None:
        self.do(self._publish(delay, count))

    @precondition(lambda self: self.handlers)
    @rule(how=st.sampled_from(sorted(HOWS)), which=st.integers(0, 2), all_of_them=st.booleans())
    def handlers_end(self, how: str, which: int, all_of_them: bool) -> None:
        self.do(self._finish(how, which, all_of_them=all_of_them))

    @precondition(lambda self: self.state is S.RUNNING)
    @rule(count=st.integers(1, 9), how=st.sampled_from(sorted(HOWS)))
    def a_day_like_any_other(self, count: int, how: str) -> None:
        self.do(self._publish(0.0, count))
        self.do(self._pause(pause=False))
        self.do(self._finish(how, 0, all_of_them=True))

    @precondition(lambda self: self.state is S.RUNNING)
    @rule(pause=st.booleans())
    def pause_or_resume(self, pause: bool) -> None:
        self.do(self._pause(pause=pause))

    @precondition(lambda self: self.state is S.RUNNING)
    @rule(concurrency=st.integers(1, 4))
    def reload(self, concurrency: int) -> None:
        self.do(self._reload(concurrency))

    @rule(seconds=st.sampled_from([0.3, 2.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self._tick(seconds))

    @precondition(lambda self: self.state is S.STOPPING)
    @rule()
    def a_second_signal(self) -> None:
        self.do(self._hurry())

    @precondition(lambda self: self.state is S.STOPPING)
    @rule()
    def the_drain_has_had_its_time(self) -> None:
        self.do(self._drained())

    @precondition(lambda self: self.state is S.RUNNING)
    @rule(
        what=st.sampled_from(
            ["connection lost", "leases run out", "consumer cancelled", "settlements refused", "fails", "fails"]
        )
    )
    def trouble(self, what: str) -> None:
        """One rule for all of it: rules are chosen alike, and there must be some work between two troubles."""
        troubles = {
            "connection lost": self._cut,
            "leases run out": self._expire,
            "consumer cancelled": lambda: self._cancel(fatal=False),
            "settlements refused": self._refuse,
            "fails": lambda: self._cancel(fatal=True),
        }
        self.do(troubles[what]())

    @rule(kill=st.booleans())
    def stop(self, kill: bool) -> None:
        alive = self.kit.task is not None and not self.kit.task.done()
        self.do(self._kill() if kill and alive else self._stop())

    @rule()
    def dead_letters_are_replayed(self) -> None:
        self.do(self._replay())

    # What must hold.

    @invariant()
    def every_move_is_in_the_table(self) -> None:
        legal = {(move.here, move.there) for move in WORKER}
        assert set(self.moved) <= legal, self.moved
        self.seen.moves |= set(self.moved)
        self.seen.states |= {state for move in self.moved for state in move} | {self.state}

    @invariant()
    def what_came_is_settled_held_or_lost(self) -> None:
        assert self.kit.residuals <= {0}
        assert self.broken == []

    @invariant()
    def a_delivery_is_settled_once(self) -> None:
        done = Counter(id(s.delivery) for s, answer in self.kit.seam.settlements if answer is Settled.DONE)
        assert set(done.values()) <= {1}
        self._note()

    @invariant()
    def nothing_is_in_flight_once_it_is_stopped(self) -> None:
        if self.state is S.STOPPED:
            counts = self.kit.counts()
            assert counts["in_flight"] == 0, counts
            assert not self._handling()

    @invariant()
    def no_message_is_lost(self) -> None:
        depth = self.do(self.kit.depth())
        there = depth.ready + depth.delayed + depth.in_flight + depth.dead
        gone = self._done("ack") + self._done("drop")
        assert there + gone == self.published, (depth, gone, self.published)

    # How it is done.

    @property
    def state(self) -> WorkerState:
        return self.kit.worker.state

    @property
    def _may_launch(self) -> bool:
        over = self.kit.task is None or self.kit.task.done()
        return over and self.state in (S.INITIALIZING, S.STOPPED)

    def _handling(self) -> list[Any]:
        return [] if self.kit.life.engine is None else self.kit.life.engine.lanes.handling

    def _done(self, kind: str) -> int:
        now = sum(s.kind == kind and answer is Settled.DONE for s, answer in self.kit.seam.settlements)
        return now + self.ended[kind]

    async def _new(self) -> None:
        """A process that has done nothing yet, with the messages of the one before."""
        before: Kit | None = getattr(self, "kit", None)
        self.kit = kit = Kit(Player, drain_timeout_seconds=DRAIN_SECONDS, lease_seconds=LEASE_SECONDS)
        if before is not None:
            kit.clock, kit.store = before.clock, before.store
            kit.seam = Seam(kit.clock, kit.store, kit.faults)
            kit.seam.on_seen = kit._look
            kit.outside = MemoryBroker(clock=kit.clock, store=kit.store)
            kit.life.clock = kit.clock
        kit.worker.machine = self
        self.may_start = asyncio.Event()
        self._watch(kit)

    def _watch(self, kit: Kit) -> None:
        move = kit.life.move

        def watched(to: WorkerState) -> None:
            here = kit.life.state
            move(to)
            self.moved.append((here, to))

        kit.life.move = watched

    async def handle(self, worker: Worker, message: Any) -> None:
        if worker.state is not S.RUNNING or message.stopping.is_set():
            self.broken.append(f"a handler began while the worker was {worker.state}")
        self.seen.events["begin"] += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row = (worker, future)
        self.handlers.append(row)
        try:
            await future
        finally:
            self.handlers.remove(row)

    async def _start(self, connect: str, startup: str) -> None:
        self.startup = startup
        self.may_start = asyncio.Event()
        if startup == "returns":
            self.may_start.set()
        self.kit.faults.connect = {"served": None, "away": _away, "refused": _refused}[connect]
        self.kit.launch().add_done_callback(self._over)
        await settle_loop()

    def _over(self, task: asyncio.Task[None]) -> None:
        """A start may fail, and a worker may; a move that its own lifecycle refuses is a bug."""
        if not task.cancelled() and isinstance(error := task.exception(), LifecycleError):
            self.broken.append(str(error))

    async def _broker_returns(self) -> None:
        self.kit.faults.connect = None
        task = self.kit.task
        waiting = task is not None and not task.done() and self.state is S.INITIALIZING
        if waiting:
            await until(lambda: self.state is not S.INITIALIZING or self.kit.task.done())
        await settle_loop()

    async def _started(self) -> None:
        self.may_start.set()
        await until(lambda: self.state is not S.STARTING)

    async def _publish(self, delay: float, count: int) -> None:
        for _ in range(count):
            await self.kit.publish(delay=delay)
        self.published += count
        await settle_loop()

    async def _finish(self, how: str, which: int, *, all_of_them: bool) -> None:
        if not self.handlers:
            return
        rows = list(self.handlers) if all_of_them else [self.handlers[which % len(self.handlers)]]
        for _, future in rows:
            if not future.done():
                error = HOWS[how]()
                future.set_result(None) if error is None else future.set_exception(error)
        await settle_loop(60)

    async def _pause(self, *, pause: bool) -> None:
        self.kit.worker.pause() if pause else self.kit.worker.resume()
        await settle_loop(60)

    async def _reload(self, concurrency: int) -> None:
        self.kit.configure(concurrency=concurrency)
        await settle_loop()

    async def _tick(self, seconds: float) -> None:
        await self.kit.clock.advance(seconds)
        await settle_loop(60)

    async def _stop(self) -> None:
        self.kit.worker.stop()
        await settle_loop(60)
        if self.state is S.INITIALIZING and self.kit.task is not None:
            await asyncio.wait({self.kit.task}, timeout=10)

    async def _hurry(self) -> None:
        self.kit.life.hurry.set()
        await settle_loop(60)

    async def _drained(self) -> None:
        """However it goes, it is over when the deadline is."""
        await self.kit.clock.advance(DRAIN_SECONDS)
        await until(self.kit.task.done)
        assert self.state is S.STOPPED

    async def _cut(self) -> None:
        self.kit.seam.cut()
        await settle_loop(60)

    async def _expire(self) -> None:
        for consumer in self.kit.seam.consumers:
            consumer.stop_renewing()
        await self.kit.clock.advance(LEASE_SECONDS + 1)
        await settle_loop(60)

    async def _cancel(self, *, fatal: bool) -> None:
        error = StoreError("the file is corrupt") if fatal else ConsumerCancelled("the queue was deleted")
        await self._pause(pause=False)  # nobody watches while it is paused
        for watch in self.kit.seam.watches:
            if not watch.done():
                watch.set_exception(error)
        self.kit.seam.watches.clear()
        await settle_loop(60)

    async def _refuse(self) -> None:
        await self._pause(pause=False)
        await self._publish(0.0, 2)  # so that there is something to refuse
        self.kit.faults.settle = lambda _settlement: Settled.REFUSED
        await self._finish("ack", 0, all_of_them=True)
        await self.kit.clock.advance(1)
        self.kit.faults.settle = None
        await self.kit.clock.advance(2)
        await settle_loop(60)

    async def _kill(self) -> None:
        """What a SIGKILL does, as far as a process can do it to a part of itself: nothing of it is settled any more."""
        kit = self.kit
        kit.seam.crash()
        kit.life.status.started_up = False
        if kit.life.engine is not None:
            await kit.life.engine.close()
        kit.task.cancel()
        await asyncio.wait({kit.task}, timeout=10)
        self._note()
        self.ended += Counter(s.kind for s, answer in kit.seam.settlements if answer is Settled.DONE)
        await self._new()

    async def _replay(self) -> None:
        letters = await self.kit.dead()
        if letters:
            await self.kit.outside.dead_letters("default").replay([letter.id for letter in letters])
            self.seen.events["replay"] += 1
        await settle_loop()

    async def _end(self) -> None:
        kit = self.kit
        kit.faults.connect = kit.faults.settle = None
        self.may_start.set()
        kit.worker.stop()
        for _ in range(200):
            if kit.task is None or kit.task.done():
                break
            await settle_loop(30)
            await kit.clock.advance(DRAIN_SECONDS / 20)
            await asyncio.sleep(0.001)
        await kit.outside.close()

    def _note(self) -> None:
        """Which of a message's events this worker has seen so far."""
        seam, events = self.kit.seam, self.seen.events
        for settlement, answer in seam.settlements:
            events[
                "refused" if answer is Settled.REFUSED else settlement.kind if answer is Settled.DONE else "lose"
            ] += 1
        if seam.received:
            events["receive"] += 1
        if seam.asked:
            events["decide"] += 1
        events["lose"] += len(self.kit.of(MessageOwnershipLost))
        events["return"] += sum(d.redelivered and d.attempt == 1 for d in seam.received)
        events["due"] += sum(d.attempt > 1 for d in seam.received)
        events["give_back"] += sum(s.kind == "release" and answer is Settled.DONE for s, answer in seam.settlements)


def _away() -> None:
    raise BrokerUnavailable("nobody is there")


def _refused() -> None:
    raise BrokerRefused("not you")
