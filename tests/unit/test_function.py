"""A worker from a function, which stays a function."""

from __future__ import annotations

import threading

import pydantic
import pytest

from pythia.core.function import handler
from pythia.core.retry import RetryPolicy
from pythia.core.worker import Worker
from pythia.message import Message
from tests.unit.core_kit import config_of, running


class Order(pydantic.BaseModel):
    sku: str


SEEN: list[object] = []


@handler("orders", concurrency=20, retry=RetryPolicy(max_attempts=2))
async def on_order(message: Message[Order]) -> dict[str, str]:
    """Handles orders."""
    SEEN.append(message.body)
    return {"sku": message.body.sku}


@handler("a", "b")
def in_thread(message):
    SEEN.append(threading.current_thread() is threading.main_thread())


@handler()
async def anything(message):
    SEEN.append(message.queue)


async def test_the_function_stays_callable():
    assert await on_order(Message(Order(sku="x"))) == {"sku": "x"}
    assert on_order.__name__ == "on_order"


async def test_it_becomes_a_worker_named_after_it():
    cls = on_order.worker_class
    assert issubclass(cls, Worker)
    assert (cls.__name__, cls.__module__, cls.__doc__) == ("on_order", __name__, "Handles orders.")
    worker = cls(config_of())
    assert worker.name == "on-order"
    assert (worker.config.queue_names, worker.config.concurrency, worker.config.retry.max_attempts) == (
        ("orders",),
        20,
        2,
    )


async def test_it_consumes_with_the_type_that_it_declares():
    async with running(on_order.worker_class) as kit:
        assert await kit.settled(await kit.publish({"sku": "a"})) == ["ack"]
        assert SEEN[-1] == Order(sku="a")
        assert await kit.settled(await kit.publish({"no": 1})) == ["dead_letter"]


async def test_a_plain_function_runs_in_a_thread_and_may_have_several_queues():
    async with running(in_thread.worker_class) as kit:
        for queue in ("a", "b"):
            assert await kit.settled(await kit.publish(queue=queue)) == ["ack"]
            assert SEEN[-1] is False


async def test_without_a_queue_it_consumes_the_default_one():
    async with running(anything.worker_class) as kit:
        await kit.settled(await kit.publish())
        assert SEEN[-1] == "default"


def test_forgotten_parentheses_are_told():
    with pytest.raises(TypeError, match="say which queue"):

        @handler
        async def wrong(message): ...


def test_an_attribute_that_a_worker_has_not_is_told():
    with pytest.raises(TypeError, match="concurency"):
        handler("q", concurency=3)
