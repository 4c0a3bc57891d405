"""Code around the handler: in order, seeing what goes in and what comes out."""

from __future__ import annotations

import asyncio

import pytest

from pythia.core.worker import Worker
from pythia.errors import Defer, Drop, Reject, Retry
from tests.unit.core_kit import running


def named(name: str, log: list[str]):
    async def middleware(message, call_next):
        log.append(f"{name} in")
        try:
            value = await call_next(message)
        except BaseException as error:
            log.append(f"{name} {type(error).__name__}")
            raise
        log.append(f"{name} {value}")
        return value

    return middleware


class Answers(Worker):
    async def process_message(self, message):
        if message.body == "bad":
            raise ValueError("bad")
        return {"v": 1}


async def test_the_first_is_outermost_and_each_sees_value_and_error():
    log: list[str] = []

    class Wrapped(Answers):
        middlewares = (named("outer", log), named("inner", log))

    async with running(Wrapped, retry__max_attempts=1) as kit:
        await kit.settled(await kit.publish("good"))
        await kit.settled(await kit.publish("bad"))
    assert log == [
        "outer in", "inner in", "inner {'v': 1}", "outer {'v': 1}",
        "outer in", "inner in", "inner ValueError", "outer ValueError",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Drop("x"), "drop"), (Reject("x"), "dead_letter"), (Defer(5), "defer"), (Retry(5), "retry"), (OSError(), "retry")],
    ids=repr,
)
async def test_a_middleware_may_raise_whatever_a_handler_may(error, kind):
    async def raises(message, call_next):
        await call_next(message)
        raise error

    class Wrapped(Answers):
        middlewares = (raises,)

    async with running(Wrapped) as kit:
        assert await kit.settled(await kit.publish("good")) == [kind]


async def test_a_middleware_may_answer_for_the_handler_and_change_its_value():
    async def answers(message, call_next):
        return {"v": 2} if message.body == "bad" else {"changed": await call_next(message)}

    class Wrapped(Answers):
        sink = "receipts"
        middlewares = [answers]

    async with running(Wrapped) as kit:
        for body in ("bad", "good"):
            assert await kit.settled(await kit.publish(body)) == ["ack"]
        bodies = sorted(s.outputs[0].envelope.body for s, _ in kit.seam.settlements)
        assert bodies == [b'{"changed":{"v":1}}', b'{"v":2}']


async def test_a_timeout_and_a_cancel_pass_through_middlewares():
    log: list[str] = []

    class Slow(Worker):
        handler_timeout_seconds = 5
        middlewares = (named("outer", log),)

        async def process_message(self, message):
            await asyncio.Event().wait()

    async with running(Slow, retry__max_attempts=1) as kit:
        one = await kit.publish()
        await kit.clock.advance(6)
        assert await kit.settled(one) == ["dead_letter"]
    assert log == ["outer in", "outer CancelledError"]


async def test_around_a_batch_it_is_given_the_tuple_of_messages():
    seen: list[object] = []

    async def sees(messages, call_next):
        seen.append([message.body for message in messages])
        assert isinstance(messages, tuple)
        return await call_next(messages)

    class Batch(Worker):
        middlewares = (sees,)

        async def process_batch(self, messages):
            seen.append(len(messages))

    async with running(Batch, batch__size=2) as kit:
        for one in [await kit.publish({"n": n}) for n in range(2)]:
            assert await kit.settled(one) == ["ack"]
    assert seen == [[{"n": 0}, {"n": 1}], 2]


async def test_it_sees_decoded_messages_only_and_cannot_settle_twice():
    errors: list[Exception] = []

    async def settles(message, call_next):
        assert message.body == {"n": 1}
        await message.ack()
        try:
            await message.reject("x")
        except Exception as error:
            errors.append(error)
        return await call_next(message)

    class Wrapped(Worker):
        middlewares = (settles,)

        async def process_message(self, message):
            raise ValueError("after the ack")

    async with running(Wrapped) as kit:
        bad = await kit.publish(b"{", content_type="application/json")
        assert await kit.settled(bad) == ["dead_letter"]
        assert await kit.settled(await kit.publish({"n": 1})) == ["ack"]
    assert len(errors) == 1


async def test_a_class_with_state_is_a_middleware_too():
    class Counts:
        def __init__(self):
            self.calls = 0

        async def __call__(self, message, call_next):
            self.calls += 1
            return await call_next(message)

    counts = Counts()

    class Wrapped(Answers):
        middlewares = (counts,)

    async with running(Wrapped) as kit:
        await kit.settled(await kit.publish("good"))
    assert counts.calls == 1
