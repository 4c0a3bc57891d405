"""The message as handlers and tests see it."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from pythia.core.worker import Worker
from pythia.errors import NotDelivered
from pythia.message import Message, new_id
from tests.unit.core_kit import Gate, running, until


def test_a_message_is_frozen_and_small():
    message = Message({"a": 1})
    with pytest.raises(AttributeError, match="frozen"):
        message.body = 2
    with pytest.raises(AttributeError, match="frozen"):
        del message.body
    with pytest.raises(AttributeError):
        message.anything = 1
    with pytest.raises(TypeError):
        message.headers["x"] = 1
    assert not hasattr(message, "__dict__")


def test_a_parametrised_message_can_be_built():
    assert Message[int](3).body == 3


def test_its_text_shows_no_body():
    assert "secret" not in repr(Message("secret", raw=b"secret", headers={"h": "secret"}))


def test_ids_are_uuids_of_version_7_in_the_order_of_their_making():
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one) for one in ids)
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)


@pytest.mark.parametrize("verb", ["ack", "nack", "reject", "reply"])
async def test_settling_a_message_that_was_built_by_hand_says_so(verb):
    message = Message("x", reply_to="answers")
    args = ("reason",) if verb in ("reject", "reply") else ()
    with pytest.raises(NotDelivered, match=message.id):
        await getattr(message, verb)(*args)


async def test_what_a_hand_built_message_says():
    then = datetime(2020, 1, 1, tzinfo=UTC)
    message = Message("x", timestamp=then, queue="q", attempt=3, priority=4, correlation_id="c", ordering_key="o")
    assert (message.queue, message.attempt, message.priority, message.timestamp) == ("q", 3, 4, then)
    assert (message.max_attempts, message.deadline, message.redelivered) == (1, None, False)
    assert message.age_seconds > 10**8
    assert not message.stopping.is_set()


async def test_what_a_handler_sees():
    seen: list[dict] = []
    gate = Gate()

    class Sees(Worker):
        handler_timeout_seconds = 60

        async def process_message(self, message):
            now = self._pythia_life.clock.time()
            seen.append(
                {
                    "id": message.id,
                    "raw": message.raw,
                    "max": message.max_attempts,
                    "age": message.age_seconds,
                    "left": message.deadline - datetime.fromtimestamp(now, UTC),
                    "deliveries": message.deliveries,
                    "redelivered": message.redelivered,
                    "key": (message.idempotency_key, message.ordering_key),
                    "header": message.headers["h"],
                    "type": message.content_type,
                }
            )
            if len(seen) == 1:
                await gate.pass_through()

    async with running(Sees, retry__max_attempts=7) as kit:
        one = await kit.publish(
            {"a": 1}, headers={"h": 1}, idempotency_key="i", ordering_key="o", timestamp=kit.clock.time() - 100
        )
        await gate.arrivals(1)
        kit.seam.cut()
        await kit.clock.advance(1)
        await until(lambda: len(seen) == 2)
        assert await kit.settled(one) == ["ack"]
    first, second = seen
    assert first["raw"] == b'{"a":1}'
    assert first["max"] == 7
    assert first["age"] == pytest.approx(100)
    assert first["left"] == timedelta(seconds=60)
    assert (first["deliveries"], second["deliveries"]) == (1, 2)
    assert (first["redelivered"], second["redelivered"]) == (False, True)
    assert first["key"] == ("i", "o")
    assert (first["header"], first["type"], first["id"]) == (1, "application/json", one)
    assert second["age"] > 100


async def test_nack_is_a_counted_retry_with_a_delay_and_never_a_hot_loop():
    seen: list[int] = []

    class Nacks(Worker):
        async def process_message(self, message):
            seen.append(message.attempt)
            if message.body == "own delay":
                await message.nack(delay=timedelta(seconds=7))
            elif message.body == "policy":
                await message.nack()
            else:
                await message.nack(requeue=False)

    async with running(Nacks, retry__jitter=0, retry__base_seconds=3) as kit:
        own = await kit.publish("own delay")
        policy = await kit.publish("policy")
        dead = await kit.publish("dead")
        await kit.settled(own)
        await kit.settled(policy)
        assert await kit.settled(dead) == ["dead_letter"]
        delays = {s.delivery.envelope.id: s.delay for s, _ in kit.seam.settlements}
        assert (delays[own], delays[policy]) == (7, 3)
        assert (await kit.dead())[0].reason == "rejected"
        assert (await kit.dead())[0].detail == "nack"
        for _ in range(50):
            await asyncio.sleep(0)
        assert seen == [1, 1, 1]


async def test_a_reply_needs_somebody_who_asked():
    errors: list[Exception] = []

    class Replies(Worker):
        async def process_message(self, message):
            try:
                await message.reply({})
            except NotDelivered as error:
                errors.append(error)

    async with running(Replies) as kit:
        assert await kit.settled(await kit.publish()) == ["ack"]
    assert "reply_to" in str(errors[0])
