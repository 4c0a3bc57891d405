"""What the simulation found, each with a test of its own that was red before."""

from __future__ import annotations

import asyncio
from random import Random

from pythia import Message, Worker
from pythia.broker import ConsumeOptions
from pythia.brokers.memory import MemoryBroker
from pythia.core.publishing import make_envelope
from pythia.proof.seeded_loop import SeededLoop, SimulatedClock
from tests.unit.core_kit import running, until


def test_the_memory_brokers_keeper_sleeps_until_the_next_moment():
    """Once woken early it never slept again: the alarm that it cancelled woke the next nap, and so for ever."""
    loop = SeededLoop(Random(1))

    async def main():
        broker = MemoryBroker(clock=SimulatedClock(loop))
        await broker.connect()
        options = ConsumeOptions(prefetch=1, lease=5.0, max_hold=None, consumer="one")
        async with broker.consume("jobs", options):
            for delay in (100.0, 50.0, 20.0):
                await broker.publish("jobs", [make_envelope({}, id=f"after {delay}")], delay=delay)
                await asyncio.sleep(0.1)
            before = loop.made
            await asyncio.sleep(10.0)
            return loop.made - before

    assert loop.run_until_complete(main()) == 0
    loop.part()


async def test_a_delivery_that_is_lost_on_its_way_to_the_engine_is_not_handled():
    """Told of the loss before the receive had returned, the engine knew of no such delivery, and ran its handler."""
    began: list[int] = []

    class Counting(Worker):
        async def process_message(self, message: Message[object]) -> None:
            began.append(message.attempt)

    async with running(Counting, concurrency=1, lease_seconds=5) as kit:
        kit.seam.receive_gate.clear()
        one = await kit.publish()
        await until(lambda: kit.seam.received)
        (holder,) = kit.holders()
        kit.store.stop_renewing(holder, kit.clock.time())
        await kit.clock.advance(6)
        assert not kit.seam.consumers[0].holder.held
        kit.seam.receive_gate.set()
        await kit.settled(one)
        assert began == [1]
        assert kit.counts()["lost"] == 1
