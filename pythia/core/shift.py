"""What everybody on one run of a worker shares: the clock, the rules, the counters, the way to report and to publish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from pythia.broker import Broker
from pythia.clock import Clock
from pythia.core.events import Observer, PublishFailed
from pythia.core.probation import Trial
from pythia.core.publishing import check_able, confirm, make_envelope
from pythia.core.rules import Rules
from pythia.core.suspects import Suspects
from pythia.core.tally import Tally
from pythia.errors import BrokerError, PublishError, seconds

if TYPE_CHECKING:
    from pythia.core.outcome import Outcome
    from pythia.message import Delivery, Envelope, Message

T = TypeVar("T")

PUBLISH_SECONDS = 30.0


class Shift:
    """One run, from connected to stopped. A reload replaces ``rules``, and ``broker`` if it leads to another; the rest stays."""

    def __init__(
        self,
        *,
        worker: str,
        worker_id: str,
        broker: Broker,
        rules: Rules,
        tally: Tally,
        emit: Observer,
        clock: Clock,
        random: Random,
        stopwatch: Callable[[], float] = time.monotonic,
        suspects: Suspects | None = None,
    ) -> None:
        self.worker = worker
        self.worker_id = worker_id
        self.broker = broker
        self.rules = rules
        self.tally = tally
        self.emit = emit
        self.clock = clock
        self.random = random
        self.suspects = Suspects() if suspects is None else suspects
        self.stopwatch = stopwatch  # seconds of this machine's work, also where the clock is a virtual one
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()  # set when a drain begins; handlers see it as message.stopping
        self.stepping: Delivery | None = None  # whose handler the loop is executing at this very moment
        self.trial: Trial | None = None  # of the configuration that was applied last
        self.on_outcome: Callable[[Message[object], Outcome], None] | None = None  # the user's hook, if there is one

    async def at_home(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` on the loop of this shift: an ``async def`` handler in a thread has one of its own."""
        if asyncio.get_running_loop() is self.loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def say(
        self,
        queue: str,
        body: Any,
        options: Mapping[str, Any],
        *,
        id: str | None = None,  # noqa: A002 - the API's word
        broker: Broker | None = None,
    ) -> str:
        """Publish on ``broker``, or on the worker's own connection, with the options of ``Publisher.publish``; the id, once confirmed.

        Counted either way. Raises what ``Publisher.publish`` does.
        """
        said = {"id": id, **{name: option for name, option in options.items() if option is not None}}
        delay, within = seconds(said.pop("delay", 0)), seconds(said.pop("timeout", PUBLISH_SECONDS))
        exchange = said.pop("exchange", "")
        broker = self.broker if broker is None else broker
        check_able(broker.capabilities, delay=delay, exchange=exchange)
        envelope = make_envelope(body, **said, timestamp=self.clock.time())
        try:
            async with asyncio.timeout(within) as bound:
                await self._publish(broker, queue, envelope, delay, exchange)
        except TimeoutError:
            if not bound.expired():
                raise
            text = f"message {envelope.id} to {queue!r} not confirmed within {within:g} s: in doubt"
            raise PublishError(text, queue=queue, id=envelope.id, in_doubt=True) from None
        return envelope.id

    def end_trial(self) -> None:
        """Nothing begins any more that could tell: what is kept is settled as it would have been."""
        if self.trial is not None:
            self.trial.proved()
            self.trial = None

    async def _publish(self, broker: Broker, queue: str, envelope: Envelope, delay: float, exchange: str) -> None:
        destination = exchange or queue  # routing keys may be without number, and this becomes a label
        try:
            await confirm(broker, queue, [envelope], delay=delay, exchange=exchange)
        except asyncio.CancelledError:
            self.tally.count_published(destination, "unknown")
            raise
        except BrokerError as error:
            in_doubt = isinstance(error, PublishError) and error.in_doubt
            self.tally.count_published(destination, "unknown" if in_doubt else "refused")
            self.emit(PublishFailed(destination=destination, in_doubt=in_doubt, error=error))
            raise
        self.tally.count_published(destination, "confirmed")

    def moment(self, monotonic: float) -> datetime:
        """A monotonic time of this shift's clock as a UTC time."""
        ahead = monotonic - self.clock.monotonic()
        return datetime.fromtimestamp(self.clock.time() + ahead, UTC)
