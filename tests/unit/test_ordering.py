"""Ordering keys that the worker computes: one at a time, in parallel across keys, and nobody overtakes a failing one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, ClassVar

from pythia.brokers.memory import MemoryBroker
from pythia.config import WorkerConfig
from pythia.core.retry import RetryPolicy
from pythia.core.worker import Worker
from pythia.message import Message
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
