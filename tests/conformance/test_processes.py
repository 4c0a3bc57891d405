"""Several processes on one broker: a killed one takes nothing with it, and keeps nobody waiting for longer than its lease."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pythia.broker import Broker
from pythia.brokers import open_broker
from tests.conformance.rigs import envelope, options, soon, take

CHILD = Path(__file__).with_name("worker_process.py")


@pytest.fixture(params=["sqlite"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'queue.db'}"


@pytest.fixture
async def shared(url) -> AsyncIterator[Broker]:
    broker = open_broker(url)
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
async def spawn(url, tmp_path):
    children: list[asyncio.subprocess.Process] = []

    async def spawn(hold: str = "") -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, CHILD, url, tmp_path / "notes", hold),
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


async def test_what_a_process_killed_with_work_in_hand_held_is_delivered_again_uncounted(shared, spawn):
    await shared.publish("q", [envelope(id=f"m{n}") for n in range(10)])
    child = await spawn("hold")
    assert child.stdout is not None
    await soon(child.stdout.readline())
    assert (await shared.depth("q")).in_flight == 10
    child.kill()
    killed_at = time.monotonic()
    async with shared.consume("q", options(lease=1.0)) as consumer:
        again = await take(consumer, 10)
    assert time.monotonic() - killed_at < 1.0 + 5.0, "a lease, and room for a busy machine"
    assert [delivery.envelope.id for delivery in again] == [f"m{n}" for n in range(10)]
    assert {(delivery.attempt, delivery.redelivered) for delivery in again} == {(1, True)}


async def test_a_process_that_lives_is_not_robbed_however_long_it_takes(shared, spawn):
    await shared.publish("q", [envelope() for n in range(10)])
    child = await spawn("hold")
    assert child.stdout is not None
    await soon(child.stdout.readline())
    async with shared.consume("q", options(lease=1.0)) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        done, _ = await asyncio.wait((receiving,), timeout=2.5)
        assert not done
        await consumer.drain()
        await soon(receiving)


async def test_a_stopped_process_that_lost_its_messages_changes_nothing_when_it_wakes(shared, spawn, tmp_path):
    await shared.publish("q", [envelope(id=f"m{n}") for n in range(10)])
    child = await spawn("hold")
    assert child.stdout is not None
    await soon(child.stdout.readline())
    child.send_signal(signal.SIGSTOP)
    async with shared.consume("q", options(lease=1.0)) as consumer:
        await take(consumer, 10)
        child.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)  # it renews every third of a second: it would have taken them back
        assert (await shared.depth("q")).in_flight == 10
    assert (await shared.depth("q")).ready == 10


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


async def test_kills_at_random_moments_lose_nothing(shared, spawn, tmp_path):
    kills, portion = 6, 250
    chance = random.Random(7)
    ids = [f"m{n}" for n in range(kills * portion)]
    notes = tmp_path / "notes"
    children = [await spawn(), await spawn()]

    def noted() -> list[list[str]]:
        return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []

    for kill in range(kills):
        seen = len(noted())
        await shared.publish("q", [envelope(id=name) for name in ids[kill * portion : (kill + 1) * portion]])

        async def at_work(seen: int = seen) -> bool:
            return len(noted()) > seen

        await until(at_work)
        await asyncio.sleep(chance.random() * 0.02)  # the blow falls somewhere in claim, note or ack
        victim = chance.randrange(2)
        children[victim].kill()
        await children[victim].communicate()
        children[victim] = await spawn()

    async def empty() -> bool:
        depth = await shared.depth("q")
        return not (depth.ready or depth.in_flight or depth.delayed)

    await until(empty)
    times = Counter(name for name, _, _ in noted())
    assert set(times) == set(ids)
    assert max(times.values()) <= 1 + kills
    assert {attempt for _, attempt, _ in noted()} == {"1"}
