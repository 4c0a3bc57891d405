"""One subscription to one queue of a queue file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pythia.broker import Settled, Settlement
from pythia.brokers.sqlite.calls import Answer, Waiter
from pythia.brokers.sqlite.holder import Holder
from pythia.brokers.sqlite.writer import Writer
from pythia.message import Delivery


class SqliteConsumer:
    """Claims and settles through the writer thread; it keeps no messages of its own."""

    linger = 0.0

    def __init__(self, writer: Writer, holder: Holder) -> None:
        self._writer = writer
        self._holder = holder
        self._waiting: Answer | None = None
        self._draining = False

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the contract says. Cancelling it gives back what was claimed meanwhile."""
        if self._draining:
            return ()
        answer = Answer(unclaimed=lambda deliveries: self._writer.give_back(self._holder, deliveries))
        self._writer.wait(Waiter(self._holder, limit, answer))
        self._waiting = answer
        try:
            deliveries: Sequence[Delivery] = await answer.come()
        finally:
            self._waiting = None
        return deliveries

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """As the contract says. Cancelling it does not undo it: the transaction may be under way."""
        tokens = [settlement.delivery.token for settlement in batch]

        def landed(answers: Sequence[Settled]) -> Sequence[Settled]:
            self._holder.drop(tokens)
            return answers

        answers: Sequence[Settled] = await self._writer.write(
            lambda store: store.settle(batch),
            landed=landed,
            refused=lambda _in_doubt: [Settled.REFUSED] * len(batch),  # if it is there after all, the next try is stale
        )
        return answers

    async def drain(self) -> None:
        """Nothing is fetched ahead here; a claim that is under way is given back."""
        self._draining = True
        if self._waiting is not None and not self._waiting.future.done():
            self._waiting.future.set_result(())

    async def watch(self) -> None:
        """As the contract says: a file does not go away by itself, and what is wrong with it is told by the next call."""
        await asyncio.Event().wait()
