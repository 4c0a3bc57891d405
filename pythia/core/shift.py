"""What everybody on one run of a worker shares: the clock, the rules, the counters, the way to report and to publish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from pythia.broker import Broker
from pythia.clock import Clock
from pythia.core.events import Observer, PublishFailed
from pythia.core.publishing import confirm, make_envelope
from pythia.core.rules import Rules
from pythia.core.tally import Tally
from pythia.errors import BrokerError, PublishError, Unsupported, seconds

if TYPE_CHECKING:
    from pythia.core.outcome import Outcome
    from pythia.message import Delivery, Envelope, Message

T = TypeVar("T")

PUBLISH_SECONDS = 30.0


class Shift:
    """One run, from connected to stopped. ``rules`` is replaced by a reload, the rest stays."""

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
    ) -> None:
        self.worker = worker
        self.worker_id = worker_id
        self.broker = broker
        self.rules = rules
        self.tally = tally
        self.emit = emit
        self.clock = clock
        self.random = random
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()  # set when a drain begins; handlers see it as message.stopping
        self.stepping: Delivery | None = None  # whose handler the loop is executing at this very moment
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
    ) -> str:
        """Publish on the worker's own connection, with the options of ``Publisher.publish``; the id, once confirmed.

        Counted either way. Raises what ``Publisher.publish`` does.
        """
        said = {"id": id, **{name: option for name, option in options.items() if option is not None}}
        delay, within = seconds(said.pop("delay", 0)), seconds(said.pop("timeout", PUBLISH_SECONDS))
        if exchange := said.pop("exchange", ""):
            able = self.broker.capabilities.name
            raise Unsupported(f"{able} knows no exchanges (RabbitMQ does): cannot publish to exchange {exchange!r}")
        envelope = make_envelope(body, **said, timestamp=self.clock.time())
        try:
            async with asyncio.timeout(within) as bound:
                await self._publish(queue, envelope, delay)
        except TimeoutError:
            if not bound.expired():
                raise
            text = f"message {envelope.id} to {queue!r} not confirmed within {within:g} s: in doubt"
            raise PublishError(text, queue=queue, id=envelope.id, in_doubt=True) from None
        return envelope.id

    async def _publish(self, queue: str, envelope: Envelope, delay: float) -> None:
        try:
            await confirm(self.broker, queue, [envelope], delay=delay)
        except asyncio.CancelledError:
            self.tally.count_published(queue, "unknown")
            raise
        except BrokerError as error:
            in_doubt = isinstance(error, PublishError) and error.in_doubt
            self.tally.count_published(queue, "unknown" if in_doubt else "refused")
            self.emit(PublishFailed(destination=queue, in_doubt=in_doubt, error=error))
            raise
        self.tally.count_published(queue, "confirmed")

    def moment(self, monotonic: float) -> datetime:
        """A monotonic time of this shift's clock as a UTC time."""
        ahead = monotonic - self.clock.monotonic()
        return datetime.fromtimestamp(self.clock.time() + ahead, UTC)
