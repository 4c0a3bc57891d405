"""Who publishes knows nothing of Pythia: any client's message reaches the handler decoded, is retried after a delay when it
fails, and is dead-lettered as it came, headers and all."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pythia import Message, RetryPolicy, Worker
from tests.conformance.real_rigs import RealRig, config_of, real_rig
from tests.conformance.rigs import holds, soon
from tests.kit.servers import redis_binary

DELAY = 0.3
SAID_AT = int(time.time()) - 60  # a minute's wait is no reason to give a message up


class Failing(Worker):
    """Notes what it gets, and fails it."""

    concurrency = 1
    retry = RetryPolicy(max_attempts=2, delays_seconds=(DELAY,), jitter=0)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: list[tuple[Message[Any], float]] = []
        self.over = asyncio.Event()

    async def process_message(self, message: Message[Any]) -> None:
        self.seen.append((message, asyncio.get_running_loop().time()))
        raise ValueError("no")

    async def on_outcome(self, message: Message[Any], outcome: Any) -> None:
        if outcome.kind == "dead_letter":
            self.over.set()


class Scene:
    """A server, a worker on it, and what the worker saw of one message."""

    def __init__(self, rig: RealRig) -> None:
        self.rig = rig
        self.url = rig.url.partition("?")[0]
        self.queue = rig.scope.inside("q")
        rig.scope.made.add("q")  # to be cleaned up
        settings = {"broker.url": rig.url, "queue": self.queue, "http.enabled": False, "log.level": "critical"}
        self.worker = Failing(config_of(**settings))

    async def fails(self, publish: Callable[[], object], *, before: bool = False) -> list[Message[Any]]:
        """Publish one message (``before`` the worker is there, or after) and let it fail to its end."""
        if before:
            await asyncio.to_thread(publish)
        async with self.worker.running():
            if not before:
                await self.until_registered()
                await asyncio.to_thread(publish)
            await soon(self.worker.over.wait())
        (_, first_at), (_, second_at) = self.worker.seen
        assert second_at - first_at >= DELAY - 0.02
        messages = [message for message, _ in self.worker.seen]
        assert [message.attempt for message in messages] == [1, 2]
        assert messages[0].id == messages[1].id
        await holds(self.rig.broker, "q", ready=0, in_flight=0, delayed=0, dead=1)
        return messages

    async def until_registered(self) -> None:
        """A queue that the worker makes is there."""
        tally = self.worker._pythia_life.tally.queue(self.queue)
        async with asyncio.timeout(10.0):
            while not tally.registered:
                await asyncio.sleep(0.01)

    async def letter(self) -> Any:
        (letter,) = await self.rig.broker.dead_letters("q").list()
        assert (letter.reason, letter.attempts, letter.error_message) == ("attempts_exhausted", 2, "no")
        return letter


async def made(name: str) -> AsyncIterator[Scene]:
    rig = real_rig(name, own_server=False)
    await rig.broker.connect()
    yield Scene(rig)
    await rig.close()


@pytest.fixture
async def rabbit() -> AsyncIterator[Scene]:
    async for scene in made("rabbitmq"):
        yield scene


@pytest.fixture
async def stream() -> AsyncIterator[Scene]:
    async for scene in made("redis-stream"):
        yield scene


@pytest.fixture
async def a_list() -> AsyncIterator[Scene]:
    async for scene in made("redis-list"):
        yield scene


# ── Redis ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def redis_cli(url: str, *arguments: str) -> None:
    program = redis_binary("cli")
    if program is None:
        pytest.skip("redis-cli is not installed")
    subprocess.run([program, "-e", "-u", url, *arguments], check=True, capture_output=True, timeout=10)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("fields", "body", "headers"),
    [
        (["body", '{"n": 1}', "traceparent", "00-1-2-03", "source", "shop"], {"n": 1}, ["traceparent", "source"]),
        (["payload", '{"n": 1}'], {"n": 1}, []),
        (["sku", "a-1", "amount", "2"], {"sku": "a-1", "amount": "2"}, []),
    ],
    ids=["body", "only-field", "fields"],
)
async def test_an_entry_of_redis_cli(stream, before: bool, fields: list[str], body: Any, headers: list[str]):
    for message in await stream.fails(lambda: redis_cli(stream.url, "XADD", stream.queue, "*", *fields), before=before):
        assert message.body == body
        assert set(headers) <= set(message.headers)
    said = dict(zip(fields[::2], fields[1::2], strict=True))
    letter = await stream.letter()
    assert json.loads(letter.envelope.body) == body
    assert {name: letter.envelope.headers.get(name) for name in headers} == {name: said[name] for name in headers}


@pytest.mark.parametrize("before", [True, False])
async def test_an_element_of_redis_cli(a_list, before: bool):
    text = '{"n": 1, "text": "größe"}'
    for message in await a_list.fails(lambda: redis_cli(a_list.url, "LPUSH", a_list.queue, text), before=before):
        assert message.body == {"n": 1, "text": "größe"}
        assert message.raw == text.encode()
    assert (await a_list.letter()).envelope.body == text.encode()


# ── RabbitMQ ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_of_amqp_publish(rabbit):
    program = shutil.which("amqp-publish")
    if program is None:
        pytest.skip("amqp-publish is not installed (amqp-tools)")
    command = (program, "-u", rabbit.url, "-r", rabbit.queue, "-p", "-H", "source: shop", "-b", '{"n": 1}')
    for message in await rabbit.fails(lambda: subprocess.run(command, check=True, capture_output=True, timeout=10)):
        assert (message.body, dict(message.headers)) == ({"n": 1}, {"source": "shop"})
    letter = await rabbit.letter()
    assert (letter.envelope.body, letter.envelope.headers["source"]) == (b'{"n": 1}', "shop")


EVERY_KIND = {  # that pika can write
    "text": "größe",
    "bytes": b"\xff\x00",
    "true": True,
    "small": 7,
    "large": 2**40,
    "negative": -(2**40),
    "decimal": Decimal("1.25"),
    "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "nothing": None,
    "list": [1, "two", None],
    "table": {"deep": {"er": [b"\xff"]}},
    "x-theirs": "kept",
}


def pika_publish(rabbit: Scene, *, arguments: dict[str, Any] | None = None, priority: int | None = None) -> None:
    """One message with every kind of header; with ``arguments`` into a queue that is declared with them first."""
    pika = pytest.importorskip("pika")
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        headers=EVERY_KIND,
        message_id="theirs-1",
        correlation_id="c-1",
        reply_to="answers",
        priority=priority,
        timestamp=SAID_AT,
        type="order.placed",
        app_id="shop",
        expiration="3600000",
        user_id="guest",
    )
    with pika.BlockingConnection(pika.URLParameters(rabbit.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        if arguments is not None:
            channel.queue_declare(rabbit.queue, durable=True, arguments=arguments)
        channel.basic_publish("", rabbit.queue, b'{"n": 1}', properties, mandatory=True)


def without_time_zone(headers: dict[str, Any]) -> dict[str, Any]:
    """AMQP's times have none; both ends mean UTC."""
    return {k: v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for k, v in headers.items()}


async def test_a_message_of_pika_with_headers_of_every_kind(rabbit):
    pytest.importorskip("pika")
    for message in await rabbit.fails(lambda: pika_publish(rabbit, priority=3)):
        assert message.body == {"n": 1}
        assert without_time_zone(message.headers) == EVERY_KIND
        assert (message.id, message.correlation_id, message.reply_to) == ("theirs-1", "c-1", "answers")
        assert (message.priority, message.timestamp.timestamp()) == (3, SAID_AT)
    letter = await rabbit.letter()
    assert without_time_zone(letter.envelope.headers) == EVERY_KIND
    assert (letter.envelope.id, letter.envelope.body) == ("theirs-1", b'{"n": 1}')


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-queue-type": "classic"},
        {"x-queue-type": "classic", "x-max-priority": 5, "x-message-ttl": 3_600_000},
        {"x-queue-type": "quorum", "x-max-length": 1000},
    ],
    ids=["classic", "priority", "limited"],
)
async def test_a_queue_that_is_there_with_other_arguments_is_consumed_as_it_is(rabbit, arguments):
    pytest.importorskip("pika")
    first, _ = await rabbit.fails(lambda: pika_publish(rabbit, arguments=arguments), before=True)
    assert first.body == {"n": 1}
    assert (await rabbit.letter()).envelope.id == "theirs-1"


async def test_a_task_of_celery_as_kombu_writes_it(rabbit):
    kombu = pytest.importorskip("kombu")
    task = [[1, 2], {"key": "größe"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers = {
        "lang": "py",
        "task": "shop.add",
        "id": "t-1",
        "retries": 0,
        "rate": 0.1,
        "eta": None,
        "timelimit": [None, None],
    }

    def publish() -> None:
        with kombu.Connection(rabbit.url) as connection:
            producer = connection.Producer(serializer="json")
            producer.publish(task, routing_key=rabbit.queue, headers=headers, correlation_id="t-1", delivery_mode=2)

    for message in await rabbit.fails(publish):
        assert message.body == task
        assert dict(message.headers) == headers
        assert message.correlation_id == "t-1"
    assert dict((await rabbit.letter()).envelope.headers) == headers
