"""The worker of the image: packs, rejects, and has customers of its own where it is told to."""

from __future__ import annotations

import asyncio

import pytest

from pythia.examples.orders import OrderWorker
from pythia.utils.testing import WorkerHarness


async def test_an_order_is_packed_counted_and_receipted():
    async with WorkerHarness(OrderWorker, sink="receipts") as harness:
        message_id = await harness.publish({"id": 17, "sku": "b-7"})
        assert (await harness.outcome(message_id)).kind == "ack"
        assert [message.body for message in harness.published("receipts")] == [{"order": 17, "sku": "b-7"}]
        assert harness.worker.metrics.counter("orders_packed_total", labels=("sku",))._value == 1


async def test_an_unknown_sku_is_set_aside_with_the_reason():
    async with WorkerHarness(OrderWorker) as harness:
        message_id = await harness.publish({"id": 17, "sku": "z-9"})
        outcome = await harness.outcome(message_id)
        assert (outcome.kind, outcome.reason) == ("dead_letter", "unknown sku z-9")


async def test_an_empty_shelf_is_filled_meanwhile():
    async with WorkerHarness(OrderWorker) as harness:
        message_id = await harness.publish({"id": 20, "sku": "a-1"})
        assert (await harness.settled(message_id)).kind == "ack"
        assert harness.attempts(message_id) == 2


async def test_customers_come_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ORDERS_PER_SECOND", "1000")
    async with WorkerHarness(OrderWorker) as harness:
        packed = harness.worker.metrics.counter("orders_packed_total", labels=("sku",))
        async with asyncio.timeout(30):
            while packed._value == 0:
                await asyncio.sleep(0.01)
