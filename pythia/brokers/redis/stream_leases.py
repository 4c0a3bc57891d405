"""What the keeper's thread does for one consumer of a stream: renew, give up what is held too long, forget the dead."""

from __future__ import annotations

from collections.abc import Sequence

from pythia.brokers.redis.holder import HELD_TOO_LONG, LOST, Held, Holder
from pythia.brokers.redis.keeper import LONGEST_NAP_SECONDS, Pace, beat_seconds
from pythia.brokers.redis.script import script
from pythia.brokers.redis.stream_source import RENEWED_AT_ONCE, StreamSource, Token
from pythia.brokers.redis.thread_link import ThreadLink

_SWEEP_SECONDS = 600.0
_DEAD_AFTER_MS = 3_600_000

_SWEEP = script("stream_sweep")


class Leases:
    """The duty of one consumer's leases. ``renewed`` counts them."""

    def __init__(self, holder: Holder[Token], queue: str, group: str, source: StreamSource) -> None:
        self._holder = holder
        self._queue = queue
        self._group = group
        self._source = source
        self._renewal = Pace(beat_seconds(holder.options.lease))
        self._sweep = Pace(_SWEEP_SECONDS)
        self.renewed = 0

    def step(self, link: ThreadLink) -> float:
        if too_long := self._holder.too_long():
            self._give_up(link, too_long)
        if self._renewal.left <= 0:
            self._renew(link)
            self._renewal.done()
        if self._sweep.left <= 0:
            link.call(*_SWEEP([self._queue], self._group, _DEAD_AFTER_MS))
            self._sweep.done()
        return min(LONGEST_NAP_SECONDS, self._renewal.left)

    def _give_up(self, link: ThreadLink, held: Sequence[Held[Token]]) -> None:
        """The owner is told even if the server cannot be: the lease runs out by itself."""
        try:
            link.call(*self._source.releasing(held))
        finally:
            self._holder.lose(held, HELD_TOO_LONG)

    def _renew(self, link: ThreadLink) -> None:
        held = [one for one in self._holder.all() if not one.vanished]
        for start in range(0, max(1, len(held)), RENEWED_AT_ONCE):
            part = held[start : start + RENEWED_AT_ONCE]
            self._judge(part, link.call(*self._source.renewing(part)))

    def _judge(self, held: Sequence[Held[Token]], answers: Sequence[int]) -> None:
        rows = list(zip(held, answers, strict=True))
        self.renewed += sum(answer == 1 for _, answer in rows)
        vanished = [one for one, answer in rows if answer == 2 and not one.settling]
        for one in vanished:
            one.vanished = True
        self._source.vanished += len(vanished)
        self._holder.lose([one for one, answer in rows if answer == 0], LOST)
