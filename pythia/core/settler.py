"""The one writer of one consumer's settlements: while one batch is in flight the next gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pythia.broker import REFUSED, Consumer, Settled, Settlement
from pythia.core.events import SettleFailed
from pythia.core.held import Held
from pythia.core.shift import Shift
from pythia.core.waiting import first

MOST_AT_ONCE = 512
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0

Answer = tuple[Held, Settlement, Settled]
Answered = Callable[[Sequence[Answer]], None]


class Settler:
    """Takes settlements from lanes and gives them to the broker in batches, in the order in which they came.

    What the broker refuses stays first in line and is asked again with a growing wait; meanwhile ``refused`` is true and
    the subscription takes nothing more. A settlement is never cancelled: ``run`` ends when ``close`` was called and
    nothing is left (or what is left was refused), or with the consumer's error.
    """

    def __init__(self, queue: str, consumer: Consumer, shift: Shift, answered: Answered) -> None:
        self._queue = queue
        self._consumer = consumer
        self._shift = shift
        self._answered = answered
        self._pending: list[tuple[Held, Settlement]] = []
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._wait = 0.0
        self.refused = False
        self.accepting = asyncio.Event()  # cleared while the broker refuses
        self.accepting.set()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def put(self, held: Held, settlement: Settlement) -> None:
        self._pending.append((held, settlement))
        if len(self._pending) == 1:
            self._news.set()

    def close(self) -> None:
        """Nothing more comes; end once what is there is settled."""
        self._closing.set()
        self._news.set()

    async def run(self) -> None:
        """Settle until closed and empty.

        Raises:
            BrokerUnavailable, StoreError, BrokerRefused: from the consumer; what is pending is no longer ours.
        """
        while self._pending or not self.closed:
            if not self._pending:
                self._news.clear()
                await self._news.wait()
                continue
            if self._wait:
                if await self._closed_within(self._wait):
                    return
            elif self._consumer.linger and len(self._pending) == 1:
                await asyncio.sleep(self._consumer.linger)
            await self._settle_batch()

    async def _closed_within(self, seconds: float) -> bool:
        """Wait so long before asking again; whether the end came first, which a broker that refuses must not hold up."""
        await first(lambda: self._shift.clock.sleep(seconds), self._closing.wait)
        return self.closed

    async def _settle_batch(self) -> None:
        batch = [row for row in self._pending[:MOST_AT_ONCE] if row[0].lost is None]
        del self._pending[:MOST_AT_ONCE]
        if not batch:
            self._note(0)  # what was refused is lost by now: nobody stands in the way any more
            return
        answers = await self._consumer.settle([settlement for _, settlement in batch])
        refused, answered = [], []
        for row, answer in zip(batch, answers, strict=True):
            if answer is REFUSED:
                refused.append(row)
            else:
                answered.append((*row, answer))
        self._answered(answered)
        self._pending[:0] = refused
        self._note(len(refused))

    def _note(self, refused: int) -> None:
        if not refused:
            self._wait = 0.0
            self.refused = False
            self.accepting.set()
            return
        self._wait = min(LONGEST_WAIT_SECONDS, self._wait * 2 or FIRST_WAIT_SECONDS)
        if not self.refused:
            self.refused = True
            self.accepting.clear()
            self._shift.emit(SettleFailed(queue=self._queue, count=refused))
