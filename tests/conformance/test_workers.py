"""The worker that ran on SQLite runs on every broker, not a line of it changed: several queues, what it returns, answers and
publishes, durable before the ack; batches; a pause; no more fetched than can begin."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pythia import Message, Worker
from pythia.errors import PublishError
from tests.conformance.real_rigs import config_of
from tests.conformance.rigs import envelope, holds, options, soon, take

pytestmark = pytest.mark.usefixtures("real")


@pytest.fixture
def make(rig, broker):
    async def make(cls: type[Worker], *queues: str, **settings: Any) -> Any:
        for queue in (*queues, "out", "answers", "extra"):
            await broker.declare(queue)
        names = [rig.scope.inside(queue) for queue in queues]
        said = {"broker.url": rig.url, "queues": names, "http.enabled": False, "log.level": "critical", **settings}
        worker = cls(config_of(**said))
        worker.scope = rig.scope
        return worker

    return make


class Several(Worker):
    concurrency = 3

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: list[tuple[str, Any]] = []
        self.complete = asyncio.Event()
        self.expected = 40

    async def process_message(self, message: Message) -> None:
        self.seen.append((self.scope.outside(message.queue), message.body))
        if len(self.seen) == self.expected:
            self.complete.set()


async def test_several_queues_share_a_worker_and_an_empty_one_holds_up_no_other(broker, make):
    worker = await make(Several, "a", "b", "empty")
    await broker.publish("a", [envelope(str(n).encode()) for n in range(20)])
    async with worker.running():
        await broker.publish("b", [envelope(str(n).encode()) for n in range(20)])
        await soon(worker.complete.wait())
    assert sorted(worker.seen) == sorted((queue, n) for queue in "ab" for n in range(20))
    for queue in "ab":
        await holds(broker, queue, ready=0, in_flight=0)


class Speaking(Worker):
    async def process_message(self, message: Message) -> dict:
        await self.publish(self.scope.inside("extra"), {"said": message.body}, headers={"h": 1})
        await message.reply({"answer": message.body})
        return {"result": message.body}


async def test_what_a_handler_says_returns_and_answers_is_there_when_its_message_is_gone(rig, broker, make):
    worker = await make(Speaking, "q", sink=rig.scope.inside("out"))
    question = envelope(b"7", correlation_id="c1", reply_to=rig.scope.inside("answers"))
    await broker.publish("q", [question])
    async with worker.running():
        await holds(broker, "q", ready=0, in_flight=0)
        for queue, body in {"out": b'{"result":7}', "answers": b'{"answer":7}', "extra": b'{"said":7}'}.items():
            async with broker.consume(queue, options()) as consumer:
                (said,) = await take(consumer, 1)
                assert (queue, said.envelope.body) == (queue, body)
                assert said.envelope.correlation_id == ("c1" if queue != "extra" else None)


class Astray(Worker):
    async def process_message(self, message: Message) -> None:
        try:
            await self.publish(self.scope.inside("nobody-made-this"), "x")
        except PublishError as error:
            self.error = error
        self.over.set()


async def test_a_handler_is_told_when_nobody_takes_what_it_says(rig, broker, make):
    if not broker.capabilities.exchanges:
        pytest.skip("a queue is there as soon as something is said to it")
    worker = await make(Astray, "q")
    worker.over, worker.error = asyncio.Event(), None
    await broker.publish("q", [envelope(b"1")])
    async with worker.running():
        await soon(worker.over.wait())
    assert worker.error is not None
    assert not worker.error.in_doubt


class Batched(Worker):
    async def process_batch(self, messages) -> None:
        self.sizes.append(len(messages))
        if sum(self.sizes) == 30:
            self.complete.set()


async def test_a_batch_is_acked_as_one(broker, make):
    worker = await make(Batched, "q", **{"batch.size": 10, "batch.wait_seconds": 0.2, "concurrency": 1})
    worker.sizes, worker.complete = [], asyncio.Event()
    await broker.publish("q", [envelope(str(n).encode()) for n in range(30)])
    async with worker.running():
        await soon(worker.complete.wait())
    assert max(worker.sizes) <= 10
    await holds(broker, "q", ready=0, in_flight=0)


class Slow(Worker):
    concurrency = 2

    async def process_message(self, message: Message) -> None:
        self.begun.append(message.body)
        await self.go_on.wait()


async def test_a_worker_that_is_busy_or_paused_keeps_nothing_from_another(broker, make):
    worker = await make(Slow, "q")
    worker.begun, worker.go_on = [], asyncio.Event()
    async with worker.running():
        await broker.publish("q", [envelope(str(n).encode()) for n in range(12)])
        async with asyncio.timeout(10):
            while len(worker.begun) < 2:
                await asyncio.sleep(0.01)
        async with broker.consume("q", options(concurrency=20)) as elsewhere:
            assert len(await take(elsewhere, 10)) == 10, "all but the two that run"
        worker.pause()
        worker.go_on.set()
        await holds(broker, "q", ready=10)
        worker.resume()
        await holds(broker, "q", ready=0, in_flight=0)
    assert sorted(worker.begun) == list(range(12))
