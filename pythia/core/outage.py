"""Which of many failed tries are worth a line: the first, the first of another kind, and one a minute."""

from __future__ import annotations

REMINDER_SECONDS = 60.0


class Outage:
    """One broker's absence, as a log should tell it. Times are monotonic."""

    def __init__(self) -> None:
        self.since: float | None = None
        self._kind: type[BaseException] | None = None
        self._told_at = 0.0

    def worth_telling(self, error: BaseException, now: float) -> bool:
        """Whether this failure should be said; if so it is taken for said."""
        if self.since is None:
            self.since = now
        elif self._kind is type(error) and now - self._told_at < REMINDER_SECONDS:
            return False
        self._kind, self._told_at = type(error), now
        return True

    def over(self, now: float) -> float | None:
        """It is there again: how long it was away; None when it was not."""
        since, self.since = self.since, None
        return None if since is None else now - since
