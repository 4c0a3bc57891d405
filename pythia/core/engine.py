"""The engine: queues in, handlers run, settlements out. It owns every task of the delivery path.

    keeper (one a queue) → subscription → ready → lanes → settler → broker

Reconnecting lives here and nowhere else: an adapter raises ``BrokerUnavailable``, the keeper leaves the subscription,
backs off with jitter, and subscribes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from pythia.broker import Broker, ConsumeOptions, ConsumerCancelled
from pythia.core.contact import Contact
from pythia.core.events import Observer, TaskFailed
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
from pythia.core.waiting import first
from pythia.errors import BrokerError, BrokerRefused, BrokerUnavailable
from pythia.message import Delivery

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 4.0  # a broker that is back is served within five seconds
CANCELLED_BACKOFF_SECONDS = 2.0  # the longest for a consumer whose queue is away
REFUSED_BACKOFF_SECONDS = 30.0  # the longest after a refusal: credentials that are tried often lock an account
HOLD_GRACE_SECONDS = 30.0
CONSUME = "consume "  # names of tasks
ON_OUTCOME = "on_outcome"


@dataclass(eq=False, slots=True)
class Link:
    """A broker that is consumed from. ``url`` is as it may be shown."""

    broker: Broker
    url: str
    connecting: asyncio.Lock = field(
        default_factory=asyncio.Lock
    )  # a lost connection is made again, once for all queues


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How an engine consumes. ``lease`` is seconds; ``prefetch`` None: chosen."""

    queues: tuple[str, ...]
    concurrency: int
    prefetch: int | None
    lease: float


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
        terms: Terms,
        *,
        batched: bool,
        on_connection: Callable[[BaseException | None], None],
        broker_url: str,
    ) -> None:
        self._shift = shift
        self._terms = terms
        self._batched = batched
        self._contact = Contact(shift, on_connection)
        self._link = Link(shift.broker, broker_url)
        self.slots = Slots(self._capacity(terms.concurrency), terms.prefetch, queues=len(terms.queues))
        self.lanes = Lanes(shift, self.slots, processor, keys, batched=batched)
        self.lanes.on_ended = self._tell
        self.keys = keys
        self.processor = processor
        self._sweeper = Sweeper(shift, self.lanes, processor, keys)
        self._changed = (
            asyncio.Event()
        )  # set, and replaced, when the terms or the link change: nobody backs off any more
        self._checked = False  # a reload had the broker look at what is consumed: a refusal may pass
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._stopping = asyncio.Event()
        self._subscriptions: dict[Subscription, asyncio.Task[None]] = {}  # in the order of their making
        self._registering = asyncio.Event()  # set, and replaced, when a consumer has been registered
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.on_retired: Callable[[Broker], Coroutine[Any, Any, None]] = _nothing  # nothing comes by it any more
        self.failed = asyncio.Event()
        self.error: BaseException | None = None

    # What the outside asks for.

    def start(self) -> None:
        """Consumption begins."""
        self.lanes.resize(self._terms.concurrency)
        self._own(self._sweeper.run(), "sweeper")
        self._keep_queues()

    @property
    def terms(self) -> Terms:
        return self._terms

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

    def apply(self, rules: Rules, terms: Terms, *, anew: bool = False, link: Link | None = None) -> None:
        """New rules for every message that begins from now on. Consumers begin anew if ``anew``, if they were promised less,
        or on another ``link``: the former ones take nothing more, and finish what they have in hand where it came from."""
        promised, hold = self.slots.prefetch, self._max_hold
        gone = set(self._terms.queues) - set(terms.queues) if link is None else set(self._terms.queues)
        self._shift.rules = rules
        self._terms = terms
        self.slots.resize(self._capacity(terms.concurrency), terms.prefetch, queues=len(terms.queues))
        if link is not None:
            former, self._link, self._shift.broker = self._link, link, link.broker
        if not self._tasks:
            return  # not started, or closed
        self.lanes.resize(terms.concurrency)
        if anew or link is not None or self.slots.prefetch > promised or self._max_hold != hold:
            self._checked = self._checked or anew
            draining = self._own(self._drain_subscriptions(), "resubscribe")
            self.lanes.release_ready("reload", queues=gone)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            self._keep_queues()
            if link is not None and former.broker is not link.broker:
                self._own(self._retire(former, draining), "former connection")

    async def registered(self, within: float) -> None:
        """Wait until every queue has a consumer that is registered; not while paused or stopping, nor for longer."""
        ending = self._shift.loop.time() + within
        while self._resumed.is_set() and not self._stopping.is_set() and not self._all_registered():
            if not await first(self._registering.wait, within=max(0.0, ending - self._shift.loop.time())):
                return

    def _all_registered(self) -> bool:
        there = {each.queue for each in self._subscriptions if each.serves and each.link is self._link}
        return there.issuperset(self._terms.queues)

    async def _retire(self, link: Link, draining: asyncio.Task[None]) -> None:
        """Close a connection that nothing is consumed by any more, once what came by it is settled."""
        await asyncio.wait({draining})
        while any(subscription.link is link for subscription in self._subscriptions):
            await asyncio.wait([run for subscription, run in self._subscriptions.items() if subscription.link is link])
        await self.on_retired(link.broker)

    def pause(self) -> None:
        """Take nothing more and release what waits; handlers go on."""
        self._resumed.clear()
        self._own(self._drain_subscriptions(), "pause")
        self.lanes.release_ready("paused")
        self.keys.release("paused")

    def resume(self) -> None:
        self._resumed.set()

    async def stop_intake(self) -> None:
        """No handler begins after this (I6); what none has begun is handed back now."""
        self._stopping.set()
        self._shift.stopping.set()
        self._resumed.set()
        self.lanes.wake_all()
        self.lanes.release_ready("drain")
        self.keys.release("drain")
        self._shift.end_trial()
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

    def _keep_queues(self) -> None:
        """A keeper for each queue that is to be consumed; that of another one ends by itself."""
        for queue in self._terms.queues:
            keeper = self._keepers.get(queue)
            if keeper is None or keeper.done():
                self._keepers[queue] = self._own(self._keep(queue), f"keeper of {queue}")

    async def _keep(self, queue: str) -> None:
        """Stay subscribed to ``queue``: again after a pause, and after every lost connection or consumer. What a broker refuses
        is the end at the first try; once it has served us it may allow it again (a password that was changed), and is asked."""
        backoff, served = 0.0, False
        while self._wanted(queue):
            await self._resumed.wait()
            if not self._wanted(queue):
                return
            subscription, run = self._subscribe(queue)
            await self._intake(subscription, run)
            served = served or self._checked or subscription.served
            if not run.done() or (error := run.exception()) is None:
                continue
            if subscription.link is not self._link or queue not in self._terms.queues:
                continue  # it is not consumed from there any more
            if not _heals(error, served=served):
                self._fail(error)
                return
            longest = _longest_backoff(error)
            if subscription.settled or subscription.registered_seconds >= longest:
                backoff = 0.0  # it worked meanwhile; one that ends as it begins is no end of the trouble
            backoff = min(longest, max(FIRST_BACKOFF_SECONDS, backoff * 2))
            await self._back_off(queue, error, backoff * self._shift.random.uniform(0.5, 1.0))

    def _wanted(self, queue: str) -> bool:
        return queue in self._terms.queues and not self._stopping.is_set()

    def _subscribe(self, queue: str) -> tuple[Subscription, asyncio.Task[None]]:
        options = ConsumeOptions(
            prefetch=self.slots.prefetch,
            concurrency=self.slots.lanes,
            lease=self._terms.lease,
            max_hold=self._max_hold,
            consumer=self._shift.worker_id,
            on_lost=lambda deliveries, reason: self._lost_from_thread(subscription, deliveries, reason),
        )
        subscription = Subscription(
            queue, self._link, options, self._shift, self.slots, shares=len(self._terms.queues) > 1
        )
        subscription.on_arrived = self._arrived
        subscription.on_lost = self.lanes.lost
        subscription.on_registered = lambda: self._registered(subscription)
        run = self._own(self._consume(subscription), f"{CONSUME}{queue}", told=False)
        self._subscriptions[subscription] = run
        run.add_done_callback(lambda task: self._left(subscription, task))
        return subscription, run

    def _left(self, subscription: Subscription, run: asyncio.Task[None]) -> None:
        """A subscription has ended. Its keeper sees to an error, but for one that was drained: nobody waits for that."""
        self._subscriptions.pop(subscription, None)
        error = None if run.cancelled() else run.exception()
        if error is None or not subscription.draining or subscription.link is not self._link:
            return
        if not _heals(error, served=self._checked or subscription.served):
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
        async with subscription.link.connecting:
            await subscription.link.broker.connect()
        await subscription.run()

    async def _intake(self, subscription: Subscription, run: asyncio.Task[None]) -> None:
        """Until the subscription takes nothing more: drained (it then ends by itself), or ended."""
        await first(subscription.intake_over.wait, lambda: asyncio.wait({run}))
        if not subscription.draining:
            await asyncio.wait({run})

    async def _back_off(self, queue: str, error: BaseException, seconds: float) -> None:
        link = self._link
        self._contact.failed(queue, error, retry_in=seconds, broker=link.broker, url=link.url)
        await first(lambda: self._shift.clock.sleep(seconds), self._stopping.wait, self._changed.wait)

    def _registered(self, subscription: Subscription) -> None:
        registering, self._registering = self._registering, asyncio.Event()
        registering.set()
        if subscription.link is self._link:
            self._contact.connected(self._link.broker, self._link.url)

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
        return None if timeout is None else timeout + HOLD_GRACE_SECONDS + self._shift.rules.keep

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


async def _nothing(_broker: Broker) -> None:
    return


def _heals(error: BaseException, *, served: bool) -> bool:
    """Whether waiting may help against what ended a subscription."""
    return isinstance(error, BrokerUnavailable) or (served and isinstance(error, BrokerRefused))


def _longest_backoff(error: BaseException) -> float:
    match error:
        case ConsumerCancelled():
            return CANCELLED_BACKOFF_SECONDS
        case BrokerRefused():
            return REFUSED_BACKOFF_SECONDS
        case _:
            return LONGEST_BACKOFF_SECONDS
