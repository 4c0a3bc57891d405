"""What a settled delivery means for the counters and the log: every outcome, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from pythia.broker import Output
from pythia.core.events import (
    MessageDead,
    MessageDefer,
    MessageDone,
    MessageDrop,
    MessageOwnershipLost,
    MessageRetry,
)
from pythia.core.held import Held
from pythia.core.outcome import Outcome
from pythia.core.tally import QueueTally
from pythia.errors import DecodeError, Directive


def settled(held: Held, outcome: Outcome, outputs: Sequence[Output], tally: QueueTally) -> None:
    """Count a settlement that the broker carried out, and say what somebody may act on."""
    tally.in_flight -= 1
    tally.outcomes[outcome.kind] += 1
    shift = held.source.shift
    for output in outputs:
        shift.tally.count_published(output.queue, "confirmed")
    if outcome.kind == "ack":
        if shift.rules.log_done:
            shift.emit(MessageDone(delivery=held.delivery, seconds=_seconds(held)))
    else:
        _say(held, outcome, tally)


def _say(held: Held, outcome: Outcome, tally: QueueTally) -> None:
    emit, delivery, error = held.shift.emit, held.delivery, outcome.error
    match outcome.kind:
        case "retry":
            emit(
                MessageRetry(
                    delivery=delivery,
                    error=error,
                    reason=outcome.reason,
                    delay_seconds=outcome.delay_seconds or 0.0,
                    max_attempts=held.max_attempts,
                )
            )
        case "defer":
            delay = outcome.delay_seconds or 0.0
            emit(MessageDefer(delivery=delivery, reason=outcome.reason, delay_seconds=delay))
        case "dead_letter":
            _dead(held, outcome, tally)
        case "drop":
            emit(MessageDrop(delivery=delivery, reason=outcome.reason))
        case "ack" | "release":
            pass  # drain.released tells of those that had begun
        case _:
            assert_never(outcome.kind)


def lost(held: Held, reason: str, tally: QueueTally) -> None:
    """Count a delivery that is no longer ours."""
    tally.in_flight -= 1
    tally.lost += 1
    held.shift.emit(MessageOwnershipLost(delivery=held.delivery, reason=reason))


def _dead(held: Held, outcome: Outcome, tally: QueueTally) -> None:
    reason = outcome.dead_reason or "rejected"
    name = held.shift.broker.capabilities.dead_queue
    dead_queue = None if name is None else name.format(queue=held.delivery.queue)
    tally.dead_reasons[reason] = tally.dead_reasons.get(reason, 0) + 1
    held.shift.emit(
        MessageDead(
            delivery=held.delivery,
            error=None if isinstance(outcome.error, Directive | DecodeError) else outcome.error,  # said, not suffered
            reason=reason,
            detail=outcome.reason,
            attempts=held.delivery.attempt,
            dead_queue=dead_queue,
        )
    )


def _seconds(held: Held) -> float:
    return 0.0 if held.started is None else held.shift.clock.monotonic() - held.started
