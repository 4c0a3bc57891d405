"""A file that could not be written for longer than a lease: what nobody else took meanwhile is still its owner's."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from pythia.broker import ConsumeOptions, Published, Settled, Settlement
from pythia.brokers.sqlite import SqliteBroker, SqliteClock, commit
from pythia.clock import VirtualClock
from pythia.message import Envelope

DEADLINE = 20.0


async def test_a_lease_that_ran_out_while_nobody_could_write_is_not_taken_from_ourselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "LOCK_SECONDS", 0.02)
    clock, lost = VirtualClock(), []
    broker = SqliteBroker(tmp_path / "queue.db", clock=SqliteClock.injected(clock))
    await broker.connect()
    options = ConsumeOptions(
        prefetch=10,
        lease=30.0,
        max_hold=None,
        consumer="c",
        on_lost=lambda deliveries, _reason: lost.append(deliveries),
    )
    async with asyncio.timeout(DEADLINE), broker.consume("q", options) as consumer:
        await broker.publish("q", [Envelope(b"1", id="held")])
        (held,) = await consumer.receive(5)
        waiting = asyncio.create_task(consumer.receive(5))
        other = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await clock.advance(100)  # more than three leases
        refused = await broker.publish("q", [Envelope(b"", id="refused")])  # and with it a renewal, tried first
        assert list(refused) == [Published.REFUSED]
        other.execute("ROLLBACK")
        other.close()
        await broker.publish("q", [Envelope(b"2", id="later")])
        assert [delivery.envelope.id for delivery in await waiting] == ["later"]
        assert list(await consumer.settle([Settlement(held, "ack")])) == [Settled.DONE]
        assert lost == []
    await broker.close()
