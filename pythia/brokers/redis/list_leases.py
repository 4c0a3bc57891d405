"""What the keeper's thread does for one consumer of a list: show that it lives, and give back what the dead held."""

from __future__ import annotations

from collections.abc import Sequence

from pythia.brokers.redis import keys
from pythia.brokers.redis.driver import ResponseError, error_in
from pythia.brokers.redis.holder import HELD_TOO_LONG, LOST, Held, Holder
from pythia.brokers.redis.keeper import LONGEST_NAP_SECONDS, Pace, beat_seconds
from pythia.brokers.redis.list_source import ListSource, Token
from pythia.brokers.redis.script import millis, script
from pythia.brokers.redis.thread_link import ThreadLink

_BEAT = script("list_beat", "clock", "registered")
_JANITOR = script("list_janitor", "clock", "registered", "returned")


class ListLeases:
    """The duty of one consumer. One registration is the lease of all that it holds; ``renewed`` counts them."""

    def __init__(self, holder: Holder[Token], queue: str, source: ListSource) -> None:
        lease = holder.options.lease
        self._holder = holder
        self._source = source
        self._beat = _BEAT([source.consumers], source.consumer, millis(lease))
        self._janitor = _JANITOR([source.consumers, queue], keys.processing(queue, ""))
        self._queue = queue
        self._pace = Pace(beat_seconds(lease))
        self.renewed = 0

    def step(self, link: ThreadLink) -> float:
        if too_long := self._holder.too_long():
            self._give_up(link, too_long)
        if self._pace.left <= 0:
            self._renew(link)
            self._pace.done()
        return min(LONGEST_NAP_SECONDS, self._pace.left)

    def _renew(self, link: ThreadLink) -> None:
        held = self._holder.all()
        if link.call(*self._beat):
            self.renewed += len(held)
        else:
            self._holder.lose(held, LOST)
        answer = error_in(link.call(*self._janitor))
        if isinstance(answer, ResponseError):
            raise link.refused(answer)

    def _give_up(self, link: ThreadLink, held: Sequence[Held[Token]]) -> None:
        """The owner is told even if the server cannot be: what was not given back goes with the consumer."""
        try:
            link.call(*self._source.releasing(sorted(held, key=self._source.order)))
        finally:
            self._holder.lose(held, HELD_TOO_LONG)
