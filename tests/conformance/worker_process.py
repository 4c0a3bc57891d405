"""A consumer in a process of its own: notes each message that it handles, then acks it. Made to be killed."""

from __future__ import annotations

import asyncio
import os
import sys

from pythia.broker import ConsumeOptions, Consumer, Failure, Kind, Settlement
from pythia.brokers import open_broker
from pythia.message import Delivery

HELD = 10  # by one that holds


async def main(url: str, queue: str, notes: str, hold: str) -> None:
    broker = open_broker(url)
    await broker.connect()
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    options = ConsumeOptions(prefetch=50, concurrency=10, lease=1.0, max_hold=None, consumer=f"child-{os.getpid()}")
    async with broker.consume(queue, options) as consumer:
        if hold == "hold":
            await settle_late(consumer, await keep(consumer))
        while deliveries := await consumer.receive(10):
            for delivery in deliveries:
                os.write(file, f"{delivery.envelope.id} {delivery.attempt} {os.getpid()}\n".encode())
            await consumer.settle([Settlement(delivery, "ack") for delivery in deliveries])


async def keep(consumer: Consumer) -> list[Delivery]:
    """Take ten, and wait for a line of input."""
    held: list[Delivery] = []
    while len(held) < HELD:
        held += await consumer.receive(HELD - len(held))
    print("took", len(held), flush=True)
    if not await asyncio.to_thread(sys.stdin.readline):
        await asyncio.Event().wait()  # nobody will ever say
    return held


async def settle_late(consumer: Consumer, held: list[Delivery]) -> None:
    """Settle what was held in every way there is, and say how it was answered."""
    record = Failure(reason="rejected", detail="too late")
    kinds: tuple[Kind, ...] = ("ack", "retry", "defer", "release", "drop", "dead_letter")
    batch = [Settlement(each, kinds[n % len(kinds)], delay=60.0, record=record) for n, each in enumerate(held)]
    answers = await consumer.settle(batch)
    print(*sorted({answer.value for answer in answers}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
