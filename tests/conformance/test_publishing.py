"""A publish is confirmed, or says that it was not: nobody is told that a message is safe which is nowhere."""

from __future__ import annotations

import asyncio

import pytest

from pythia.broker import Published
from pythia.errors import PublishError
from tests.conformance.rigs import bodies, envelope, holds, numbered, options, soon, take


async def test_a_publish_to_a_queue_that_is_not_there_is_kept_or_refused(rig, broker):
    if rig.virtual:
        scoped, queue = broker, "nobody-made-it"
    else:  # without the scope, which makes it first
        scoped, queue = broker.inner, broker.scope.inside("nobody-made-it")
    answers = await soon(scoped.publish(queue, numbered(2)))
    if answers == [Published.REFUSED] * 2:
        await holds(broker, "nobody-made-it", ready=0)
    else:
        assert answers == [Published.CONFIRMED] * 2
        await holds(broker, "nobody-made-it", ready=2)


async def test_one_bad_message_of_a_flight_takes_none_of_it_along(broker):
    flight = [envelope(b"1"), envelope(b"2", headers={"h": object()}), envelope(b"3")]
    try:
        answers = await soon(broker.publish("q", flight))
    except PublishError as error:
        assert error.in_doubt is False
        await broker.publish("q", [envelope(b"after")])
        async with broker.consume("q", options()) as consumer:
            assert bodies(await take(consumer, 1)) == [b"after"]
        await holds(broker, "q", ready=1)
    else:
        assert answers == [Published.CONFIRMED] * 3, "a broker in this process carries anything"


async def test_many_publishers_at_once_each_get_their_own_answer(broker):
    answers = await soon(asyncio.gather(*(broker.publish("q", numbered(20)) for _ in range(10))))
    assert answers == [[Published.CONFIRMED] * 20] * 10
    await holds(broker, "q", ready=200)


@pytest.mark.parametrize("size", [1, 500])
async def test_a_flight_arrives_in_its_order(broker, size):
    await broker.publish("q", numbered(size))
    async with broker.consume("q", options(prefetch=500)) as consumer:
        assert bodies(await take(consumer, size)) == [str(number).encode() for number in range(size)]
