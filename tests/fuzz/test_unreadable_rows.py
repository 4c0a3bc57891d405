"""A row that somebody changed by hand: what can be read is delivered, and what cannot stops the queue aloud, never in silence."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pythia.brokers import open_broker
from pythia.errors import StoreError
from tests.conformance.rigs import envelope, options, soon


async def received(folder: Path, change: str) -> tuple[str, int]:
    """The id and the attempt of a message whose row was changed so."""
    broker = open_broker(f"sqlite:///{folder}/queue.db")
    await broker.connect()
    try:
        await broker.publish("q", [envelope(id="m")])
        with sqlite3.connect(folder / "queue.db") as connection:
            connection.execute(f"UPDATE messages SET {change}")
        connection.close()
        async with broker.consume("q", options()) as consumer:
            (delivery,) = await soon(consumer.receive(1))
            return delivery.envelope.id, delivery.attempt
    finally:
        await broker.close()


@pytest.mark.parametrize(
    "change", ["headers = '{'", "headers = '[]'", "headers = x'ff'", "attempt = -5", "attempt = 0"]
)
async def test_a_row_that_was_changed_by_hand_is_delivered_as_far_as_it_can_be_read(
    tmp_path: Path, change: str
) -> None:
    assert await received(tmp_path, change) == ("m", 1)


async def test_a_row_that_cannot_be_read_is_an_error_and_not_a_queue_that_stands_still(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        await received(tmp_path, "correlation_id = CAST(x'ff' AS TEXT)")
