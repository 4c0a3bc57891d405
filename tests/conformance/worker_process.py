"""A consumer in a process of its own: notes each message that it handles, then acks it. Made to be killed."""

from __future__ import annotations

import asyncio
import os
import sys

from pythia.broker import ConsumeOptions, Settlement
from pythia.brokers import open_broker


async def main(url: str, notes: str, hold: str) -> None:
    broker = open_broker(url)
    await broker.connect()
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    options = ConsumeOptions(prefetch=50, lease=1.0, max_hold=None, consumer=f"child-{os.getpid()}")
    async with broker.consume("q", options) as consumer:
        while deliveries := await consumer.receive(10):
            for delivery in deliveries:
                os.write(file, f"{delivery.envelope.id} {delivery.attempt} {os.getpid()}\n".encode())
            print("took", len(deliveries), flush=True)
            if hold == "hold":
                await asyncio.Event().wait()
            await consumer.settle([Settlement(delivery, "ack") for delivery in deliveries])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
