"""From arrival to outcome: what happens to the deliveries that a lane has taken.

One group is one message, or with ``process_batch`` several. The steps are those of the design: too old? decode, validate;
a duplicate? the handler; what it means; outputs; the settlement. No step decides twice and none settles twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Literal, assert_never

from pythia.broker import Claim, Kind, Output
from pythia.core.context import is_traceparent
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
_LONGEST_TRACESTATE = 512  # that the W3C asks everybody to carry
_NO_OUTPUTS: tuple[Output, ...] = ()

Interrupt = Literal["timeout", "drain", "lost"]  # why a handler was cancelled by us


class Processor:
    """Handles groups of deliveries with one worker's handler. ``batched``: the handler takes the tuple of messages."""

    def __init__(self, shift: Shift, handler: Call, dedup: Dedup, *, batched: bool) -> None:
        self._shift = shift
        self._handler = handler
        self.dedup = dedup
        self._batched = batched

    def admit(self, held: Held) -> bool:
        """Whether the handler may see it; otherwise it is lost, or settled here: poison, expired, or undecodable."""
        outcome = self._poison(held) if self._shift.suspects.table else None
        if outcome is None and held.rules.max_age is not None:
            outcome = self._too_old(held, held.rules.max_age)
        if outcome is None:
            outcome = self._decode(held)
        if outcome is None:
            return held.open
        held.settle(outcome)
        return False

    async def claim(self, held: Held) -> bool:
        """Whether the handler may see an admitted one, whose effect is then ours; otherwise it is settled: a duplicate."""
        outcome = None if held.message is None else await self._claim(held, held.message)
        if outcome is not None:
            held.settle(outcome)
        elif not held.open:
            await self._free_claim(held, None)
        return outcome is None and held.open

    def handle(self, group: Sequence[Held]) -> Awaitable[Any]:
        """Run the handler over admitted deliveries, in a context of its own; its value, or its exception."""
        argument = tuple(held.message for held in group) if self._batched else group[0].message
        return drive(self._handler, argument, group[0], self._shift)

    def ended_plainly(self, held: Held, value: Any, error: BaseException | None) -> None:
        """What ``ended`` does for a handler that was not interrupted, while nobody claims anything."""
        if held.open:
            held.settle(*self._judge(held, value, error))
        if self._shift.suspects.table:
            self._shift.suspects.over(held.delivery)

    async def ended(self, held: Held, interrupt: Interrupt | None, value: Any, error: BaseException | None) -> None:
        """Settle ``held``, whose handler has ended: by itself, or interrupted by us. If it had its time, it kills nobody."""
        if interrupt is None:
            await self.conclude(held, value, error)
        else:
            await self.interrupted(held, interrupt)
        if interrupt is None or interrupt == "timeout":
            self._shift.suspects.over(held.delivery)

    async def conclude(self, held: Held, value: Any, error: BaseException | None) -> None:
        """Settle ``held`` by what its handler returned or raised; nothing if it settled itself or was lost."""
        if not held.open:
            await self._free_claim(held, None if held.outcome is None else held.outcome.kind)
            return
        outcome, outputs = self._judge(held, value, error)
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

    def _judge(self, held: Held, value: Any, error: BaseException | None) -> tuple[Outcome, tuple[Output, ...]]:
        if error is None and value is not None and held.rules.sink is not None:
            return self._sink(held, held.rules.sink, value)
        return held.judge(error), _NO_OUTPUTS

    async def _free_claim(self, held: Held, kind: Kind | None) -> None:
        """A store that cannot be reached keeps no message from its settlement: the claim expires by itself."""
        try:
            await self.dedup.conclude(held, kind)
        except Exception as error:  # noqa: BLE001 - a store of the user's choice may raise anything
            self._shift.emit(TaskFailed(where="idempotency store", error=error))

    def _poison(self, held: Held) -> Outcome | None:
        verdict = self._shift.suspects.verdict(held.delivery)
        return None if verdict is None else Outcome("dead_letter", verdict, dead_reason="poison")

    def _too_old(self, held: Held, limit: float) -> Outcome | None:
        age = self._shift.clock.time() - held.delivery.first_seen
        if age <= limit:
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
        claim = await self.dedup.claim(held, message)
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
    """The headers that travel on with what a message causes: its trace, if it is one. A producer may have put anything there."""
    parent, state = headers.get("traceparent"), headers.get("tracestate")
    if not is_traceparent(parent):
        return {}
    well_formed = isinstance(state, str) and len(state) <= _LONGEST_TRACESTATE and state.isascii()
    return {"traceparent": parent, "tracestate": state} if well_formed else {"traceparent": parent}
