"""Whatever anybody puts into a queue is accounted for: its handler got it, or it is a dead letter for a reason that fits.

Every message is failed once by its handler and rejected when it comes back, so that each also goes through a retry and
into the dead letters with all that it carries.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pythia import Message, Reject, RetryPolicy, Worker
from pythia.broker import Broker, DeadLetter
from pythia.brokers import open_broker
from pythia.cli.dead_letters import whole
from tests.conformance.real_rigs import config_of, real_rig
from tests.fuzz.corpus import BODY_BYTES, DECOMPRESSED_BYTES, DEPTH, corpus
from tests.fuzz.senders import ListSender, RabbitSender, Sender, SqliteSender, StreamSender

PATIENCE_SECONDS = 60.0
SILENCE_SECONDS = 10.0  # after which nothing will come any more
BROKERS = ("sqlite", "rabbitmq", "redis-stream", "redis-list")
ORDINARY = {
    *("worker.starting", "worker.notice", "worker.running", "worker.stopping", "worker.stopped", "broker.connected"),
    *("consumer.registered", "message.retry", "message.dead", "loop.blocked"),
}
"""What a log may tell. No message ends a connection, a subscription or a task."""


class UnderFire(Worker):
    """Looks at everything that a message has, fails it, and rejects it when it comes again. A replayed one is done, and
    something is said in its name."""

    concurrency = 20
    retry = RetryPolicy(max_attempts=3, delays_seconds=(0.05,), jitter=0)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: Counter[bytes] = Counter()
        self.unreadable: list[str] = []
        self.ended: Counter[str] = Counter()
        self.replaying = False

    async def process_message(self, message: Message[Any]) -> Any:
        self.seen[message.raw] += 1
        if self.replaying:
            return {"of": message.content_type}
        try:
            look_at(message)
        except Exception as error:
            self.unreadable.append(f"{message.raw[:60]!r}: {error!r}")
        if self.seen[message.raw] == 1:
            raise LookupError(f"not yet: {message!r}")
        raise Reject(f"seen: {message.id}")

    async def on_outcome(self, message: Message[Any], outcome: Any) -> None:
        self.ended[outcome.kind] += 1


def look_at(message: Message[Any]) -> None:
    """All that a handler may ask."""
    said = (message.id, message.headers, message.content_type, message.correlation_id, message.reply_to)
    moments = (message.timestamp, message.age_seconds, message.deadline)
    counts = (message.attempt, message.deliveries, message.redelivered, message.max_attempts, message.priority)
    assert repr((message, said, moments, counts, message.ordering_key, message.idempotency_key))
    assert message.attempt >= 1
    assert message.age_seconds >= 0
    texts = (message.id, message.correlation_id, message.reply_to, message.idempotency_key, message.ordering_key)
    assert all(isinstance(text, str | None) for text in texts), texts


class Scene:
    """A queue of the test's own on one of the brokers, and who sends into it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.rig = None if name == "sqlite" else real_rig(name, own_server=False)
        self.queue = "fuzz"
        file = folder / "queue.db"
        self.url = f"sqlite:///{file}"
        if self.rig is not None:
            self.queue, self.url = self.rig.scope.inside("q"), self.rig.url
            self.rig.scope.made |= {"q", "q.out"}  # to be cleaned up
        self.broker: Broker = open_broker(self.url)
        server = self.url.partition("?")[0]
        self.sender: Sender = {
            "sqlite": lambda: SqliteSender(self.broker, self.queue, str(file)),
            "rabbitmq": lambda: RabbitSender(server, self.queue),
            "redis-stream": lambda: StreamSender(server, self.queue),
            "redis-list": lambda: ListSender(server, self.queue),
        }[name]()

    def worker(self) -> UnderFire:
        limits = {"body_bytes": BODY_BYTES, "decompressed_bytes": DECOMPRESSED_BYTES, "depth": DEPTH}
        settings = {"broker.url": self.url, "queue": self.queue, "http.enabled": False, "log.format": "json"}
        settings["sink"] = f"{self.queue}.out"
        return UnderFire(config_of(**settings, **{f"limits.{name}": limit for name, limit in limits.items()}))

    async def close(self) -> None:
        await self.broker.close()
        if self.rig is not None:
            await self.rig.close()


@pytest.fixture(params=BROKERS)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(request.param, tmp_path)
    await scene.broker.connect()
    yield scene
    await scene.close()


async def test_every_hostile_message_is_handled_or_a_dead_letter_for_a_reason_that_fits(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = scene.worker()
    async with worker.running():
        await _registered(worker, scene.queue)
        ends = await scene.sender.send_all()
        assert len(ends) >= 150
        await _until_dead(scene, worker, len(ends))
        letters = await scene.broker.dead_letters(scene.queue).list(limit=10_000)
        assert not (wrong := judged(ends, letters)), "\n".join(f"{body}: {what}" for body, what in wrong.items())
        assert worker.unreadable == []
        assert max(worker.seen.values()) == 2
        assert {body for body, count in worker.seen.items() if count == 2} >= _bodies(letters, "rejected")
        assert all(json.dumps(whole(letter)).isascii() for letter in letters)

        worker.replaying = True
        again = [letter.id for letter in letters if letter.reason == "rejected"]
        moved = await scene.broker.dead_letters(scene.queue).replay(again)
        left = await scene.broker.dead_letters(scene.queue).list(limit=10_000)
        assert moved == len(again), [(one.id, one.envelope.body) for one in left if one.reason == "rejected"]
        await _until(lambda: worker.ended["ack"] >= len(again), worker.ended.total)
        assert worker.ended["ack"] == len(again)
        assert worker.is_running
    depth = await scene.broker.depth(scene.queue)
    assert {depth.ready, depth.in_flight, depth.delayed} <= {0, None}
    assert depth.dead == len(letters) - len(again)
    assert [line for line in _lines(capfd) if line["event"] not in ORDINARY] == []


def _bodies(letters: Sequence[DeadLetter], reason: str) -> set[bytes]:
    return {letter.envelope.body for letter in letters if letter.reason == reason}


def judged(ends: Mapping[bytes, frozenset[str]], letters: Sequence[DeadLetter]) -> dict[str, Any]:
    """What is not as it must be: the body's beginning, and why."""
    found: dict[bytes, list[str | None]] = {}
    for letter in letters:
        found.setdefault(letter.envelope.body, []).append(letter.reason)
    wrong: dict[str, Any] = {}
    for body, allowed in ends.items():
        reasons = found.pop(body, [])
        if len(reasons) != 1 or reasons[0] not in allowed:
            wrong[f"{body[:60]!r}"] = f"{reasons} is not one of {sorted(allowed)}"
    return wrong | {f"{body[:60]!r}": f"{reasons}, and nobody sent it" for body, reasons in found.items()}


async def _registered(worker: UnderFire, queue: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not worker._pythia_life.tally.queue(queue).registered:
            await asyncio.sleep(0.01)


async def _until_dead(scene: Scene, worker: UnderFire, count: int) -> None:
    """Until there are so many dead letters; what cannot be decoded has no message, and ``on_outcome`` is not told of it."""
    dead = 0

    async def look() -> bool:
        nonlocal dead
        dead = (await scene.broker.depth(scene.queue)).dead or 0
        return dead >= count

    await _until(look, lambda: dead + worker.seen.total())


async def _until(reached: Callable[[], bool | Awaitable[bool]], progress: Callable[[], int]) -> None:
    """Until it is so, or nothing has moved for so long that it will not be."""
    before, since, loop = -1, 0.0, asyncio.get_running_loop()
    while not (await answer if inspect.isawaitable(answer := reached()) else answer):
        if progress() != before:
            before, since = progress(), loop.time()
        if loop.time() - since > SILENCE_SECONDS:
            return
        await asyncio.sleep(0.05)


def _lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The log. Whatever else is printed (a traceback of logging's own) is no JSON, and fails."""
    out, err = capfd.readouterr()
    return [json.loads(line) for line in (out + err).splitlines()]


def test_the_corpus_names_no_body_and_no_case_twice() -> None:
    sent = corpus()
    assert len({one.name for one in sent}) == len({one.body for one in sent}) == len(sent)


def test_a_message_that_is_lost_doubled_or_made_up_is_found() -> None:
    fits = frozenset({"rejected"})

    def letter(body: bytes, reason: str = "rejected") -> Any:
        return type("Letter", (), {"envelope": type("E", (), {"body": body}), "reason": reason})

    assert judged({b"a": fits}, [letter(b"a")]) == {}
    assert judged({b"a": fits}, []).keys() == {"b'a'"}
    assert judged({b"a": fits}, [letter(b"a"), letter(b"a")]).keys() == {"b'a'"}
    assert judged({b"a": fits}, [letter(b"a", "expired")]).keys() == {"b'a'"}
    assert judged({}, [letter(b"a")]).keys() == {"b'a'"}
