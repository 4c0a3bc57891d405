"""The engine: queues in, handlers run, settlements out. It owns every task of the delivery path.

    keeper (one a queue) → subscription → ready → lanes → settler → broker

Reconnecting lives here and nowhere else: an adapter raises ``BrokerUnavailable``, the keeper leaves the subscription,
backs off with jitter, and subscribes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pythia.broker import ConsumeOptions
from pythia.core.events import BrokerConnected, BrokerLost, Observer, TaskFailed
from pythia.core.held import Held
from pythia.core.lanes import Lanes
from pythia.core.ordering import Keys
from pythia.core.processor import Processor
from pythia.core.rules import Rules
from pythia.core.shift import Shift
from pythia.core.slots import Slots
from pythia.core.status import Running
from pythia.core.subscription import Subscription
from pythia.core.sweeper import Sweeper
from pythia.errors import BrokerError, BrokerUnavailable
from pythia.message import Delivery

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0
HOLD_GRACE_SECONDS = 30.0
CONSUME = "consume "  # names of tasks
ON_OUTCOME = "on_outcome"


class Engine:
    """Consumes ``queues`` with ``concurrency`` lanes until drained.

    ``failed`` is set, with ``error``, when something happens that waiting cannot heal. ``on_connection`` is told of every
    change: None when connected, else why not.
    """

    def __init__(
        self,
        shift: Shift,
        processor: Processor,
        keys: Keys,
        *,
        queues: Sequence[str],
        concurrency: int,
        prefetch: int | None,
        lease: float,
        batched: bool,
        on_connection: Callable[[BaseException | None], None],
        broker_url: str,
    ) -> None:
        self._shift = shift
        self._queues = tuple(queues)
        self._lease = lease
        self._batched = batched
        self._on_connection = on_connection
        self._broker_url = broker_url
        self.slots = Slots(self._capacity(concurrency), prefetch, queues=len(self._queues))
        self.lanes = Lanes(shift, self.slots, processor, keys, batched=batched)
        self.lanes.on_ended = self._tell
        self._keys = keys
        self._sweeper = Sweeper(shift, self.lanes, processor, keys)
        self._concurrency = concurrency
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._stopping = asyncio.Event()
        self._subscriptions: set[Subscription] = set()
        self._connecting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._down_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self.failed = asyncio.Event()
        self.error: BaseException | None = None

    # What the outside asks for.

    def start(self) -> None:
        """Consumption begins."""
        self.lanes.resize(self._concurrency)
        self._own(self._sweeper.run(), "sweeper")
        for queue in self._queues:
            self._own(self._keep(queue), f"keeper of {queue}")

    @property
    def prefetch(self) -> int:
        return self.slots.prefetch

    @property
    def refused(self) -> bool:
        """The broker takes no settlements just now; they are held and asked again."""
        return any(subscription.refused for subscription in self._subscriptions)

    @property
    def holding(self) -> int:
        return self.slots.held

    def running(self) -> Sequence[Running]:
        """What runs at this moment, the oldest first. From any thread."""
        now = self._shift.clock.monotonic()
        rows = [
            Running(held.delivery.envelope.id, held.delivery.queue, held.delivery.attempt, held.seconds(now))
            for held in self.lanes.handling
        ]
        return sorted(rows, key=lambda row: -row.seconds)

    @property
    def emit(self) -> Observer:
        return self._shift.emit

    def beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something of the user's beside the lanes; it is cancelled when the engine is closed."""
        self._own(work, name)

    def apply(self, rules: Rules, *, concurrency: int, prefetch: int | None) -> None:
        """New rules for every message that begins from now on. Consumers that were promised less begin anew."""
        promised, hold = self.slots.prefetch, self._max_hold
        self._shift.rules = rules
        self._concurrency = concurrency
        self.slots.resize(self._capacity(concurrency), prefetch)
        if not self._tasks:
            return  # not started, or closed
        self.lanes.resize(concurrency)
        if self.slots.prefetch > promised or self._max_hold != hold:
            self._own(self._drain_subscriptions(), "resubscribe")

    def pause(self) -> None:
        """Take nothing more and release what waits; handlers go on."""
        self._resumed.clear()
        self._own(self._drain_subscriptions(), "pause")
        self.lanes.release_ready("paused")
        self._keys.release("paused")

    def resume(self) -> None:
        self._resumed.set()

    async def stop_intake(self) -> None:
        """No handler begins after this (I6); what none has begun is handed back now."""
        self._stopping.set()
        self._shift.stopping.set()
        self._resumed.set()
        self.lanes.wake_all()
        self.lanes.release_ready("drain")
        self._keys.release("drain")
        await self._drain_subscriptions()

    async def settled(self) -> None:
        """Wait until nothing is held any more, and the user was told of every outcome."""
        for name in (CONSUME, ON_OUTCOME):
            if tasks := [task for task in self._tasks if task.get_name().startswith(name)]:
                await asyncio.wait(tasks)

    async def close(self, within: float = 1.0) -> None:
        """Stop at once: what is still held is lost and comes again. A handler that does not end is left behind."""
        self._stopping.set()
        self._shift.stopping.set()
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within)
        await self.lanes.close(within)

    # Consuming.

    async def _keep(self, queue: str) -> None:
        """Stay subscribed to ``queue``: again after a pause, and after every lost connection."""
        backoff = 0.0
        while not self._stopping.is_set():
            await self._resumed.wait()
            if self._stopping.is_set():
                return
            subscription, run = self._subscribe(queue)
            await self._intake(subscription, run)
            if not run.done() or (error := run.exception()) is None:
                continue
            if not isinstance(error, BrokerUnavailable):
                self._fail(error)
                return
            if subscription.registered_at is not None:
                backoff = 0.0
            backoff = min(LONGEST_BACKOFF_SECONDS, max(FIRST_BACKOFF_SECONDS, backoff * 2))
            await self._back_off(error, backoff * self._shift.random.uniform(0.5, 1.0))

    def _subscribe(self, queue: str) -> tuple[Subscription, asyncio.Task[None]]:
        options = ConsumeOptions(
            prefetch=self.slots.prefetch,
            lease=self._lease,
            max_hold=self._max_hold,
            consumer=self._shift.worker_id,
            on_lost=lambda deliveries, reason: self._lost_from_thread(subscription, deliveries, reason),
        )
        subscription = Subscription(
            queue, self._shift.broker, options, self._shift, self.slots, shares=len(self._queues) > 1
        )
        subscription.on_arrived = self._arrived
        subscription.on_lost = self.lanes.lost
        subscription.on_registered = self._connected
        self._subscriptions.add(subscription)
        run = self._own(self._consume(subscription), f"{CONSUME}{queue}", told=False)
        run.add_done_callback(lambda task: self._left(subscription, task))
        return subscription, run

    def _left(self, subscription: Subscription, run: asyncio.Task[None]) -> None:
        """A subscription has ended. Its keeper sees to an error, but for one that was drained: nobody waits for that."""
        self._subscriptions.discard(subscription)
        error = None if run.cancelled() else run.exception()
        if subscription.draining and error is not None and not isinstance(error, BrokerUnavailable):
            self._fail(error)

    def _arrived(self, batch: Sequence[Held]) -> None:
        """What was on its way when a drain or a pause began goes back at once."""
        self.lanes.arrived(batch)
        if self._shift.stopping.is_set():
            self.lanes.release_ready("drain")
        elif not self._resumed.is_set():
            self.lanes.release_ready("paused")

    async def _consume(self, subscription: Subscription) -> None:
        """On a connection that is there: a lost one is made again, once for all queues."""
        async with self._connecting:
            await self._shift.broker.connect()
        await subscription.run()

    async def _intake(self, subscription: Subscription, run: asyncio.Task[None]) -> None:
        """Until the subscription takes nothing more: drained (it then ends by itself), or ended."""
        over = asyncio.create_task(subscription.intake_over.wait(), name="intake")
        try:
            await asyncio.wait({over, run}, return_when=asyncio.FIRST_COMPLETED)
            if not subscription.draining:
                await asyncio.wait({run})
        finally:
            over.cancel()

    async def _back_off(self, error: BaseException, seconds: float) -> None:
        if self._down_since is None:
            self._down_since = self._shift.clock.monotonic()
        self._shift.emit(BrokerLost(error=error, retry_in_seconds=round(seconds, 3)))
        self._on_connection(error)
        sleeping = asyncio.create_task(self._shift.clock.sleep(seconds), name="back-off")
        stopping = asyncio.create_task(self._stopping.wait(), name="back-off ends")
        try:
            await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()

    def _connected(self) -> None:
        self._on_connection(None)
        if self._down_since is None:
            return
        downtime, self._down_since = self._shift.clock.monotonic() - self._down_since, None
        self._shift.tally.reconnects += 1
        version = self._shift.broker.capabilities.server_version
        self._shift.emit(
            BrokerConnected(url=self._broker_url, server_version=version, downtime_seconds=round(downtime, 3))
        )

    def _lost_from_thread(self, subscription: Subscription, deliveries: Sequence[Delivery], reason: str) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(subscription.lost_elsewhere, deliveries, reason)

    async def _drain_subscriptions(self) -> None:
        for subscription in tuple(self._subscriptions):
            try:
                await subscription.drain()
            except BrokerError:
                continue  # nothing to drain: its run ends with the same error

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.failed.set()

    @property
    def _max_hold(self) -> float | None:
        timeout = self._shift.rules.handler_timeout
        return None if timeout is None else timeout + HOLD_GRACE_SECONDS

    def _capacity(self, concurrency: int) -> int:
        return concurrency * (self._shift.rules.batch_size if self._batched else 1)

    def _own(self, work: Coroutine[Any, Any, None], name: str, *, told: bool = True) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if told:
            task.add_done_callback(self._tell)
        return task

    def _tell(self, task: asyncio.Task[None]) -> None:
        """A task of the engine's own must not fail; if it does, the worker has."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._shift.emit(TaskFailed(where=task.get_name(), error=error))
            self._fail(error)
