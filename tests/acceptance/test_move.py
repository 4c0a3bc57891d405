"""``pythia move`` from a queue file to real servers: all comes across, and a kill at the worst moment loses none."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest
import redis.asyncio as redis

from pythia.broker import ConsumeOptions, Published, Settlement
from pythia.brokers import open_broker
from pythia.cli.moving import AT_A_TIME
from pythia.message import Envelope
from tests.unit.cli_kit import environment, pythia_command

MESSAGES = 1000
OLD = "sqlite:///old.db"

# `pythia move`, killed once its third batch is confirmed and not yet acked. Its leases last less long, for the next one's sake.
KILLED = """
import os, signal, sys
from pythia.cli import main, moving

moving._LEASE_SECONDS = 2.0
acked, ack = [], moving._ack

async def killed(*arguments):
    acked.append(1)
    if len(acked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    await ack(*arguments)

moving._ack = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def queue() -> str:
    return f"move-{secrets.token_hex(4)}"


@pytest.fixture(params=["rabbitmq", "redis"])
async def url(request: pytest.FixtureRequest, queue: str) -> AsyncIterator[str]:
    """A server that others use too; the queue is gone from it afterwards."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    yield url
    if request.param == "rabbitmq":
        connection = await aio_pika.connect(url)
        async with connection:
            channel = await connection.channel()
            for name in (queue, f"{queue}.dead"):
                await channel.queue_delete(name)
    else:
        async with redis.from_url(url) as client:
            async for key in client.scan_iter(match=f"*{queue}*", count=1000):
                await client.delete(key)
            await client.srem("pythia:queues:stream", queue)


async def fill(directory: Path, queue: str) -> list[str]:
    """A queue file with messages that say all that can be said."""
    broker = open_broker(f"sqlite:///{directory}/old.db")
    await broker.connect()
    try:
        said = [
            Envelope(
                b'{"n": %d}' % n,
                id=f"{queue}-{n}",
                headers={"tenant": "acme"},
                correlation_id="c-1",
                reply_to="answers",
                priority=3,
                timestamp=1_700_000_000.0,
                idempotency_key=f"once-{n}",
            )
            for n in range(MESSAGES)
        ]
        assert set(await broker.publish(queue, said)) == {Published.CONFIRMED}
        return [one.id for one in said]
    finally:
        await broker.close()


async def taken(url: str, queue: str, number: int) -> list[Envelope]:
    """All that is in the queue, which must be so many."""
    broker = open_broker(url)
    await broker.connect()
    found: list[Envelope] = []
    try:
        options = ConsumeOptions(prefetch=500, concurrency=500, lease=30, max_hold=None, consumer="counts")
        async with asyncio.timeout(60), broker.consume(queue, options) as consumer:
            while len(found) < number:
                batch = await consumer.receive(500)
                found += [delivery.envelope for delivery in batch]
                await consumer.settle([Settlement(delivery, "ack") for delivery in batch])
        assert (await broker.depth(queue)).ready == 0
        return found
    finally:
        await broker.close()


def move(directory: Path, url: str, queue: str, *more: str) -> str:
    done = pythia_command("move", OLD, "-", queue, *more, cwd=directory, PYTHIA_BROKER__URL=url)
    assert done.code == 0, done.err
    return done.out


async def test_everything_comes_across_as_it_was_in_its_order(tmp_path, url, queue):
    ids = await fill(tmp_path, queue)
    assert f"moved {MESSAGES} messages" in move(tmp_path, url, queue)
    found = await taken(url, queue, MESSAGES)
    assert [one.id for one in found] == ids
    last = found[-1]
    assert (last.body, last.headers["tenant"], last.correlation_id, last.reply_to, last.priority) == (
        b'{"n": %d}' % (MESSAGES - 1),
        "acme",
        "c-1",
        "answers",
        3,
    )
    assert (last.timestamp, last.idempotency_key) == (1_700_000_000.0, f"once-{MESSAGES - 1}")


async def test_a_kill_between_confirm_and_ack_loses_none_and_doubles_one_batch_with_equal_ids(tmp_path, url, queue):
    ids = await fill(tmp_path, queue)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "move", OLD, "-", queue],
        cwd=tmp_path,
        env=environment(PYTHIA_BROKER__URL=url),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, os.fsdecode(killed.stderr)
    move(tmp_path, url, queue, "--wait", "--yes")
    counts = Counter(one.id for one in await taken(url, queue, MESSAGES + AT_A_TIME))
    assert set(counts) == set(ids)
    assert Counter(counts.values()) == {1: MESSAGES - AT_A_TIME, 2: AT_A_TIME}


async def test_it_goes_back_as_well(tmp_path, url, queue):
    ids = await fill(tmp_path, queue)
    move(tmp_path, url, queue)
    back = pythia_command("move", "-", "sqlite:///back.db", queue, "--json", cwd=tmp_path, PYTHIA_BROKER__URL=url)
    assert (back.code, back.json["moved"]) == (0, MESSAGES), back.err
    assert [one.id for one in await taken(f"sqlite:///{tmp_path}/back.db", queue, MESSAGES)] == ids
