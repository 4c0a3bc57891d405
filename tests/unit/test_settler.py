"""The one writer of settlements: in order, in batches, and never giving up what is still ours."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from pythia.broker import Settled, Settlement
from pythia.clock import VirtualClock
from pythia.core.events import SettleFailed
from pythia.core.settler import LONGEST_WAIT_SECONDS, MOST_AT_ONCE, Settler
from pythia.errors import BrokerUnavailable
from pythia.message import Delivery, Envelope
from tests.unit.core_kit import until


class FakeConsumer:
    linger = 0.0

    def __init__(self) -> None:
        self.batches: list[list[Settlement]] = []
        self.answer = lambda _settlement: Settled.DONE
        self.gate = asyncio.Event()
        self.gate.set()

    async def settle(self, batch: Sequence[Settlement]) -> list[Settled]:
        self.batches.append(list(batch))
        await self.gate.wait()
        return [self.answer(settlement) for settlement in batch]


class Rig:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.consumer = FakeConsumer()
        self.answers: list[tuple[int, Settled]] = []
        self.events: list[object] = []
        shift = SimpleNamespace(clock=self.clock, emit=self.events.append)
        self.settler = Settler("q", self.consumer, shift, self.answered)
        self.task = asyncio.create_task(self.settler.run())

    def answered(self, answers):
        self.answers += [(held.n, answer) for held, _, answer in answers]

    def put(self, n: int) -> SimpleNamespace:
        held = SimpleNamespace(n=n, lost=None)
        delivery = Delivery(Envelope(b"", id=str(n)), queue="q", token=n, first_seen=0)
        self.settler.put(held, Settlement(delivery, "ack"))
        return held

    async def close(self) -> None:
        self.settler.close()
        await asyncio.wait_for(self.task, 5)


async def test_while_one_batch_is_in_flight_the_next_gathers():
    rig = Rig()
    rig.consumer.gate.clear()
    rig.put(0)
    await until(lambda: rig.consumer.batches)
    for n in range(1, 10):
        rig.put(n)
    rig.consumer.gate.set()
    await rig.close()
    assert [len(batch) for batch in rig.consumer.batches] == [1, 9]
    assert [n for n, _ in rig.answers] == list(range(10))


async def test_batches_are_bounded():
    rig = Rig()
    for n in range(MOST_AT_ONCE + 5):
        rig.put(n)
    await rig.close()
    assert [len(batch) for batch in rig.consumer.batches] == [MOST_AT_ONCE, 5]


async def test_closing_settles_what_is_there_first():
    rig = Rig()
    rig.put(1)
    await rig.close()
    assert rig.answers == [(1, Settled.DONE)]


async def test_what_was_refused_stays_first_in_line_and_is_asked_again_with_a_growing_wait():
    rig = Rig()
    asked_at: list[float] = []

    def refuse(settlement):
        if settlement.delivery.token == 0 and rig.clock.monotonic() < 30:
            asked_at.append(rig.clock.monotonic())
            return Settled.REFUSED
        return Settled.DONE

    rig.consumer.answer = refuse
    rig.put(0)
    rig.put(1)
    await until(lambda: rig.answers == [(1, Settled.DONE)])
    assert rig.settler.refused
    assert not rig.settler.accepting.is_set()
    await rig.clock.advance(31)
    await rig.clock.advance(LONGEST_WAIT_SECONDS)
    assert rig.answers == [(1, Settled.DONE), (0, Settled.DONE)]
    gaps = [b - a for a, b in itertools.pairwise(asked_at)]
    rounded = [round(gap, 6) for gap in gaps]
    assert rounded == sorted(rounded)
    assert rounded[:3] == [0.1, 0.2, 0.4]
    assert max(rounded) == LONGEST_WAIT_SECONDS
    assert not rig.settler.refused
    assert rig.settler.accepting.is_set()
    assert [type(event) for event in rig.events] == [SettleFailed]
    await rig.close()


async def test_what_was_lost_meanwhile_is_not_written_and_stands_in_nobodys_way():
    rig = Rig()
    rig.consumer.answer = lambda _s: Settled.REFUSED
    held = rig.put(0)
    await until(lambda: rig.settler.refused)
    held.lost = "expired"
    rig.consumer.answer = lambda _s: Settled.DONE
    await rig.clock.advance(10)
    assert rig.settler.accepting.is_set()
    assert not rig.settler.refused
    assert len(rig.consumer.batches) == 1
    rig.put(1)
    await until(lambda: rig.answers == [(1, Settled.DONE)])
    await rig.close()


async def test_a_lone_settlement_lingers_for_company_where_the_broker_likes_that():
    rig = Rig()
    rig.consumer.linger = 0.002
    rig.put(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rig.put(1)
    await until(lambda: len(rig.answers) == 2)
    assert len(rig.consumer.batches) == 1
    await rig.close()


async def test_a_lost_connection_ends_it_with_that_error():
    rig = Rig()

    async def settle(_batch):
        raise BrokerUnavailable("gone")

    rig.consumer.settle = settle
    rig.put(0)
    with pytest.raises(BrokerUnavailable):
        await asyncio.wait_for(rig.task, 5)
    assert rig.answers == []


async def test_closing_does_not_wait_for_a_broker_that_goes_on_refusing():
    rig = Rig()
    rig.consumer.answer = lambda _s: Settled.REFUSED
    rig.put(0)
    await until(lambda: rig.settler.refused)
    await rig.close()
    assert rig.answers == []
