"""When a failed message comes back: one policy for messages, jobs and actor calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and after how long. Pure: the same attempt and random source give the same delay.

    ``max_attempts`` counts runs in all, the first included. The delay after attempt n is ``base_seconds * factor**(n-1)``,
    at most ``cap_seconds``, give or take the share ``jitter``; ``delays_seconds`` replaces that by an explicit list whose
    last entry repeats. ``give_up_on`` wins over ``retry_on``. ``per_error`` gives the nearest class in an error's MRO a
    policy of its own; the attempt counter is one for all.
    """

    max_attempts: int = 16
    base_seconds: float = 1.0
    factor: float = 2.0
    cap_seconds: float = 3600.0
    jitter: float = 0.2
    delays_seconds: tuple[float, ...] = ()
    retry_on: tuple[type[Exception], ...] = (Exception,)
    give_up_on: tuple[type[Exception], ...] = ()
    per_error: Mapping[type[Exception], RetryPolicy] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _require(self.max_attempts >= 1, "max_attempts must be at least 1", self.max_attempts)
        _require(self.base_seconds >= 0, "base_seconds must not be negative", self.base_seconds)
        _require(self.factor >= 1, "factor must be at least 1", self.factor)
        _require(self.cap_seconds >= 0, "cap_seconds must not be negative", self.cap_seconds)
        _require(0 <= self.jitter <= 1, "jitter is a share from 0 to 1", self.jitter)
        _require(all(d >= 0 for d in self.delays_seconds), "delays_seconds must not be negative", self.delays_seconds)

    @classmethod
    def never(cls) -> RetryPolicy:
        """The first failure is the last."""
        return cls(max_attempts=1)

    def delay(self, attempt: int, random: Random) -> float:
        """Seconds to wait after the failure of ``attempt`` (1 is the first)."""
        if self.delays_seconds:
            delay = self.delays_seconds[min(attempt, len(self.delays_seconds)) - 1]
        else:
            delay = self._exponential(attempt)
        return delay * (1 + self.jitter * random.uniform(-1, 1))

    def _exponential(self, attempt: int) -> float:
        try:
            return min(self.cap_seconds, self.base_seconds * self.factor ** (attempt - 1))
        except OverflowError:
            return self.cap_seconds

    def governing(self, error: BaseException) -> RetryPolicy:
        """The policy that speaks for ``error``: its class's own, else this one."""
        for cls in type(error).__mro__:
            if cls in self.per_error:
                return self.per_error[cls]
        return self

    def retries(self, error: BaseException) -> bool:
        """Whether an error of this class is worth another attempt. What is no ``Exception`` at all always is."""
        if isinstance(error, self.give_up_on):
            return False
        return not isinstance(error, Exception) or isinstance(error, self.retry_on)

    def with_changes(self, **changes: object) -> RetryPolicy:
        """A copy with some fields changed (``dataclasses.replace``)."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names and types are checked by the constructor


def _require(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001 - a guard reads best as a bare condition
    if not holds:
        raise ValueError(f"RetryPolicy: {rule}, not {value!r}")
