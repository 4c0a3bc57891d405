"""Several processes on one broker: a killed one takes nothing with it, and keeps nobody waiting for longer than its lease."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pythia.broker import Broker
from pythia.brokers import open_broker
from tests.conformance.real_rigs import real_rig
from tests.conformance.rigs import envelope, holds, options, requires, soon, take, told, until
from tests.kit.frozen import freeze

CHILD = Path(__file__).with_name("worker_process.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What parent and children have in common. ``queue`` is how the children know the parent's ``"q"``."""

    broker: Broker
    url: str
    queue: str
    file: Path | None = None


@pytest.fixture(params=["sqlite", "rabbitmq", "redis-stream", "redis-list"])
async def shared(request, tmp_path) -> AsyncIterator[Shared]:
    if request.param == "sqlite":
        file = tmp_path / "queue.db"
        url = f"sqlite:///{file}"
        broker = open_broker(url)
        await broker.connect()
        yield Shared(broker=broker, url=url, queue="q", file=file)
        await broker.close()
        return
    rig = real_rig(request.param, own_server=False)
    await rig.broker.connect()
    yield Shared(broker=rig.broker, url=rig.url, queue=rig.scope.inside("q"))
    await rig.close()


@pytest.fixture
def broker(shared) -> Broker:
    return shared.broker


@pytest.fixture
async def spawn(shared, tmp_path):
    children: list[asyncio.subprocess.Process] = []

    async def spawn(hold: str = "") -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, CHILD, shared.url, shared.queue, tmp_path / "notes", hold),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def holding(spawn) -> asyncio.subprocess.Process:
    """A child that has taken ten messages and keeps them."""
    child = await spawn("hold")
    assert child.stdout is not None
    assert await soon(child.stdout.readline()) == b"took 10\n"
    return child


async def test_what_a_process_killed_with_work_in_hand_held_is_delivered_again_uncounted(broker, spawn):
    await broker.publish("q", [envelope(id=f"m{n}") for n in range(10)])
    child = await holding(spawn)
    await holds(broker, "q", ready=0, in_flight=10)
    child.kill()
    killed_at = time.monotonic()
    async with broker.consume("q", options(lease=1.0)) as consumer:
        again = await take(consumer, 10)
    assert time.monotonic() - killed_at < 1.0 + 5.0, "a lease, and room for a busy machine"
    assert [delivery.envelope.id for delivery in again] == [f"m{n}" for n in range(10)]
    assert {(delivery.attempt, delivery.redelivered) for delivery in again} == {(1, True)}


async def test_a_process_that_lives_is_not_robbed_however_long_it_takes(broker, spawn):
    await broker.publish("q", [envelope() for n in range(10)])
    await holding(spawn)
    async with broker.consume("q", options(lease=1.0)) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        done, _ = await asyncio.wait((receiving,), timeout=2.0)
        assert not done
        await consumer.drain()
        await soon(receiving)


async def test_a_stopped_process_that_lost_its_messages_changes_nothing_when_it_wakes(broker, shared, spawn):
    requires(broker, "leased")
    await broker.publish("q", [envelope(id=f"m{n}") for n in range(10)])
    child = await holding(spawn)
    freeze(child.pid, shared.file)
    async with broker.consume("q", options(lease=1.0)) as consumer:
        await take(consumer, 10)
        child.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)  # it renews every third of a second: it would have taken them back
        await holds(broker, "q", ready=0, in_flight=10)
    child.kill()  # or it would take what is given back
    await child.wait()
    await holds(broker, "q", ready=10, in_flight=0)


async def test_what_a_stopped_process_settles_after_it_was_lost_changes_nothing(broker, shared, spawn):
    requires(broker, "leased")
    await broker.publish("q", [envelope(id=f"m{n}") for n in range(10)])
    child = await holding(spawn)
    assert child.stdin is not None
    assert child.stdout is not None
    freeze(child.pid, shared.file)
    async with broker.consume("q", options(lease=1.0)) as consumer:
        await take(consumer, 10)
        child.stdin.write(b"settle\n")  # it finds this as it wakes, before it knows of anything
        child.send_signal(signal.SIGCONT)
        assert await soon(child.stdout.readline()) == b"stale\n"
        await holds(broker, "q", ready=0, in_flight=10, delayed=0, dead=0)
        child.kill()
        await child.wait()


async def test_kills_at_random_moments_lose_nothing(broker, spawn, tmp_path):
    kills, portion = 6, 250
    chance = random.Random(7)
    ids = [f"m{n}" for n in range(kills * portion)]
    notes = tmp_path / "notes"
    children = [await spawn(), await spawn()]

    def noted() -> list[list[str]]:
        return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []

    for kill in range(kills):
        seen = len(noted())
        await broker.publish("q", [envelope(id=name) for name in ids[kill * portion : (kill + 1) * portion]])

        async def at_work(seen: int = seen) -> bool:
            return len(noted()) > seen

        await until(at_work, 30)
        await asyncio.sleep(chance.random() * 0.02)  # the blow falls somewhere in claim, note or ack
        victim = chance.randrange(2)
        children[victim].kill()
        await children[victim].communicate()
        children[victim] = await spawn()

    async def all_done() -> bool:
        return {name for name, _, _ in noted()} == set(ids) and told(
            await broker.depth("q"), ready=0, in_flight=0, delayed=0
        )

    await until(all_done, 30)
    times = Counter(name for name, _, _ in noted())
    assert set(times) == set(ids)
    assert max(times.values()) <= 1 + kills
    assert {attempt for _, attempt, _ in noted()} == {"1"}
