"""Acks are coalesced without ever touching what is not done, or what is done already: a channel of AMQP would close over it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pythia.brokers.rabbitmq.tags import UnsettledTags


class Channel:
    """A channel of the server, as it takes acks."""

    def __init__(self) -> None:
        self.unacked: set[int] = set()
        self.delivered = 0

    def deliver(self) -> int:
        self.delivered += 1
        self.unacked.add(self.delivered)
        return self.delivered

    def ack(self, tag: int, *, multiple: bool) -> set[int]:
        assert tag in self.unacked, "PRECONDITION_FAILED - unknown delivery tag"
        covered = {one for one in self.unacked if one <= tag} if multiple else {tag}
        self.unacked -= covered
        return covered


steps = st.lists(
    st.one_of(
        st.integers(1, 8).map(lambda n: ("deliver", n)),
        st.sets(st.integers(0, 30)).map(lambda picks: ("ack", picks)),
        st.integers(0, 30).map(lambda pick: ("requeue", pick)),
    ),
    max_size=40,
)


@given(steps)
def test_every_frame_covers_what_is_done_and_nothing_else(script):
    channel, tags, held = Channel(), UnsettledTags(), []
    for step, what in script:
        if step == "deliver":
            for _ in range(what):
                tag = channel.deliver()
                tags.add(tag)
                held.append(tag)
        elif step == "ack":
            done = [held[pick] for pick in sorted(what) if pick < len(held)]
            covered = [channel.ack(tag, multiple=multiple) for tag, multiple in tags.ack(done)]
            assert sorted(tag for some in covered for tag in some) == sorted(done)
            held = [tag for tag in held if tag not in done]
        elif what < len(held):
            tag = held.pop(what)
            tags.forget(tag)
            channel.unacked.remove(tag)
        assert len(tags) == len(channel.unacked)
        assert all(tag in tags for tag in channel.unacked)


def test_a_contiguous_run_is_one_frame_and_stragglers_are_their_own():
    tags = UnsettledTags()
    for tag in range(1, 8):
        tags.add(tag)
    assert tags.ack([3, 1, 2, 5, 7]) == [(3, True), (5, False), (7, False)]
    assert tags.ack([4]) == [(4, False)]
    assert tags.ack([6]) == [(6, False)]
    assert len(tags) == 0


def test_what_came_before_a_number_is_counted():
    tags = UnsettledTags()
    assert (tags.newest, tags.up_to(5)) == (0, 0)
    for tag in (1, 2, 4):
        tags.add(tag)
    assert (tags.newest, tags.up_to(0), tags.up_to(2), tags.up_to(3), tags.up_to(9)) == (4, 0, 2, 2, 3)
