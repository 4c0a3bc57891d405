"""A configuration on trial: whether more messages fail under it than before, and what becomes of those that did.

The share of failures under the new generation is compared with the one of the window before it. Both are known from samples,
so the comparison is between what can be said with confidence: the new share is higher if the lower end of its Wilson interval
is above the upper end of the former one's, each at three standard deviations, and at least ``LEAST_FAILURES`` messages have
failed. What is not known of the time before (few messages, or none) is taken for at most a half.

Meanwhile a message that failed under the new generation is kept, unsettled: once the trial is over it is settled as it would
have been, or given back uncounted, if the generation is rolled back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from pythia.broker import Settlement
from pythia.core.outcome import Outcome

if TYPE_CHECKING:
    from pythia.core.held import Held
    from pythia.core.rules import Rules

LEAST_FAILURES = 5
DEVIATIONS = 3.0
UNKNOWN_SHARE = 0.5
KEEP_SECONDS = 60.0  # a failure is kept no longer: its lease and the server's patience are bounded
_REMEMBERED = 16  # generations whose late failures are given back


@dataclass(frozen=True, slots=True)
class Share:
    """Of ``ended`` messages, ``failed`` did: a counted failure, or a dead letter."""

    ended: int = 0
    failed: int = 0

    def since(self, earlier: Share) -> Share:
        return Share(self.ended - earlier.ended, self.failed - earlier.failed)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the true share lies (Wilson); 0 and 1 when nothing has ended."""
        if not self.ended:
            return 0.0, 1.0
        n, z = self.ended, DEVIATIONS * DEVIATIONS
        share = self.failed / n
        middle = (share + z / (2 * n)) / (1 + z / n)
        half = DEVIATIONS * sqrt(share * (1 - share) / n + z / (4 * n * n)) / (1 + z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        return f"{self.failed} of {self.ended} messages"


def is_worse(now: Share, before: Share) -> bool:
    """Whether more messages fail ``now``, beyond what chance explains."""
    if now.failed < LEAST_FAILURES:
        return False
    lowest, highest = now.bounds[0], before.bounds[1]
    if before.failed <= UNKNOWN_SHARE * before.ended:
        highest = min(highest, UNKNOWN_SHARE)
    return lowest > highest


class History:
    """What had ended and failed at moments of the last window. Times are monotonic."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Share]] = deque()

    def note(self, now: float, total: Share, window: float) -> None:
        """``total`` is since the worker began; without a window nothing is remembered."""
        if not window:
            self._samples.clear()
            return
        self._samples.append((now, total))
        while len(self._samples) > 1 and self._samples[1][0] <= now - window:
            self._samples.popleft()

    def window(self, now: float, total: Share, seconds: float) -> Share:
        """The share of the last ``seconds``, or of all that is known, if that is less."""
        earlier = Share()
        for moment, share in self._samples:
            if moment > now - seconds:
                break
            earlier = share
        return total.since(earlier)


class Trial:
    """From the moment at which a generation took effect until it has proved itself, or is rolled back.

    So many failures are kept as ``keep_at_most`` says; one more lets the oldest go, settled as it would have been.
    """

    def __init__(self, rules: Rules, before: Share, *, forgiven: Iterable[Rules] = ()) -> None:
        self.before = before
        self.now = Share()
        self.worse = asyncio.Event()
        self._most = 0
        self._rules: Rules | None = rules
        self._unproven = [rules]
        self._forgiven: deque[Rules] = deque(forgiven, _REMEMBERED)
        self._kept: dict[Held, tuple[float, Settlement]] = {}

    @property
    def forgiven(self) -> Iterable[Rules]:
        return tuple(self._forgiven)

    @property
    def kept(self) -> int:
        return len(self._kept)

    def follow(self, rules: Rules) -> None:
        """Another generation before this one has proved itself: it is compared with the same window as this one was."""
        self._rules = rules
        self._unproven.append(rules)
        self.now = Share()
        self.worse.clear()

    def keep_at_most(self, most: int) -> None:
        self._most = most

    def takes(self, held: Held, settlement: Settlement) -> bool:
        """Look at a settlement on its way to the broker; whether it does not go there now, or not as it is."""
        if any(held.rules is rules for rules in self._forgiven):
            if settlement.kind not in ("retry", "dead_letter") or held.answer is not None:
                return False
            _give_back(held)
            return True
        if not any(held.rules is rules for rules in self._unproven):
            return False
        if settlement.kind in ("ack", "drop"):
            self._count(held, failed=0)
        elif settlement.kind in ("retry", "dead_letter"):
            self._count(held, failed=1)
            return self._keep(held, settlement)
        return False

    def let_go(self, before: float | None = None) -> None:
        """Settle what is kept as it would have been: all of it, or what has been kept since before that moment."""
        for held, (since, settlement) in list(self._kept.items()):
            if before is None or since < before:
                del self._kept[held]
                held.source.settler.put(held, settlement)

    def proved(self) -> None:
        """The generation stays."""
        self._rules = None
        self._unproven.clear()
        self.let_go()

    def roll_back(self) -> int:
        """The generation goes: what failed under it is given back, and so is what still runs under it and will fail."""
        self._forgiven.extend(self._unproven)
        self._rules = None
        self._unproven.clear()
        kept, self._kept = self._kept, {}
        for held in kept:
            _give_back(held)
        return len(kept)

    def _count(self, held: Held, *, failed: int) -> None:
        if held.rules is self._rules:
            self.now = Share(self.now.ended + 1, self.now.failed + failed)
            if failed and is_worse(self.now, self.before):
                self.worse.set()

    def _keep(self, held: Held, settlement: Settlement) -> bool:
        if held.answer is not None or not self._most:
            return False
        if len(self._kept) >= self._most and not self.worse.is_set():
            oldest = next(iter(self._kept))
            oldest.source.settler.put(oldest, self._kept.pop(oldest)[1])
        self._kept[held] = (held.shift.clock.monotonic(), settlement)
        return True


def _give_back(held: Held) -> None:
    held.outcome = Outcome("release", "its configuration was rolled back")
    held.source.settler.put(held, Settlement(held.delivery, "release"))
