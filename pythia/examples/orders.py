"""An order desk: the worker that the image runs when it is told no other, and that `docker compose up` shows at work."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from itertools import count
from random import Random

from pythia import Message, Reject, Retry, Worker

STOCK = frozenset({"a-1", "b-7", "c-2"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a customer wants. ``seconds`` is how long it takes to pack."""

    id: int
    sku: str
    seconds: float = 0.02


class OrderWorker(Worker):
    """Packs orders and returns a receipt for each, which goes to ``sink`` where one is set.

    An unknown sku is rejected at once; every twentieth order finds its shelf empty the first time and comes again. With
    ``ORDERS_PER_SECOND`` in its environment the desk has customers of its own, so that there is something to see.
    """

    queue = "orders"

    async def on_startup(self) -> None:
        self.packed = self.metrics.counter("orders_packed_total", "Orders packed, by what was in them", labels=("sku",))
        if rate := float(os.environ.get("ORDERS_PER_SECOND", "0")):
            self.customers = asyncio.create_task(self.order(rate), name="customers")

    async def process_message(self, message: Message[Order]) -> dict[str, object]:
        order = message.body
        if order.sku not in STOCK:
            raise Reject(f"unknown sku {order.sku}")
        if order.id % 20 == 0 and message.attempt == 1:
            raise Retry(after=5, reason="the shelf is being filled")
        await asyncio.sleep(order.seconds)
        self.packed.labels(sku=order.sku).inc()
        return {"order": order.id, "sku": order.sku}

    async def order(self, rate: float) -> None:
        """Customers, at ``rate`` a second. A broker that is away costs their orders, not ours: nobody has promised them."""
        random = Random()  # noqa: S311 - customers, no secret
        for number in count(1):
            await asyncio.sleep(random.expovariate(rate))
            order = {"id": number, "sku": random.choice(sorted(STOCK)), "seconds": random.uniform(0.005, 0.05)}
            try:
                await self.publish("orders", order)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next customer comes
                self.logger.warning("order.lost", error=str(error))
