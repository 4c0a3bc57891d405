"""Ordering keys that the worker computes: one at a time, in parallel across keys, and nobody overtakes a failing one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, ClassVar

from pythia.brokers.memory import MemoryBroker
from pythia.config import WorkerConfig
from pythia.core.held import Held, Source
from pythia.core.ordering import Keys
from pythia.core.outcome import Outcome
from pythia.core.retry import RetryPolicy
from pythia.core.tally import QueueTally
from pythia.core.worker import Worker
from pythia.message import Delivery, Envelope, Message, delivered
from pythia.service import life_of

KEYS = "abcd"


class Ordered(Worker):
    concurrency = 8
    retry = RetryPolicy(max_attempts=5, base_seconds=0.1, factor=1, jitter=0)
    expected: ClassVar[int] = 40

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.busy: set[str] = set()
        self.most_at_once = 0
        self.complete = asyncio.Event()

    def ordering_key(self, message: Message[Any]) -> str:
        return str(message.body["key"])

    async def process_message(self, message: Message[Any]) -> None:
        key, index = message.body["key"], message.body["index"]
        assert key not in self.busy
        self.busy.add(key)
        self.most_at_once = max(self.most_at_once, len(self.busy))
        await asyncio.sleep(0)
        self.busy.discard(key)
        if index in (3, 5) and message.attempt < 3:
            raise ValueError("not yet")
        self.seen[key].append(index)
        if sum(map(len, self.seen.values())) == self.expected:
            self.complete.set()


async def run(worker: Ordered) -> None:
    broker = MemoryBroker()
    life_of(worker).open_broker = lambda _config: broker
    async with worker.running():
        for index in range(10):
            for key in KEYS:
                await worker.publish("default", {"key": key, "index": index})
        async with asyncio.timeout(30):
            await worker.complete.wait()


async def test_messages_of_one_key_run_one_at_a_time_and_in_order_even_when_some_fail() -> None:
    worker = Ordered(WorkerConfig(broker={"url": "memory://"}, log={"level": "error"}))
    await run(worker)
    assert dict(worker.seen) == {key: list(range(10)) for key in KEYS}


async def test_keys_run_in_parallel_and_nothing_of_them_is_left() -> None:
    worker = Ordered(WorkerConfig(broker={"url": "memory://"}, log={"level": "error"}))
    await run(worker)
    assert worker.most_at_once > 1
    outcomes = life_of(worker).tally.outcomes()
    assert (outcomes["ack"], outcomes["in_flight"], outcomes["residual"]) == (40, 0, 0)
    engine = life_of(worker).engine
    assert engine is not None
    assert (engine.slots.held, engine.slots.ready, engine.slots.running) == (0, 0, 0)


class Alone:
    """The lines of one worker, and deliveries as they come to it; ``gone`` is what it settled."""

    def __init__(self) -> None:
        self.now = 0.0
        self.keys = Keys(lambda message: message.ordering_key)
        self.settled: list[tuple[str, Outcome]] = []

    def held(self, name: str, attempt: int = 1) -> Any:
        said = Envelope(b"{}", id=name, ordering_key="k")
        delivery = Delivery(said, queue="q", token=None, attempt=attempt, first_seen=0.0)
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        shift: Any = SimpleNamespace(clock=clock, rules=None, worker="w", worker_id="w-1", trial=None)
        settler: Any = SimpleNamespace(put=lambda held, _settlement: self.settled.append((name, held.outcome)))
        held = Held(delivery, Source(settler, shift, QueueTally("q")), self.now)
        held.message = delivered(delivery, {}, held)
        return held

    def comes(self, name: str) -> Any:
        """The delivery, if it may go; None when it was sent back."""
        held = self.held(name)
        return held if self.keys.may_go(held) else None

    def ends(self, held: Any, kind: str, delay: float = 0.0) -> None:
        held.settle(Outcome(kind, delay_seconds=delay))
        self.keys.ended(held)


def test_a_line_whose_members_another_worker_has_finished_goes_on_within_moments_not_one_by_one():
    worker = Alone()
    worker.ends(worker.comes("m0"), "retry", 1.0)
    for number in range(1, 8):
        assert worker.comes(f"m{number}") is None, "nobody overtakes the one that failed"
    worker.now = 2.3  # m0 … m6 were given to another worker; a queue is served in order, and m7 is back
    back = worker.comes("m7")
    assert back is not None
    worker.ends(back, "ack")
    worker.now = 2.4
    assert worker.comes("m8") is not None
    assert len(worker.settled) == 1 + 7 + 1, "nothing is sent round and round"


def test_a_worker_that_is_not_alone_keeps_no_lines_for_a_while():
    worker = Alone()
    worker.ends(worker.comes("m0"), "retry", 1.0)
    assert worker.comes("m1") is None
    worker.now = 2.3
    worker.ends(worker.comes("m1"), "retry", 30.0)
    assert worker.comes("m2") is not None, "m0 was given to another: whoever waits for m1 might wait for ever"
    worker.now = 2.3 + 61.0
    again = Alone()
    again.ends(again.comes("n0"), "retry", 1.0)
    assert again.comes("n1") is None


def test_one_that_is_back_before_its_turn_is_not_asked_again_at_once():
    worker = Alone()
    worker.ends(worker.comes("m0"), "retry", 1.0)
    assert worker.comes("m1") is None
    worker.now = 1.1
    assert worker.comes("m1") is None, "m0 may be on its way"
    assert worker.settled[-1][1].delay_seconds >= 0.25


def test_who_comes_for_the_first_time_waits_for_a_failed_one_that_is_late():
    worker = Alone()
    worker.ends(worker.comes("m0"), "retry", 1.0)
    worker.now = 9.0  # a long queue
    assert worker.comes("m1") is None
    worker.now = 9.1
    first = worker.comes("m0")
    assert first is not None
    worker.ends(first, "ack")


def test_a_key_does_not_wait_for_ever_for_one_that_never_comes_back():
    worker = Alone()
    worker.ends(worker.comes("m0"), "retry", 1.0)
    worker.now = 12.0
    assert worker.comes("m1") is not None
