"""Deliberate flaws, which the table must turn red."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pythia.broker import Settled, Settlement
from pythia.brokers.rabbitmq.consumer import RabbitConsumer
from pythia.brokers.redis.consumer import RedisConsumer
from pythia.core.held import Held
from pythia.core.processor import Processor


def plant(name: str) -> None:
    """In this process, from now on."""
    if name:
        MUTANTS[name]()


def _ack_before_the_copy() -> None:
    settle = RabbitConsumer.settle

    async def too_early(consumer: RabbitConsumer, batch: Sequence[Settlement]) -> Sequence[Settled]:
        await consumer._ack([settlement.delivery.token[1] for settlement in batch])
        return await settle(consumer, batch)

    RabbitConsumer.settle = too_early


def _ack_before_the_handler() -> None:
    handle = Processor.handle

    async def too_early(processor: Processor, group: Sequence[Held]) -> Any:
        for held in group:
            await held.ack()
        return await handle(processor, group)

    Processor.handle = too_early


def _never_settled() -> None:
    async def nothing(_consumer: RabbitConsumer, batch: Sequence[Settlement]) -> Sequence[Settled]:
        return [Settled.DONE] * len(batch)

    RabbitConsumer.settle = nothing


def _one_more_boundary() -> None:
    settle = RedisConsumer.settle

    async def asking_first(consumer: RedisConsumer[Any], batch: Sequence[Settlement]) -> Sequence[Settled]:
        await consumer._server.link.ask(("EXISTS", "what-nobody-made"))
        return await settle(consumer, batch)

    RedisConsumer.settle = asking_first


MUTANTS = {
    "one more boundary": _one_more_boundary,
    "ack before the copy": _ack_before_the_copy,
    "ack before the handler": _ack_before_the_handler,
    "never settled": _never_settled,
}
