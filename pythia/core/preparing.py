"""What a reload needs before anything changes: the connection that it leads to, made and tried; its queues, looked at."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pythia.broker import Broker, IdempotencyStore
from pythia.core.engine import Link
from pythia.core.shift import Shift
from pythia.core.survey import tell_risks
from pythia.errors import BrokerError, BrokerUnavailable, LifecycleError, Unsupported

if TYPE_CHECKING:
    from pythia.config import Plan, WorkerConfig
    from pythia.core.life import Life

PREPARE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a reload goes on with. ``link`` is where messages come from after it; None: from where they came before."""

    link: Link | None = None
    store: IdempotencyStore | None = None  # of the new connection, where effects are remembered there


async def prepare(life: Life, new: WorkerConfig, plan: Plan) -> Prepared:
    """Make and check what ``plan`` needs; nothing that serves the worker now is touched.

    Raises:
        BrokerError: the broker cannot be reached within ``PREPARE_SECONDS``, or refuses. Cancelled or not, what was made for
            nothing is closed again.
    """
    shift = life.shift
    if shift is None or life.open_broker is None:
        raise LifecycleError("the worker is not connected")
    try:
        async with asyncio.timeout(PREPARE_SECONDS) as bound:
            if plan.reconnects:
                return await _connected(life, shift, new)
            for queue in new.queue_names:
                if queue not in life.status.config.queue_names:
                    await shift.broker.prepare(queue)
    except TimeoutError:
        if not bound.expired():
            raise
        raise BrokerUnavailable(f"{new.broker.display_url} did not answer within {PREPARE_SECONDS:g} s") from None
    return Prepared()


async def _connected(life: Life, shift: Shift, new: WorkerConfig) -> Prepared:
    assert life.open_broker is not None
    broker = life.open_broker(new)
    if broker is shift.broker:
        return Prepared(Link(broker, new.broker.display_url), broker.idempotency())
    try:
        await broker.connect()
        await broker.ping()
        for queue in new.queue_names:
            await broker.prepare(queue)
        store = _store(broker, new)
        await tell_risks(life, broker, new)
    except BaseException:
        await _given_up(broker)
        raise
    life.stores.append(broker)
    return Prepared(Link(broker, new.broker.display_url), store)


def _store(broker: Broker, new: WorkerConfig) -> IdempotencyStore | None:
    store = broker.idempotency()
    if new.dedup.enabled and new.dedup.store_url is None and store is None:
        raise Unsupported(f"dedup.enabled: {broker.capabilities.name} has no store for idempotency keys")
    return store


async def _given_up(broker: Broker) -> None:
    """Close what was made for nothing; whatever that raises, the reason of the reload's end stands."""
    with suppress(BrokerError):
        await broker.close()
