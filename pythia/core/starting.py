"""The steps of a start: reach the broker, equip the run, ``on_startup``, consume."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

from pythia.broker import Broker, IdempotencyStore
from pythia.core import tending
from pythia.core.assembly import assemble
from pythia.core.banner import banner
from pythia.core.calling import written
from pythia.core.events import BrokerConnected, BrokerLost, Notice, WorkerRunning
from pythia.core.life import Life, StartStopped, inside
from pythia.core.outage import Outage
from pythia.core.state import WorkerState
from pythia.core.status import Connection
from pythia.core.survey import tell_risks
from pythia.errors import BrokerUnavailable, LifecycleError, Unsupported

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 4.0  # a broker that is there at last is served within five seconds


async def connect(life: Life) -> None:
    """Reach the broker, however long it takes (``startup_timeout_seconds``, ``--fail-fast``), and equip the run with it.

    Raises:
        BrokerUnavailable: out of time. BrokerRefused, StoreError, Unsupported: waiting will not help. StartStopped: asked to
            stop.
    """
    config = life.worker.config
    if life.open_broker is None:
        raise LifecycleError("a worker is started by start(), run() or running(), not by its manager alone")
    broker = life.open_broker(config)
    life.stores.append(broker)
    life.emit(banner(life, broker))
    if not (written(type(life.worker).process_message) or written(type(life.worker).process_batch)):
        life.emit(Notice(detail=f"{type(life.worker).__name__} has no process_message: every message will fail"))
    await _reach(life, broker)
    store = broker.idempotency()
    if config.dedup.enabled and config.dedup.store_url is not None and life.open_store is not None:
        side = life.open_store(config)
        life.stores.append(side)
        await _reach(life, side)
        store = side.idempotency()
    if config.dedup.enabled and store is None:
        raise Unsupported(
            f"dedup.enabled: {broker.capabilities.name} has no store for idempotency keys; set dedup.store_url "
            "(PYTHIA_DEDUP__STORE_URL) to a sqlite:/// or redis:// URL"
        )
    await tell_risks(life, broker, config)
    life.status.waiting_for_broker = False
    _equip(life, broker, store)


async def start_up(life: Life) -> None:
    """Run ``on_startup``; RUNNING without an await after it, so that a task born in it first runs in RUNNING."""
    life.move(WorkerState.STARTING)
    life.status.running_since = time.monotonic()
    life.worker._startup_time = datetime.now()  # noqa: DTZ005, SLF001 - fixed by the first page: naive, local
    if life.stopping:
        raise StartStopped("stopped before on_startup")
    token = inside.set(life)
    try:
        with life.adoption:
            await _on_startup(life)
    except asyncio.CancelledError as error:
        if life.starter is None or (life.starter.cancelling() and not life.stop_cause):
            raise
        if not life.stop_cause:
            raise RuntimeError("on_startup awaited something that was cancelled, and let that pass") from error
        life.starter.uncancel()
        raise StartStopped("stopped during on_startup") from None
    finally:
        inside.reset(token)
    life.status.started_up = True
    life.move(WorkerState.RUNNING)


async def _on_startup(life: Life) -> None:
    """The user's hook, within what the broker left of ``startup_timeout_seconds``."""
    limit = life.worker.config.startup_timeout_seconds
    try:
        async with asyncio.timeout(max(0.0, limit - life.age) if limit else None) as bound:
            await life.worker.on_startup()
    except TimeoutError:
        if not bound.expired():
            raise
        raise TimeoutError(f"on_startup was not done within startup_timeout_seconds = {limit:g}") from None


def consume(life: Life) -> None:
    """Consumption begins; the manager's ``start_worker`` has returned."""
    if life.engine is None or life.state is not WorkerState.RUNNING:
        raise LifecycleError("LifecycleManager.start_worker returned without having started the worker")
    token = inside.set(life)
    try:
        life.engine.start()
    finally:
        inside.reset(token)
    life.tend(life.reloader.serve(), "reload")
    life.tend(tending.check_health(life), "health check")
    life.tend(tending.measure_depth(life), "queue depth")
    life.emit(WorkerRunning(ready_after_seconds=round(life.age, 3)))
    if life.status.paused:
        life.engine.pause()
    life.on_running()


async def _reach(life: Life, broker: Broker) -> None:
    wait, limit, outage = FIRST_WAIT_SECONDS, life.worker.config.startup_timeout_seconds, Outage()
    while not life.stopping:
        try:
            await broker.connect()
            await broker.ping()
        except BrokerUnavailable as error:
            if life.fail_fast or (limit and life.age + wait > limit):
                raise
            _wait_for_broker(life, outage, error, wait)
        else:
            return
        try:
            async with asyncio.timeout(wait * life.random.uniform(0.5, 1.0)):
                await life.stop_asked.wait()
        except TimeoutError:
            wait = min(LONGEST_WAIT_SECONDS, wait * 2)
    raise StartStopped("stopped while waiting for the broker")


def _wait_for_broker(life: Life, outage: Outage, error: BrokerUnavailable, wait: float) -> None:
    life.status.waiting_for_broker = True
    life.status.connection = Connection(connected=False, since=life.status.connection.since, error=str(error))
    if outage.worth_telling(error, life.clock.monotonic()):
        life.emit(BrokerLost(error=error, retry_in_seconds=wait))


def _equip(life: Life, broker: Broker, store: IdempotencyStore | None) -> None:
    """Everything that this run needs of the connected broker."""
    life.status.capabilities = broker.capabilities
    life.status.broker_stats = broker.stats
    life.shift, life.engine = assemble(life, broker, store)
    life.engine.on_retired = life.retire
    life.wired = life.worker.config
    if life.max_messages is not None:
        life.engine.lanes.limit(life.max_messages)
        life.engine.lanes.on_quota = lambda: life.ask_to_stop("max-messages")
    life.status.running = life.engine.running
    life.connection_changed(None)
    life.emit(
        BrokerConnected(
            url=life.worker.config.broker.display_url,
            server_version=broker.capabilities.server_version,
            downtime_seconds=round(life.age, 3),
        )
    )
