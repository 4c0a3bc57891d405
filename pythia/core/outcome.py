"""What a handler's result means: one closed set, decided by one pure function."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pythia.broker import Kind
from pythia.core.retry import RetryPolicy
from pythia.errors import DeadReason, DecodeError, Defer, Drop, Reject, Retry


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one delivery.

    ``reason`` is for people, except with ``dead_letter``, where ``dead_reason`` holds the closed word and ``reason`` the
    sentence. ``delay_seconds`` is set for retry and defer.
    """

    kind: Kind
    reason: str = ""
    error: BaseException | None = None
    delay_seconds: float | None = None
    dead_reason: DeadReason | None = None


ACK = Outcome("ack")


def decide(error: BaseException | None, *, attempt: int, policy: RetryPolicy, random: Random) -> Outcome:
    """The outcome of a delivery whose handler raised ``error`` (None: it returned). Pure but for the random source.

    ``attempt`` is the one that just ran. Age is not decided here: a message that is too old never reaches its handler.
    """
    match error:
        case None:
            return ACK
        case Drop():
            return Outcome("drop", text_of(error.reason), error)
        case Reject():
            return Outcome("dead_letter", text_of(error.reason), error, dead_reason="rejected")
        case DecodeError():
            return Outcome("dead_letter", text_of(error), error, dead_reason=error.reason)
        case Defer():
            return Outcome("defer", text_of(error.reason), error, max(0.0, error.delay))
    return _failed(error, attempt=attempt, policy=policy.governing(error), random=random)


def _failed(error: BaseException, *, attempt: int, policy: RetryPolicy, random: Random) -> Outcome:
    if not policy.retries(error) and not isinstance(error, Retry):
        return Outcome("dead_letter", describe(error), error, dead_reason="gave_up")
    if attempt >= policy.max_attempts:
        return Outcome("dead_letter", describe(error), error, dead_reason="attempts_exhausted")
    delay = error.after if isinstance(error, Retry) else None
    return Outcome("retry", describe(error), error, policy.delay(attempt, random) if delay is None else max(0.0, delay))


def describe(error: BaseException) -> str:
    """One line that says which error it was; survives an error whose own ``__str__`` raises."""
    text = text_of(error)
    name = type(error).__name__
    if isinstance(error, Retry):
        return text or "retry asked for"
    return f"{name}: {text}" if text else name


def text_of(thing: object) -> str:
    """What a user gave as a reason, or an error says, as text that every broker can write down."""
    try:
        return str(thing).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - the user's __str__ may raise anything
        return "<its text cannot be had: __str__ raised>"
