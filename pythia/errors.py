"""Every error that Pythia raises, in one tree.

    PythiaError
    ├── ConfigError            exit 78   a setting that cannot be used
    ├── TargetError            exit 64   ``module:attribute`` does not name a worker
    ├── LifecycleError                   a move between states that is not allowed
    ├── PortBusy               exit 69   the HTTP port that was asked for is another's
    ├── BrokerError
    │   ├── BrokerUnavailable  exit 69   transient: the engine connects again
    │   ├── BrokerRefused      exit 78   waiting will not help
    │   ├── StoreError         exit 74   a file that is full, read-only or corrupt
    │   ├── PublishError                 one message was not, or perhaps not, taken
    │   └── Unsupported        exit 78   this broker cannot do it
    ├── SettlementError
    │   ├── AlreadySettled
    │   ├── NotDelivered
    │   └── OwnershipLost                the message will come again
    ├── DecodeError                      → dead letter ``undecodable``, ``invalid``, ``too_large``
    └── HandlerTimeout (TimeoutError)    ours, never the user's own ``TimeoutError``
    Directive(Exception): Retry · Defer · Reject · Drop

Each carries what was attempted, on what, and what the operator can do. ``exit_code`` is what a command ends with when the
error reaches its top.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

Seconds = float | timedelta

DeadReason = Literal[
    "rejected", "gave_up", "attempts_exhausted", "expired", "undecodable", "invalid", "too_large", "poison"
]


def seconds(value: Seconds) -> float:
    """A duration as a number of seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


class PythiaError(Exception):
    """The root of every error that Pythia itself raises."""

    exit_code: int = 70


class ConfigError(PythiaError, ValueError):
    """A setting that cannot be used: unknown, malformed or out of range.

    ``key`` is the dotted key, ``source`` where it was read (a file, an environment variable, an argument), ``value`` the
    offending value with secrets masked, ``nearest`` the valid key that was probably meant.
    """

    exit_code = 78

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        source: str | None = None,
        value: object = None,
        nearest: str | None = None,
    ) -> None:
        super().__init__(message)
        self.key = key
        self.source = source
        self.value = value
        self.nearest = nearest


class TargetError(PythiaError):
    """``TARGET`` does not name a worker; the text says what was imported and what was found there."""

    exit_code = 64


class LifecycleError(PythiaError):
    """A move between worker states that the lifecycle does not allow."""


class PortBusy(PythiaError):
    """The HTTP port that was set is in use; a port that was not set gives way by itself."""

    exit_code = 69


class BrokerError(PythiaError):
    """Anything that a broker, or our adapter to it, could not do."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached just now. The engine connects again; with ``--fail-fast`` it is the exit."""

    exit_code = 69


class BrokerRefused(BrokerError):
    """The broker answered no (credentials, virtual host, arguments): waiting will not help."""

    exit_code = 78


class StoreError(BrokerError):
    """A queue file that is full, read-only, corrupt, gone, or of another version."""

    exit_code = 74


class PublishError(BrokerError):
    """A message was not taken; ``in_doubt`` when it may be there all the same (publish again with the same ``id``)."""

    def __init__(self, message: str, *, queue: str, id: str, in_doubt: bool) -> None:  # noqa: A002 - the API's word
        super().__init__(message)
        self.queue = queue
        self.id = id
        self.in_doubt = in_doubt


class Unsupported(BrokerError):
    """This broker cannot do it; the text names one that can."""

    exit_code = 78


class SettlementError(PythiaError):
    """A delivery could not be settled in the way that was asked."""


class AlreadySettled(SettlementError):
    """The delivery has its one settlement already."""


class NotDelivered(SettlementError):
    """The message was built by hand, not delivered by a broker, so there is nothing to settle."""


class OwnershipLost(SettlementError):
    """The channel is gone or the lease expired: nothing was written, the message comes again."""


class DecodeError(PythiaError):
    """A body that cannot become what the worker declared; ``reason`` is the dead letter's."""

    def __init__(self, message: str, *, reason: Literal["undecodable", "invalid", "too_large"] = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class HandlerTimeout(PythiaError, TimeoutError):
    """The handler ran longer than ``handler_timeout_seconds``; a counted failure."""


class Directive(Exception):
    """What a handler raises to say something other than "done" or "failed"."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Directive):
    """A counted failure that comes back after ``after`` (seconds or ``timedelta``) instead of the policy's delay."""

    def __init__(self, after: Seconds | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after = None if after is None else seconds(after)


class Defer(Directive):
    """Not now, not my fault: comes back after ``delay``, uncounted, until ``max_age_seconds``."""

    def __init__(self, delay: Seconds = 0.0, reason: str = "") -> None:
        super().__init__(reason)
        self.delay = seconds(delay)


class Reject(Directive):
    """Dead-letter the message now, with this reason."""


class Drop(Directive):
    """Forget the message, counted and logged, with this reason."""
