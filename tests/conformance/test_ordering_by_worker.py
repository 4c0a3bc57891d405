"""Where the broker knows no ordering keys the engine keeps them, within one worker: one at a time within a key, keys in
parallel, and a failing message is not overtaken by the younger ones of its key."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import pytest

from pythia import Message, RetryPolicy, Worker
from tests.conformance.real_rigs import config_of
from tests.conformance.rigs import envelope, holds, soon

pytestmark = pytest.mark.usefixtures("real")


class Ordered(Worker):
    """Handles ``key:number`` bodies; notes order and company."""

    concurrency = 6
    retry = RetryPolicy(max_attempts=5, delays_seconds=(0.3,), jitter=0)

    def __init__(self, config: Any, expected: int) -> None:
        super().__init__(config)
        self.expected = expected
        self.fails: dict[str, int] = {}  # body → how often
        self.seen: dict[str, list[str]] = defaultdict(list)
        self.busy: Counter[str] = Counter()
        self.together: set[frozenset[str]] = set()
        self.finished = 0
        self.complete = asyncio.Event()
        self.company = asyncio.Event()

    async def process_message(self, message: Message[str]) -> None:
        key = str(message.ordering_key)
        self.busy[key] += 1
        assert self.busy[key] == 1, "two of one key at once"
        try:
            await self._work(key, message)
        finally:
            self.busy[key] -= 1

    async def _work(self, key: str, message: Message[str]) -> None:
        self.seen[key].append(message.body)
        if sum(self.busy.values()) > 1:
            self.company.set()
        await self.company.wait()  # nobody ends before two keys were at work at once
        if self.fails.get(message.body, 0) >= message.attempt:
            raise ValueError("not yet")
        self.finished += 1
        if self.finished == self.expected:
            self.complete.set()


@pytest.fixture
async def run(rig, broker):
    """Publishes, and lets a worker finish all of it."""

    async def run(bodies: list[tuple[str, str]], **fails: int) -> Ordered:
        queue = rig.scope.inside("q")
        config = config_of(**{"broker.url": rig.url, "queue": queue, "http.enabled": False, "log.level": "critical"})
        worker = Ordered(config, len(bodies))
        worker.fails = fails
        messages = [envelope(body.encode(), content_type="text/plain", ordering_key=key) for key, body in bodies]
        await broker.publish("q", messages)
        async with worker.running():
            await soon(worker.complete.wait())
        await holds(broker, "q", ready=0, in_flight=0, delayed=0, dead=0)
        return worker

    return run


async def test_one_at_a_time_within_a_key_and_keys_in_parallel(run):
    worker = await run([(key, f"{key}{n}") for n in range(8) for key in "abc"])
    assert worker.seen == {key: [f"{key}{n}" for n in range(8)] for key in "abc"}


async def test_a_failing_message_is_not_overtaken_within_its_key_and_holds_up_no_other(run):
    worker = await run([(key, f"{key}{n}") for n in range(4) for key in "ab"], a1=2)
    assert worker.seen["a"] == ["a0", "a1", "a1", "a1", "a2", "a3"]
    assert worker.seen["b"] == ["b0", "b1", "b2", "b3"]
