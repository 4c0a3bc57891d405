"""From arrival to outcome: what happens to the deliveries that a lane has taken.

One group is one message, or with ``process_batch`` several. The steps are those of the design: too old? decode, validate;
a duplicate? the handler; what it means; outputs; the settlement. No step decides twice and none settles twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from typing import Any, Literal, assert_never

from pythia.broker import Claim, Kind, Output
from pythia.core.context import current_delivery, current_say
from pythia.core.dedup import Dedup
from pythia.core.events import MessageDuplicate, MessageTimeout, TaskFailed
from pythia.core.held import Held
from pythia.core.middleware import Call
from pythia.core.outcome import ACK, Outcome
from pythia.core.publishing import derived_id, make_envelope
from pythia.core.shift import Shift
from pythia.core.stepping import drive
from pythia.errors import DecodeError, HandlerTimeout
from pythia.message import Message, delivered

BUSY_DELAY_SECONDS = 1.0
_NO_OUTPUTS: tuple[Output, ...] = ()

Interrupt = Literal["timeout", "drain", "lost"]  # why a handler was cancelled by us


class Processor:
    """Handles groups of deliveries with one worker's handler. ``batched``: the handler takes the tuple of messages."""

    def __init__(self, shift: Shift, handler: Call, dedup: Dedup, *, batched: bool) -> None:
        self._shift = shift
        self._handler = handler
        self._dedup = dedup
        self._batched = batched

    async def admit(self, held: Held) -> bool:
        """Whether the handler should see it; otherwise it is settled: expired, undecodable, or a duplicate."""
        outcome = self._too_old(held) or self._decode(held)
        if outcome is None and held.message is not None and held.rules.dedup_ttl is not None:
            outcome = await self._claim(held, held.message)
        if outcome is not None:
            held.settle(outcome)
        elif not held.open:
            await self._free_claim(held, None)
        return outcome is None and held.open

    async def handle(self, group: Sequence[Held]) -> Any:
        """Run the handler over admitted deliveries, in a context of its own; its value, or its exception."""
        messages = tuple(held.message for held in group)
        first = group[0].delivery
        context = copy_context()
        context.run(current_delivery.set, first)
        context.run(current_say.set, group[0].say)
        call = self._call(messages if self._batched else messages[0])
        return await drive(call, context, self._shift, first)

    async def _call(self, argument: Any) -> Any:
        return await self._handler(argument)

    async def conclude(self, held: Held, value: Any, error: BaseException | None) -> None:
        """Settle ``held`` by what its handler returned or raised; nothing if it settled itself or was lost."""
        if not held.open:
            await self._free_claim(held, None if held.outcome is None else held.outcome.kind)
            return
        outcome, outputs = held.judge(error), _NO_OUTPUTS
        if error is None and value is not None and held.rules.sink is not None:
            outcome, outputs = self._sink(held, held.rules.sink, value)
        await self._free_claim(held, outcome.kind)
        held.settle(outcome, outputs)

    async def interrupted(self, held: Held, interrupt: Interrupt) -> None:
        """Settle ``held``, whose handler was cancelled by us."""
        match interrupt:
            case "timeout":
                seconds = held.rules.handler_timeout or 0.0
                error = HandlerTimeout(f"the handler ran longer than {seconds:g} s (handler_timeout_seconds)")
                self._shift.emit(
                    MessageTimeout(delivery=held.delivery, reason="handler_timeout_seconds", seconds=seconds)
                )
                await self.conclude(held, None, error)
            case "drain":
                await self._free_claim(held, "release")
                held.settle(Outcome("release", "drain"))
            case "lost":
                await self._free_claim(held, None)
            case _:
                assert_never(interrupt)

    async def _free_claim(self, held: Held, kind: Kind | None) -> None:
        """A store that cannot be reached keeps no message from its settlement: the claim expires by itself."""
        try:
            await self._dedup.conclude(held, kind)
        except Exception as error:  # noqa: BLE001 - a store of the user's choice may raise anything
            self._shift.emit(TaskFailed(where="idempotency store", error=error))

    def _too_old(self, held: Held) -> Outcome | None:
        limit = held.rules.max_age
        if limit is None or (age := self._shift.clock.time() - held.delivery.first_seen) <= limit:
            return None
        text = f"waited {age:.0f} s, max_age_seconds is {limit:g}"
        return Outcome("dead_letter", text, dead_reason="expired")

    def _decode(self, held: Held) -> Outcome | None:
        try:
            body = held.rules.decoder.decode(held.delivery.envelope)
        except DecodeError as error:
            return Outcome("dead_letter", str(error), error, dead_reason=error.reason)
        held.message = delivered(held.delivery, body, held)
        return None

    async def _claim(self, held: Held, message: Message[Any]) -> Outcome | None:
        claim = await self._dedup.claim(held, message)
        if claim is Claim.OURS:
            return None
        busy = claim is Claim.BUSY
        reason = "its twin is running" if busy else "its effect is done"
        self._shift.emit(MessageDuplicate(delivery=held.delivery, reason=reason))
        return Outcome("defer", reason, delay_seconds=BUSY_DELAY_SECONDS) if busy else Outcome("ack", reason)

    def _sink(self, held: Held, queue: str, value: Any) -> tuple[Outcome, tuple[Output, ...]]:
        """The returned value as an output; a value without a wire form is the handler's failure."""
        source = held.delivery.envelope
        try:
            envelope = make_envelope(
                value,
                id=derived_id(source.id, queue, 0),
                correlation_id=source.correlation_id or source.id,
                headers=_carried(source.headers),
                timestamp=held.now(),
            )
        except TypeError as error:
            return held.judge(error), ()
        return ACK, (Output(queue, envelope),)


def _carried(headers: Any) -> dict[str, Any]:
    """The headers that travel on with what a message causes: its trace."""
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
