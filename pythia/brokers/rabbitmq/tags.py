"""Which delivery tags of a channel are unsettled, and how to ack many with few frames.

``basic.ack`` with ``multiple`` settles every unsettled tag up to and including its own. A tag that is settled twice closes
the channel, so such a frame ends on a tag that is still unsettled, and covers none whose work is not done.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable


class UnsettledTags:
    """The unsettled tags of one channel, in the order of their numbers (which is that of their coming)."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags: list[int] = []

    def __len__(self) -> int:
        return len(self._tags)

    def __contains__(self, tag: int) -> bool:
        at = bisect_left(self._tags, tag)
        return at < len(self._tags) and self._tags[at] == tag

    @property
    def newest(self) -> int:
        """0 when there is none."""
        return self._tags[-1] if self._tags else 0

    def up_to(self, tag: int) -> int:
        """How many have no greater number."""
        return bisect_right(self._tags, tag)

    def add(self, tag: int) -> None:
        if not self._tags or tag > self._tags[-1]:
            self._tags.append(tag)
        else:
            insort(self._tags, tag)

    def forget(self, tag: int) -> None:
        """A tag that is settled by a frame of its own."""
        del self._tags[bisect_left(self._tags, tag)]

    def ack(self, done: Iterable[int]) -> list[tuple[int, bool]]:
        """Settle ``done``, all of them unsettled until now: the frames to send, as (tag, multiple), in their order."""
        finished = set(done)
        prefix = 0
        for tag in self._tags:
            if tag not in finished:
                break
            prefix += 1
        frames = [] if prefix == 0 else [(self._tags[prefix - 1], prefix > 1)]
        frames += [(tag, False) for tag in self._tags[prefix:] if tag in finished]
        self._tags = [tag for tag in self._tags[prefix:] if tag not in finished]
        return frames
