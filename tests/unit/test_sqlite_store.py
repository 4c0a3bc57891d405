"""The SQL of a queue file: every hot statement goes by an index, headers come back as they went, unfit values are refused."""

from __future__ import annotations

import re
import sqlite3
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.broker import Settlement
from pythia.brokers.sqlite import rows
from pythia.brokers.sqlite.clock import SqliteClock
from pythia.brokers.sqlite.file import open_file
from pythia.brokers.sqlite.store import Store
from pythia.clock import VirtualClock
from pythia.errors import PublishError
from pythia.message import Envelope


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def store(tmp_path, clock):
    file = open_file(tmp_path / "queue.db", timeout=1.0)
    file.connection.execute("BEGIN")  # whoever uses a store does that
    yield Store(file.connection, SqliteClock.injected(clock))
    file.connection.close()


def put(store, count=1, queue="q", delay=0.0, **fields):
    store.put(queue, [Envelope(b"x", id=f"m{n}", **fields) for n in range(count)], delay)


def traced(store, work) -> list[str]:
    """The statements that ``work`` runs, with their values."""
    seen: list[str] = []
    store.connection.set_trace_callback(seen.append)
    work()
    store.connection.set_trace_callback(None)
    return [statement for statement in seen if re.match(r"\s*(UPDATE|DELETE|SELECT|WITH)", statement)]


def test_no_hot_statement_reads_through_the_messages(store):
    put(store, 50)
    put(store, 50, delay=60.0)
    put(store, 50, ordering_key="k", priority=9)
    owner = store.enter("q", "c", 30.0)
    keyed, *held = store.claim(owner, "q", 20, 30.0)
    assert keyed.envelope.ordering_key == "k"
    store.connection.execute("ANALYZE")

    def everything():
        store.advance()
        store.claim(owner, "q", 10, 30.0)
        store.renew([delivery.token for delivery in held], 30.0)
        store.release([held[0].token])
        store.next_moment()
        store.settle([Settlement(held[1], "ack"), Settlement(keyed, "ack"), Settlement(held[2], "retry")])
        store.leave(owner)
        store.put("q", [Envelope(b"x", id="y", ordering_key="k")])

    for statement in traced(store, everything):
        plan = [row[3] for row in store.connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        reads = [step for step in plan if re.match(r"SCAN (messages|consumers)\b", step)]
        assert not [step for step in reads if "USING" not in step], (statement, plan)


def test_claims_do_not_slow_down_with_what_waits_or_is_delayed(store):
    """Counted in pages' worth of work (virtual machine steps), not in time."""
    owner = store.enter("q", "c", 30.0)

    def steps() -> int:
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        put(store, 10)
        store.connection.set_progress_handler(tick, 1)
        store.advance()
        assert len(store.claim(owner, "q", 10, 30.0)) == 10
        store.connection.set_progress_handler(None, 1)
        return count

    few = steps()
    put(store, 20_000, delay=3600.0)
    put(store, 20_000, queue="other")
    put(store, 20_000, priority=-1)
    store.connection.execute("DELETE FROM messages WHERE state = 0 AND queue = 'q' AND rank = 0")
    assert steps() < 2 * few


def test_what_becomes_due_together_moves_in_portions(store, clock):
    put(store, 2500, delay=1.0)
    clock._elapsed += 2.0
    owner = store.enter("q", "c", 30.0)
    store.advance()
    assert len(store.claim(owner, "q", 5000, 30.0)) == 1000
    assert store.next_moment() == 0.0, "there is more to move at once"
    store.advance()
    store.advance()
    assert len(store.claim(owner, "q", 5000, 30.0)) == 1500


def test_leases_of_an_earlier_boot_are_over_at_the_next_start(store):
    put(store, 3)
    before = Store(store.connection, SqliteClock(time=lambda: 0.0, boottime=lambda: 1e9, boot="earlier"))
    before.claim(before.enter("q", "c", 30.0), "q", 3, 30.0)
    assert store.depth("q").in_flight == 3
    owner = store.enter("q", "c", 30.0)
    assert len(store.claim(owner, "q", 10, 30.0)) == 3
    assert store.depth("q").consumers == 1


def test_a_consumer_that_was_given_up_is_known_again_when_it_beats(store, clock):
    owner = store.enter("q", "c", 30.0)
    clock._elapsed += 31.0
    assert store.depth("q").consumers == 0
    other = store.enter("q", "d", 30.0)
    assert store.connection.execute("SELECT id FROM consumers").fetchall() == [(other,)]
    store.beat(owner, "q", "c", 30.0)
    assert store.depth("q").consumers == 2


def test_consumer_numbers_are_never_used_again(store):
    first = store.enter("q", "c", 30.0)
    store.leave(first)
    assert store.enter("q", "c", 30.0) > first


def test_the_file_itself_allows_one_message_of_a_key_to_be_out(store):
    put(store, 2, ordering_key="k")
    with pytest.raises(sqlite3.IntegrityError):
        store.connection.execute("UPDATE messages SET state = 2")


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"x": object()}},
        {"headers": {"x": {1: 2}}},
        {"headers": {1: 2}},
        {"priority": 2**70},
        {"id": "\ud800"},
        {"ordering_key": "\udfff"},
        {"content_type": 3 + 4j},
    ],
    ids=["object", "nested key", "key", "priority", "id", "ordering key", "type"],
)
def test_a_value_that_cannot_be_stored_is_a_publish_error_in_one_line(store, fields):
    with pytest.raises(PublishError) as caught:
        store.put("q", [Envelope(b"x", **{"id": "m1"} | fields)])
    assert caught.value.in_doubt is False
    assert caught.value.queue == "q"
    assert "\n" not in str(caught.value)


def test_headers_nested_without_end_are_a_publish_error(store):
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(PublishError):
        store.put("q", [Envelope(b"x", id="m1", headers={"x": loop})])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$bytes", "$dict", "a", "é", ""]) | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["$bytes", "$dict", "plain"]) | st.text(), values, max_size=5))
def test_headers_come_back_as_they_went(headers):
    restored = rows.load_headers(rows.dump_headers(headers))
    assert dict(restored) == headers
    assert isinstance(restored, MappingProxyType)


def test_sequences_come_back_as_lists_and_buffers_as_bytes():
    headers = {"tuple": (1, (2,)), "array": bytearray(b"a"), "view": memoryview(b"b")}
    assert dict(rows.load_headers(rows.dump_headers(headers))) == {"tuple": [1, [2]], "array": b"a", "view": b"b"}
