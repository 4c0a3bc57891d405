"""One delivery in our hands, from its receipt until the broker has answered its one settlement."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol

from pythia.broker import Broker, Failure, Output, Settled, Settlement
from pythia.core.outcome import ACK, Outcome, decide, describe, text_of
from pythia.core.publishing import derived_id
from pythia.core.rules import Rules
from pythia.core.shift import Shift
from pythia.core.tally import QueueTally
from pythia.errors import AlreadySettled, NotDelivered, OwnershipLost, Reject, Retry
from pythia.message import Delivery, Message

_TRACEBACK_BYTES = 16 * 1024


class Settling(Protocol):
    """Where settlements go: the settler of the consumer that handed the delivery out."""

    def put(self, held: Held, settlement: Settlement) -> None: ...


class Source:
    """What the deliveries of one subscription have in common. ``broker`` is the one that hands them out, and that their
    handlers publish to."""

    __slots__ = ("broker", "settler", "shift", "tally")

    def __init__(self, settler: Settling, shift: Shift, tally: QueueTally, broker: Broker | None = None) -> None:
        self.settler = settler
        self.shift = shift
        self.tally = tally
        self.broker = broker


class Held:
    """A delivery, what is known of its handling, and its settlement: the first one wins (I1), a lost one writes nothing (I5).

    It is also the message's handle, so that ``await message.ack()`` ends here.
    """

    __slots__ = (
        "answer",
        "arrived",
        "deadline_at",
        "delivery",
        "lost",
        "message",
        "outcome",
        "rules",
        "said",
        "source",
        "started",
    )

    def __init__(self, delivery: Delivery, source: Source, arrived: float) -> None:
        self.delivery = delivery
        self.source = source
        self.rules: Rules = source.shift.rules  # in force when its handling began
        self.arrived = arrived  # monotonic
        self.started: float | None = None  # monotonic, once a lane has it
        self.deadline_at: float | None = None  # monotonic
        self.message: Message[Any] | None = None  # once decoded
        self.outcome: Outcome | None = None  # once settled
        self.lost: str | None = None  # why it is no longer ours
        self.said = 0  # messages published by its handler so far
        self.answer: asyncio.Future[bool] | None = None  # the handler waits for what becomes of its settlement

    @property
    def shift(self) -> Shift:
        return self.source.shift

    @property
    def open(self) -> bool:
        """It still owes its settlement."""
        return self.outcome is None and self.lost is None

    def seconds(self, now: float) -> float:
        """How long it has been with a lane at this (monotonic) moment."""
        return 0.0 if self.started is None else now - self.started

    def settle(self, outcome: Outcome, outputs: Sequence[Output] = ()) -> bool:
        """Hand the one settlement to the settler; False if there was one already, or nothing to settle any more."""
        if not self.open:
            return False
        self.outcome = outcome
        record = self._record(outcome) if outcome.kind == "dead_letter" else None
        settlement = Settlement(self.delivery, outcome.kind, outcome.delay_seconds or 0.0, record, outputs)
        source = self.source
        trial = source.shift.trial
        if trial is None or not trial.takes(self, settlement):
            source.settler.put(self, settlement)
        return True

    def lose(self, reason: str) -> None:
        """It is another's by now, or the connection is gone: whatever was decided is not written."""
        self.lost = reason
        self._resolve(done=False)

    def answered(self, answer: Settled) -> None:
        """The broker has answered; whoever waits for an early settlement goes on. What is dead is not suspected any more: a
        person may replay it."""
        if answer is Settled.DONE and self.outcome is not None and self.outcome.dead_reason == "poison":
            self.shift.suspects.over(self.delivery)
        self._resolve(done=answer is Settled.DONE)

    def _resolve(self, *, done: bool) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(done)

    def _record(self, outcome: Outcome) -> Failure:
        error, delivery = outcome.error, self.delivery
        return Failure(
            reason=outcome.dead_reason or "rejected",
            detail=outcome.reason,
            error_type=None if error is None else qualified_name(error),
            error_message=None if error is None else text_of(error),
            traceback=None if error is None else stack_text(error),
            worker=self.shift.worker,
            worker_id=self.shift.worker_id,
            attempts=delivery.attempt,
        )

    # The message's handle.

    @property
    def max_attempts(self) -> int:
        return self.rules.policy.max_attempts

    @property
    def deadline(self) -> datetime | None:
        return None if self.deadline_at is None else self.shift.moment(self.deadline_at)

    @property
    def stopping(self) -> asyncio.Event:
        return self.shift.stopping

    def now(self) -> float:
        return self.shift.clock.time()

    async def ack(self) -> None:
        await self.shift.at_home(self._settle_early(ACK))

    async def nack(self, *, requeue: bool, delay: float | None) -> None:
        error = Retry(delay, "nack") if requeue else Reject("nack")
        await self.shift.at_home(self._settle_early(self.judge(error)))

    async def reject(self, reason: str) -> None:
        await self.shift.at_home(self._settle_early(self.judge(Reject(reason))))

    async def reply(self, body: Any, headers: Mapping[str, Any] | None) -> None:
        message = self.delivery.envelope
        if message.reply_to is None:
            raise NotDelivered(f"message {message.id} names no reply_to: nowhere to reply")
        correlation = message.correlation_id or message.id
        await self.say(message.reply_to, body, {"headers": headers, "correlation_id": correlation})

    def judge(self, error: BaseException | None) -> Outcome:
        """What ``error`` means for this delivery under the rules in force."""
        if error is None:
            return ACK
        return decide(error, attempt=self.delivery.attempt, policy=self.rules.policy, random=self.shift.random)

    async def say(self, queue: str, body: Any, options: Mapping[str, Any]) -> str:
        """Publish from the handler, confirmed; the id is the same whenever the handler runs again."""
        self.said += 1
        id = derived_id(self.delivery.envelope.id, queue, self.said)  # noqa: A001 - the API's word
        return await self.shift.at_home(self.shift.say(queue, body, options, id=id, broker=self.source.broker))

    async def _settle_early(self, outcome: Outcome) -> None:
        if self.outcome is not None:
            raise AlreadySettled(f"message {self.delivery.envelope.id} has its settlement: {self.outcome.kind}")
        if self.lost is None:
            self.answer = asyncio.get_running_loop().create_future()
            self.settle(outcome)
            if await asyncio.shield(self.answer):
                return
        raise OwnershipLost(f"message {self.delivery.envelope.id} is no longer ours: it comes again")


def qualified_name(error: BaseException) -> str:
    """The class as it is imported: ``package.module.Class``, a builtin by its bare name."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def beyond_pythia(stack: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins in the user's code; its last frame when none does."""
    inner = last = stack
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").startswith("pythia.core."):
        last, inner = inner, inner.tb_next
    return last if inner is None else inner


def stack_text(error: BaseException) -> str:
    """The traceback, at most 16 KiB of it: the end, where the error is."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        text = "".join(traceback.format_tb(error.__traceback__)) + describe(error)
    return text_of(text[-_TRACEBACK_BYTES:])
