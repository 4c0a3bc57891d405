"""Publishers: what they returned is confirmed, what they raise says what became of the message."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from pythia.broker import ConsumeOptions, Published
from pythia.brokers import memory, open_broker
from pythia.brokers.memory import MemoryBroker
from pythia.config import WorkerConfig
from pythia.errors import BrokerUnavailable, ConfigError, LifecycleError, PublishError, Unsupported
from pythia.message import Delivery, Envelope
from pythia.publisher import Publisher, SyncPublisher, flight, line
from tests.unit.cli_kit import environment


class WatchedBroker(MemoryBroker):
    """A memory broker that counts, and that can hang."""

    def __init__(self) -> None:
        super().__init__()
        self.connects = 0
        self.flights: list[int] = []
        self.exchanges: list[str] = []
        self.hang_in: str | None = None
        self.hanging = threading.Event()

    async def connect(self) -> None:
        self.connects += 1
        await self._maybe_hang("connect")
        await super().connect()

    async def publish(
        self, queue: str, messages: Sequence[Envelope], *, delay: float = 0.0, exchange: str = ""
    ) -> Sequence[Published]:
        self.flights.append(len(messages))
        self.exchanges.append(exchange)
        await self._maybe_hang("publish")
        return await super().publish(queue, messages, delay=delay)

    async def _maybe_hang(self, where: str) -> None:
        if self.hang_in == where:
            self.hanging.set()
            await asyncio.Event().wait()


@pytest.fixture
def broker(monkeypatch) -> WatchedBroker:
    made = WatchedBroker()
    monkeypatch.setattr(line, "open_broker", lambda *_args, **_kwargs: made)
    return made


async def taken(broker: MemoryBroker, queue: str, count: int) -> Sequence[Delivery]:
    """What is ready in ``queue``, as a consumer sees it."""
    await broker.connect()
    options = ConsumeOptions(prefetch=count, lease=30, max_hold=None, consumer="test")
    async with broker.consume(queue, options) as consumer, asyncio.timeout(5):
        return await consumer.receive(count)


async def test_publish_returns_the_id_of_a_message_that_the_broker_has(broker):
    async with Publisher("memory://") as publisher:
        message_id = await publisher.publish("orders", {"id": 7})
    (delivery,) = await taken(broker, "orders", 1)
    assert delivery.envelope.id == message_id
    assert uuid.UUID(message_id).version == 7
    assert delivery.envelope.body == b'{"id":7}'
    assert delivery.envelope.content_type == "application/json"


async def test_everything_that_is_said_about_a_message_travels_with_it(broker):
    publisher = Publisher("memory://")
    await publisher.publish(
        "orders",
        "hello",
        id="order-7",
        headers={"tenant": "acme"},
        content_type="text/markdown",
        correlation_id="c",
        reply_to="answers",
        priority=5,
        idempotency_key="pay-7",
        ordering_key="customer-1",
    )
    (delivery,) = await taken(broker, "orders", 1)
    said = delivery.envelope
    assert (said.id, said.body, said.content_type) == ("order-7", b"hello", "text/markdown")
    assert dict(said.headers) == {"tenant": "acme"}
    assert (said.correlation_id, said.reply_to, said.priority) == ("c", "answers", 5)
    assert (said.idempotency_key, said.ordering_key) == ("pay-7", "customer-1")
    assert said.timestamp is not None
    await publisher.close()


@dataclass
class Order:
    id: int


@pytest.mark.parametrize(
    ("body", "raw", "content_type"),
    [
        (b"\x00\x01", b"\x00\x01", "application/octet-stream"),
        ("héllo", "héllo".encode(), "text/plain"),
        ([1, None], b"[1,null]", "application/json"),
        (Order(id=7), b'{"id":7}', "application/json"),
    ],
)
async def test_bytes_go_as_they_are_text_as_text_and_the_rest_as_json(broker, body, raw, content_type):
    async with Publisher("memory://") as publisher:
        await publisher.publish("orders", body)
    (delivery,) = await taken(broker, "orders", 1)
    assert (delivery.envelope.body, delivery.envelope.content_type) == (raw, content_type)


async def test_a_body_without_a_json_form_is_refused_before_anything_is_sent(broker):
    async with Publisher("memory://") as publisher:
        with pytest.raises(TypeError, match="a body of object has no"):
            await publisher.publish("orders", object())
    assert broker.flights == []


@pytest.mark.parametrize(("answer", "in_doubt"), [(Published.REFUSED, False), (Published.UNKNOWN, True)])
async def test_an_unconfirmed_message_raises_and_says_whether_it_may_be_there(broker, answer, in_doubt):
    broker.faults.publish = lambda _queue, _envelope: answer
    async with Publisher("memory://") as publisher:
        with pytest.raises(PublishError) as raised:
            await publisher.publish("orders", 1, id="order-7")
    assert (raised.value.queue, raised.value.id, raised.value.in_doubt) == ("orders", "order-7", in_doubt)


async def test_a_publish_that_is_not_confirmed_in_time_is_in_doubt(broker):
    broker.hang_in = "publish"
    async with Publisher("memory://") as publisher:
        with pytest.raises(PublishError, match=r"not confirmed within 0\.01 s") as raised:
            await publisher.publish("orders", 1, id="order-7", timeout=timedelta(milliseconds=10))
    assert (raised.value.id, raised.value.in_doubt) == ("order-7", True)


async def test_a_timeout_before_anything_was_sent_is_not_in_doubt(broker):
    broker.hang_in = "connect"
    publisher = Publisher("memory://")
    with pytest.raises(BrokerUnavailable, match="nothing was published"):
        await publisher.publish("orders", 1, timeout=0.01)
    assert broker.flights == []
    await publisher.close()


async def test_after_a_lost_connection_the_next_publish_connects_again(broker):
    async with Publisher("memory://") as publisher:
        broker.cut()
        with pytest.raises(BrokerUnavailable):
            await publisher.publish("orders", 1)
        await publisher.publish("orders", 2)
    assert broker.connects == 2
    assert [d.envelope.body for d in await taken(broker, "orders", 9)] == [b"2"]


async def test_a_ping_that_fails_makes_the_next_call_connect_again(broker):
    async with Publisher("memory://") as publisher:
        broker.cut()
        with pytest.raises(BrokerUnavailable):
            await publisher.ping()
        await publisher.ping()
    assert broker.connects == 2


async def test_concurrent_first_publishes_share_one_connection(broker):
    publisher = Publisher("memory://")
    await asyncio.gather(*(publisher.publish("orders", n) for n in range(20)))
    assert broker.connects == 1
    assert len(await taken(broker, "orders", 20)) == 20
    await publisher.close()


async def test_a_closed_publisher_refuses_until_it_is_connected_again(broker):
    publisher = Publisher("memory://")
    await publisher.publish("orders", 1)
    await publisher.close()
    await publisher.close()
    with pytest.raises(LifecycleError, match="closed"):
        await publisher.publish("orders", 2)
    await publisher.connect()
    await publisher.publish("orders", 3)
    await publisher.close()


async def test_an_exchange_is_unsupported_where_there_are_none(broker):
    async with Publisher("memory://") as publisher:
        with pytest.raises(Unsupported, match="RabbitMQ"):
            await publisher.publish("orders", 1, exchange="events")
        with pytest.raises(Unsupported, match="RabbitMQ"):
            await publisher.publish_many("orders", [1], exchange="events")
    assert broker.flights == []


async def test_an_exchange_is_passed_on_where_there_are_some_and_the_queue_is_its_routing_key(broker, monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, exchanges=True))
    routed: list[str] = []
    broker.faults.publish = lambda queue, _envelope: routed.append(queue)
    async with Publisher("memory://") as publisher:
        await publisher.publish("orders.nl", 1, exchange="events")
        await publisher.publish("", 2, exchange="news")  # a fanout needs no routing key
        await publisher.publish_many("orders.be", [3, 4], exchange="events")
        await publisher.publish("orders", 5)
        with pytest.raises(ValueError, match="a queue has a name"):
            await publisher.publish("", 6)
    assert broker.exchanges == ["events", "news", "events", ""]
    assert routed == ["orders.nl", "", "orders.be", "orders.be", "orders"]


async def test_a_message_that_an_exchange_did_not_take_names_exchange_and_routing_key(broker, monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, exchanges=True))
    broker.faults.publish = lambda *_: Published.REFUSED
    async with Publisher("memory://") as publisher:
        with pytest.raises(PublishError, match=r"exchange 'events' with routing key 'orders\.nl'"):
            await publisher.publish("orders.nl", 1, exchange="events")


def test_the_blocking_publisher_passes_an_exchange_on(broker, monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, exchanges=True))
    with SyncPublisher("memory://") as publisher:
        publisher.publish("orders.nl", 1, exchange="events")
        publisher.publish_many("orders.nl", [2], exchange="events")
    assert broker.exchanges == ["events", "events"]


def test_a_url_is_opened_with_the_settings_of_the_configuration_beside_it(monkeypatch):
    seen: list[object] = []
    monkeypatch.setattr(line, "open_broker", lambda _url, *, config=None: seen.append(config) or MemoryBroker())
    config = WorkerConfig()
    Publisher("memory://", config=config)
    assert seen == [config]


async def test_a_delayed_message_waits(broker):
    async with Publisher("memory://") as publisher:
        await publisher.publish("orders", 1, delay=timedelta(hours=1))
        depth = await broker.depth("orders")
    assert (depth.ready, depth.delayed) == (0, 1)


async def test_a_delay_is_unsupported_where_nothing_can_be_delayed(broker, monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, delay=False))
    async with Publisher("memory://") as publisher:
        with pytest.raises(Unsupported, match="cannot delay"):
            await publisher.publish("orders", 1, delay=1)
    assert broker.flights == []


async def test_a_timeout_of_the_brokers_own_is_not_taken_for_ours(broker):
    def slow(_queue: str, _envelope: Envelope) -> None:
        raise TimeoutError("the broker's own")

    broker.faults.publish = slow
    async with Publisher("memory://") as publisher:
        with pytest.raises(TimeoutError, match="the broker's own"):
            await publisher.publish("orders", 1)


@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan")])
async def test_a_delay_that_is_no_length_of_time_is_refused(broker, delay):
    async with Publisher("memory://") as publisher:
        with pytest.raises(ValueError, match="delay"):
            await publisher.publish("orders", 1, delay=delay)
    assert broker.flights == []


async def test_publish_many_returns_ids_in_order_and_sends_at_most_a_thousand_at_once(broker):
    async with Publisher("memory://") as publisher:
        ids = await publisher.publish_many("orders", range(2500), headers={"batch": "b1"}, timeout=20)
    deliveries = await taken(broker, "orders", 2500)
    assert broker.flights == [1000, 1000, 500]
    assert [d.envelope.id for d in deliveries] == ids
    assert [d.envelope.body for d in deliveries] == [str(n).encode() for n in range(2500)]
    assert {d.envelope.headers["batch"] for d in deliveries} == {"b1"}


async def test_publish_many_sends_large_bodies_in_smaller_flights(broker):
    large = bytes(flight.FLIGHT_BYTES // 2)
    async with Publisher("memory://") as publisher:
        await publisher.publish_many("orders", [large] * 5)
    assert broker.flights == [2, 2, 1]


async def test_publish_many_takes_an_async_iterable(broker):
    async def bodies():
        for n in range(1001):
            await asyncio.sleep(0)
            yield n

    async with Publisher("memory://") as publisher:
        ids = await publisher.publish_many("orders", bodies())
    assert broker.flights == [1000, 1]
    assert len(set(ids)) == 1001


async def test_publish_many_of_nothing_sends_nothing(broker):
    async with Publisher("memory://") as publisher:
        assert await publisher.publish_many("orders", []) == []
    assert broker.flights == []


async def test_publish_many_names_the_first_message_that_was_not_confirmed(broker):
    seen: list[str] = []

    def refuse_the_third(_queue: str, envelope: Envelope) -> Published | None:
        seen.append(envelope.id)
        return Published.REFUSED if len(seen) == 3 else None

    broker.faults.publish = refuse_the_third
    async with Publisher("memory://") as publisher:
        with pytest.raises(PublishError) as raised:
            await publisher.publish_many("orders", range(5))
    assert raised.value.id == seen[2]
    assert not raised.value.in_doubt


async def test_a_url_wins_over_a_configuration_and_a_configuration_over_the_environment(monkeypatch):
    opened: list[str] = []

    def opening(url: str, **_: object) -> MemoryBroker:
        opened.append(url)
        return MemoryBroker()

    monkeypatch.setattr(line, "open_broker", opening)
    monkeypatch.setenv("PYTHIA_BROKER__URL", "memory://environment")
    config = WorkerConfig(broker={"url": "memory://config"})
    Publisher("memory://argument", config=config)
    Publisher(config=config)
    Publisher()
    SyncPublisher("memory://argument", config=config)
    SyncPublisher(config=config)
    SyncPublisher()
    assert opened == ["memory://argument", "memory://config", "memory://environment"] * 2


@pytest.mark.parametrize("make", [Publisher, SyncPublisher])
def test_a_url_that_names_no_broker_is_refused_by_the_constructor(make: Callable[[str], object]):
    with pytest.raises(ConfigError):
        make("smtp://mail")


# -- the blocking one -------------------------------------------------------------------------------------------------


def ready(name: str) -> int | None:
    async def depth() -> int | None:
        broker = open_broker(f"memory://{name}")
        await broker.connect()
        return (await broker.depth("orders")).ready

    return asyncio.run(depth())


def test_the_blocking_publisher_returns_once_the_broker_has_the_message():
    with SyncPublisher("memory://blocking") as publisher:
        publisher.ping()
        message_id = publisher.publish("orders", {"id": 7}, headers={"a": "b"}, delay=0, timeout=5)
        assert uuid.UUID(message_id).version == 7
        assert ready("blocking") == 1


def test_the_blocking_publisher_serves_many_threads():
    with SyncPublisher("memory://threads") as publisher, ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda n: publisher.publish("orders", n), range(200)))
    assert len(ids) == 200
    assert ready("threads") == 200


def test_the_blocking_publisher_reads_an_iterable_in_the_thread_of_its_caller():
    threads: set[int] = set()

    def bodies():
        for n in range(1500):
            threads.add(threading.get_ident())
            yield n

    with SyncPublisher("memory://iterable") as publisher:
        ids = publisher.publish_many("orders", bodies())
    assert threads == {threading.get_ident()}
    assert len(set(ids)) == 1500
    assert ready("iterable") == 1500


def test_the_blocking_publisher_raises_what_the_other_one_raises(broker):
    broker.faults.publish = lambda _queue, _envelope: Published.UNKNOWN
    with SyncPublisher("memory://") as publisher, pytest.raises(PublishError) as raised:
        publisher.publish("orders", 1, id="order-7")
    assert (raised.value.id, raised.value.in_doubt) == ("order-7", True)


def publisher_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "pythia-publisher"]


def test_closing_ends_the_thread_twice_is_once_and_the_next_call_starts_anew():
    publisher = SyncPublisher("memory://closing")
    publisher.close()
    publisher.publish("orders", 1)
    assert publisher_threads()
    publisher.close()
    publisher.close()
    assert not publisher_threads()
    publisher.publish("orders", 2)
    publisher.close()
    assert ready("closing") == 2


def test_a_forgotten_publisher_ends_its_thread():
    publisher = SyncPublisher("memory://forgotten")
    publisher.publish("orders", 1)
    del publisher
    assert not publisher_threads()


def test_closing_wakes_a_thread_that_is_publishing_and_tells_it(broker):
    broker.hang_in = "publish"
    publisher = SyncPublisher("memory://")
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publisher.publish, "orders", 1)
        assert broker.hanging.wait(10)
        publisher.close()
        with pytest.raises(LifecycleError, match="in doubt"):
            publishing.result(10)


def test_a_call_that_loses_the_race_against_close_publishes_nothing(broker):
    publisher = SyncPublisher("memory://")
    publisher.ping()
    thread = publisher._thread
    assert thread is not None
    publisher.close()
    with pytest.raises(LifecycleError, match="nothing was published"):
        thread.call(thread.line.ping())
    assert broker.flights == []


def child(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


FORKING = """
import os, threading
from pythia.publisher import SyncPublisher

publisher = SyncPublisher("sqlite:///queue.db")
publisher.publish("orders", "the parent, before")
parent_thread = {t.ident for t in threading.enumerate() if t.name == "pythia-publisher"}
pid = os.fork()
if pid == 0:
    assert [t.name for t in threading.enumerate()] == ["MainThread"]
    publisher.publish("orders", "the child")
    publisher.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0
publisher.publish("orders", "the parent, after")
print(len([t for t in threading.enumerate() if t.name == "pythia-publisher"]))
"""


def test_after_a_fork_parent_and_child_each_publish_on_their_own(tmp_path):
    done = child(FORKING, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr

    async def depth() -> int | None:
        broker = open_broker(f"sqlite:///{tmp_path}/queue.db")
        await broker.connect()
        try:
            return (await broker.depth("orders")).ready
        finally:
            await broker.close()

    assert asyncio.run(depth()) == 3


LEAVING = """
from pythia.publisher import SyncPublisher
publisher = SyncPublisher("sqlite:///queue.db")
publisher.publish("orders", 1)
print("done")
"""


def test_a_process_that_never_closes_its_publisher_ends_cleanly(tmp_path):
    done = child(LEAVING, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
