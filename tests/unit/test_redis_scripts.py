"""The scripts: nothing is written for what is another's, and what fails half-way is taken back."""

from __future__ import annotations

import pytest

from pythia.brokers.redis import RedisSettings, fields
from pythia.brokers.redis.driver import Address
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.script import script
from pythia.brokers.redis.writes import Write, described

pytest_plugins = ["tests.unit.redis_fixtures"]

GROUP = "g"
ACK = script("stream_ack", "fence")
MOVE = script("stream_move", "clock", "writes", "fence")
RELEASE = script("stream_release", "fence")
RENEW = script("stream_renew", "fence")
TAKE = script("stream_take")


@pytest.fixture
async def link(redis):
    link = await Link.open(Address(redis.url, RedisSettings()), "test")
    yield link
    await link.close()


@pytest.fixture
async def held(link):
    """Entry 1-1, handed to ``me`` for the first time."""
    await link.call("XADD", "q", "1-1", "body", "x")
    await link.call("XGROUP", "CREATE", "q", GROUP, "0")
    await link.call("XREADGROUP", "GROUP", GROUP, "me", "STREAMS", "q", ">")
    return ("1-1", "me", 1)


async def pending(link):
    return await link.call("XPENDING", "q", GROUP, "-", "+", 10)


def move(fence, *writes, deletes="auto"):
    keys = ["q", *(write.key for write in writes)]
    return MOVE(keys, GROUP, deletes, *fence, "nobody", 86_400_000, *described(writes, 1))


def ack(*fences, deletes="auto"):
    """Of one consumer's entries."""
    (consumer,) = {consumer for _, consumer, _ in fences}
    words = [word for id_, _, count in fences for word in (id_, count)]
    return ACK(["q"], GROUP, deletes, consumer, "0", *words)


@pytest.mark.parametrize("fence", [("1-1", "other", 1), ("1-1", "me", 2), ("1-2", "me", 1)])
async def test_nothing_is_written_for_a_delivery_that_is_not_ours(link, held, fence):
    copy = Write("stream", "copy", [b"body", b"x"])
    assert await link.call(*ack(fence)) == [0]
    assert await link.call(*RELEASE(["q"], GROUP, "nobody", 1000, *fence)) == [0]
    assert await link.call(*move(fence, copy)) == 0
    assert await link.call("EXISTS", "copy") == 0
    ((_, owner, _, count),) = await pending(link)
    assert (owner, count, await link.call("XLEN", "q")) == (b"me", 1, 1)


async def test_a_renewal_does_not_take_back_what_another_has_by_now(link, held):
    await link.call("XCLAIM", "q", GROUP, "thief", 0, "1-1")
    assert await link.call(*RENEW(["q"], GROUP, "me", "1-1", 1)) == [0]
    ((_, owner, _, _),) = await pending(link)
    assert owner == b"thief"


async def test_a_renewal_resets_the_time_and_counts_nothing(link, held):
    await link.call("XCLAIM", "q", GROUP, "me", 0, "1-1", "IDLE", 60_000, "JUSTID")
    assert await link.call(*RENEW(["q"], GROUP, "me", "1-1", 1)) == [1]
    ((_, _, idle, count),) = await pending(link)
    assert idle < 60_000
    assert count == 1


async def test_what_was_given_back_comes_before_what_expired_and_counts_a_hand_out(link, held):
    await link.call("XADD", "q", "1-2", "body", "y")
    await link.call("XREADGROUP", "GROUP", GROUP, "me", "STREAMS", "q", ">")
    await link.call("XCLAIM", "q", GROUP, "me", 0, "1-1", "IDLE", 60_000, "JUSTID")
    assert await link.call(*RELEASE(["q"], GROUP, "nobody", 86_400_000, "1-2", "me", 1)) == [1]
    taken, vanished = await link.call(*TAKE(["q"], GROUP, "heir", "nobody", 30_000, 1))
    assert ([(key, count) for key, count, _ in taken], vanished) == ([(b"1-2", 2)], [])
    taken, _ = await link.call(*TAKE(["q"], GROUP, "heir", "nobody", 30_000, 5))
    assert [(key, count) for key, count, _ in taken] == [(b"1-1", 2)]
    assert await link.call(*TAKE(["q"], GROUP, "heir", "nobody", 30_000, 5)) == [[], []]


@pytest.mark.parametrize("kind", ["stream", "list", "delayed"])
async def test_a_move_that_cannot_write_everything_writes_nothing_and_keeps_the_source(link, held, kind):
    words = {"stream": [b"body", b"1"], "list": [b"1"], "delayed": [b"1000", b"member"]}[kind]
    await link.call("SET", "broken", "a string")
    answer = await link.call(*move(held, Write(kind, "first", words), Write("stream", "broken", [b"body", b"2"])))
    assert b"WRONGTYPE" in answer
    remains = {"stream": "XLEN", "list": "LLEN", "delayed": "ZCARD"}[kind]
    assert await link.call(remains, "first") == 0
    assert len(await pending(link)) == 1


async def test_an_acked_entry_is_deleted_only_while_no_other_group_reads_the_stream(link, held):
    await link.call("XGROUP", "CREATE", "q", "another", "0")
    assert await link.call(*ack(held)) == [1]
    assert (await pending(link), await link.call("XLEN", "q")) == ([], 1)


@pytest.mark.parametrize(("deletes", "left"), [("always", 0), ("never", 1), ("auto", 0)])
async def test_an_acked_entry_is_deleted_as_the_configuration_says(link, held, deletes, left):
    assert await link.call(*ack(held, deletes=deletes)) == [1]
    assert await link.call("XLEN", "q") == left


async def test_a_strangers_member_among_the_delayed_holds_nobody_up(link):
    mover = script("delayed_move", "clock")
    ours = b"r" * 16 + fields.pack([b"body", b"ours"])
    for member in (b"junk", b"r" * 16 + b"\x00\x00\xff\xffx", b"r" * 16 + fields.pack([b"odd"]), ours):
        await link.call("ZADD", "{q}:delayed", 1, member)
    assert await link.call(*mover(["{q}:delayed", "q"], "stream")) == [4, -1]
    bodies = {entry[1][1] for entry in await link.call("XRANGE", "q", "-", "+")}
    assert {b"junk", b"ours"} <= bodies
    assert len(bodies) == 4


async def test_a_hundred_are_moved_at_once_and_the_next_moment_is_told(link):
    mover = script("delayed_move", "clock")
    await link.call("ZADD", "d", *(word for n in range(150) for word in (n, b"r" * 16 + b"%d" % n)))
    assert await link.call(*mover(["d", "q"], "list")) == [100, 0]
    await link.call("ZADD", "d", 9e15, b"r" * 16 + b"later")
    moved, wait = await link.call(*mover(["d", "q"], "list"))
    assert moved == 50
    assert wait > 0
    assert await link.call("LRANGE", "q", -3, -1) == [b"2", b"1", b"0"]


async def test_a_payload_that_only_begins_like_ours_is_given_back_as_a_body(link):
    give = script("list_release", "returned")
    for payload in (b'{"a": 1}', b"\x00pythia\x01\x00\x00\x00\x09x", b"\x00pythia\x01\x00", b""):
        await link.call("LPUSH", "held", payload)
        assert await link.call(*give(["held", "q"], payload)) == [1]
        words = fields.unwrap(await link.call("RPOP", "q"))
        assert words == [b"body", payload, fields.RETURNED, b"1"]
    ours = fields.wrap([b"body", b"x"])
    await link.call("LPUSH", "held", ours)
    await link.call(*give(["held", "q"], ours))
    once = await link.call("RPOP", "q")
    await link.call("LPUSH", "held", once)
    await link.call(*give(["held", "q"], once))
    assert await link.call("RPOP", "q") == once == fields.wrap([b"body", b"x", fields.RETURNED, b"1"])


@pytest.mark.parametrize("between", [0, 100])
async def test_of_many_entries_those_are_acked_that_are_ours_at_this_hand_out(link, between):
    """``between``: how many others of ours lie among each two, more than one look finds."""
    ids = [f"{number}-{part}" for number in (8, 9, 10, 11) for part in range(5 * (between + 1))]
    await link.call("XGROUP", "CREATE", "q", GROUP, "0", "MKSTREAM")
    for id_ in ids:
        await link.call("XADD", "q", id_, "body", "x")
    await link.call("XREADGROUP", "GROUP", GROUP, "me", "STREAMS", "q", ">")
    chosen = ids[:: between + 1]
    stolen, again, gone = chosen[3], chosen[7], chosen[12]
    await link.call("XCLAIM", "q", GROUP, "thief", 0, stolen)
    await link.call("XCLAIM", "q", GROUP, "me", 0, again)  # handed out a second time
    await link.call("XACK", "q", GROUP, gone)
    wanted = [*chosen[10:], "7-7", *chosen[:10]]
    answers = await link.call(*ACK(["q"], GROUP, "auto", "me", "1", *wanted))
    assert dict(zip(wanted, answers, strict=True)) == {
        id_: int(id_ not in (stolen, again, gone, "7-7")) for id_ in wanted
    }
    assert await link.call(*ack((again, "me", 2), *((id_, "me", 1) for id_ in (stolen, gone, chosen[0], "12-0")))) == [
        *(1, 0, 0, 0, 0)
    ]
    left = {row[0].decode() for row in await link.call("XPENDING", "q", GROUP, "-", "+", 10_000)}
    assert left == set(ids) - set(chosen) | {stolen}
