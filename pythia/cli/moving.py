"""Carrying what waits in a queue from one broker to another: confirmed there before it is acked here, so that a kill in between
leaves a message in both, under one id, and never in neither."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from pythia.broker import Broker, ConsumeOptions, Consumer, Published, QueueDepth, Settled, Settlement
from pythia.core.publishing import refusal
from pythia.errors import BrokerError, PublishError, StoreError
from pythia.message import Delivery

AT_A_TIME = 200  # so many are in both after a kill, where the source answers an ack
_LEASE_SECONDS = 15.0
_QUIET_SECONDS = 0.2  # without a message: time to ask whether there are more
_CONFIRM_SECONDS = 30.0
_STALLED_SECONDS = 10.0  # some are ready, and none of them is handed out


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of one queue. ``kept`` are the ids of what the destination cannot carry: it stays where it is."""

    queue: str
    moved: int = 0
    kept: list[str] = field(default_factory=list)
    why_kept: str = ""
    depth: QueueDepth  # of the source, when it was looked at last

    @property
    def waits(self) -> int:
        """How many may still be moved, now or later, as far as the source tells."""
        told = (self.depth.ready, self.depth.in_flight, self.depth.delayed)
        return max(0, sum(number or 0 for number in told) - len(self.kept))

    @property
    def ready(self) -> int:
        """How many of them could be moved now."""
        return max(0, (self.depth.ready or 0) - len(self.kept))


async def move(source: Broker, target: Broker, tally: Tally, advance: Callable[[int], None]) -> None:
    """Move what is ready, also what comes meanwhile; returns once nothing is, or none of it is handed out.

    Raises:
        PublishError, BrokerError: the destination takes none, or one of the two is away. What is not acked is at the source.
    """
    before = -1
    while tally.ready and tally.moved > before:  # what was fetched at the last moment and given back is ready again
        before = tally.moved
        await target.prepare(tally.queue)
        await _pass(source, target, tally, advance)
        tally.depth = await source.depth(tally.queue)


async def _pass(source: Broker, target: Broker, tally: Tally, advance: Callable[[int], None]) -> None:
    room = 2 * AT_A_TIME  # what cannot be carried is held beside a batch
    options = ConsumeOptions(
        prefetch=room, concurrency=room, lease=_LEASE_SECONDS, max_hold=None, consumer=f"move-{os.getpid()}"
    )
    tally.kept = []
    async with source.consume(tally.queue, options) as consumer, aclosing(_batches(source, tally, consumer)) as batches:
        async for batch in batches:
            await _carry(target, consumer, batch, tally, advance)
            if len(tally.kept) >= AT_A_TIME:
                raise BrokerError(f"{len(tally.kept)} messages of {tally.queue!r} cannot be moved: {tally.why_kept}")


async def _batches(source: Broker, tally: Tally, consumer: Consumer) -> AsyncGenerator[Sequence[Delivery], None]:
    """What is handed out, until nothing is ready. A ``receive`` is never cancelled: a drain ends it."""
    receiving = asyncio.ensure_future(consumer.receive(AT_A_TIME))
    last = time.monotonic()
    try:
        while True:
            await asyncio.wait({receiving}, timeout=_QUIET_SECONDS)
            if not receiving.done():
                ready = (await source.depth(tally.queue)).ready
                if not receiving.done() and (not ready or time.monotonic() - last > _STALLED_SECONDS):
                    await consumer.drain()
                continue
            batch = receiving.result()
            if not batch:
                return
            yield batch
            last = time.monotonic()
            receiving = asyncio.ensure_future(consumer.receive(AT_A_TIME))
    finally:
        with contextlib.suppress(BrokerError):  # whoever raised it here has said so
            await consumer.drain()
            await receiving


async def _carry(
    target: Broker, consumer: Consumer, batch: Sequence[Delivery], tally: Tally, advance: Callable[[int], None]
) -> None:
    """Publish a batch and ack what is confirmed; the rest goes back when the consumer leaves."""
    answers = await _published(target, batch, tally)
    pairs = list(zip(batch, answers, strict=True))
    await _ack(consumer, [delivery for delivery, answer in pairs if answer is Published.CONFIRMED], tally, advance)
    for delivery, answer in pairs:
        if answer in (Published.REFUSED, Published.UNKNOWN):
            where = repr(tally.queue)
            raise refusal(target, answer, where, queue=tally.queue, id=delivery.envelope.id)


async def _published(target: Broker, batch: Sequence[Delivery], tally: Tally) -> list[Published | None]:
    """One answer a message; None for one that the destination cannot carry, which is noted."""
    try:
        async with asyncio.timeout(_CONFIRM_SECONDS):
            return list(await target.publish(tally.queue, [delivery.envelope for delivery in batch]))
    except TimeoutError:
        return [Published.UNKNOWN] * len(batch)
    except PublishError as error:  # none was taken
        if len(batch) == 1:
            tally.kept.append(batch[0].envelope.id)
            tally.why_kept = str(error)
            return [None]
    return [(await _published(target, [delivery], tally))[0] for delivery in batch]


async def _ack(consumer: Consumer, carried: Sequence[Delivery], tally: Tally, advance: Callable[[int], None]) -> None:
    if not carried:
        return
    answers = await consumer.settle([Settlement(delivery, "ack") for delivery in carried])
    done = sum(answer is Settled.DONE for answer in answers)
    tally.moved += done
    advance(done)
    if Settled.REFUSED in answers:
        raise StoreError(
            f"{len(carried) - done} messages of {tally.queue!r} are in both brokers, with the same ids:"
            " the source, which has no room, does not take that they are done"
        )
