"""Frames that follow each other go out together, a lone one at once, and none is kept back or put out of order; behind the end of
a channel nothing is said on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pamqp.commands as amqp
import pytest
from aiormq.abc import ChannelFrame
from hypothesis import given
from hypothesis import strategies as st

from pythia.brokers.rabbitmq.sockets import BEAT, MOST_GATHERED_BYTES, GatheringWriter


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed


@contextlib.contextmanager
def writing() -> Iterator[tuple[Wire, GatheringWriter]]:
    wire = Wire()
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), loop=loop)
    yield wire, GatheringWriter(wire, protocol, None, loop)
    wire.closed = True


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_frame_is_sent_within_two_turns():
    with writing() as (wire, writer):
        writer.write(b"one")
        await turns(3)
        assert wire.writes == [b"one"]


async def test_frames_of_turns_that_follow_each_other_are_one_write():
    with writing() as (wire, writer):
        for number in range(50):
            writer.write(b"%02d" % number)
            await turns(1)
        await turns(3)
        assert wire.writes == [b"".join(b"%02d" % number for number in range(50))]


async def test_what_is_enough_is_sent_though_more_comes():
    with writing() as (wire, writer):
        for _ in range(40):
            writer.write(bytes(MOST_GATHERED_BYTES // 8))
            await turns(1)
        assert len(wire.writes) >= 4
        assert max(map(len, wire.writes)) <= MOST_GATHERED_BYTES + MOST_GATHERED_BYTES // 8


async def test_a_drain_sends_at_once():
    with writing() as (wire, writer):
        writer.write(b"one")
        await writer.drain()
        assert wire.writes == [b"one"]
        writer.write(b"two")
        await turns(3)
        assert wire.writes == [b"one", b"two"]


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(["turn", "drain"])), max_size=60))
def test_whatever_the_turns_and_drains_everything_is_sent_in_order(steps):
    async def play() -> None:
        with writing() as (wire, writer):
            for step in steps:
                if step == "turn":
                    await turns(1)
                elif step == "drain":
                    await writer.drain()
                else:
                    writer.write(step)
            await turns(4)
            assert b"".join(wire.writes) == b"".join(step for step in steps if isinstance(step, bytes))

    asyncio.run(play())


def said(channel: int, *frames: Any) -> bytes:
    return ChannelFrame.marshall(channel, frames).payload


CLOSE = amqp.Channel.Close(reply_code=0, reply_text="", class_id=0, method_id=0)


@pytest.mark.parametrize("end", [CLOSE, amqp.Channel.CloseOk()], ids=["by us", "by the server"])
async def test_behind_the_end_of_a_channel_nothing_is_said_on_it_until_it_is_opened_again(end):
    with writing() as (wire, writer):
        kept = [said(1, end), said(2, amqp.Basic.Ack(5)), BEAT, said(1, amqp.Channel.CloseOk())]
        writer.write(kept[0])
        writer.write(said(1, amqp.Basic.Ack(1)))
        writer.write(kept[1])
        await writer.drain()
        writer.write(said(1, amqp.Basic.Ack(2)))
        for data in kept[2:]:
            writer.write(data)
        await writer.drain()
        anew = [said(1, amqp.Channel.Open()), said(1, amqp.Basic.Ack(3))]
        for data in anew:
            writer.write(data)
        await writer.drain()
        assert b"".join(wire.writes) == b"".join(kept + anew)
