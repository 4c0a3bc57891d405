"""``pythia move``: everything that was said about a message goes along, nothing is acked before it is confirmed, and what cannot
be moved stays and is named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pythia.broker import Broker, ConsumeOptions, Published
from pythia.brokers import open_broker
from pythia.brokers.memory import MemoryBroker
from pythia.cli import connection, main, moving
from pythia.cli.moving import Tally
from pythia.cli.places import same_place
from pythia.config import set_config_file, set_process_flags
from pythia.errors import BrokerUnavailable, PublishError
from pythia.message import Envelope
from tests.unit.cli_kit import bury, failure

OLD, NEW = "sqlite:///old.db", "sqlite:///new.db"


@pytest.fixture(autouse=True)
def _here(workdir) -> Iterator[None]:
    yield
    set_process_flags({})
    set_config_file(None)


async def held(url: str, queue: str, number: int) -> list[Envelope]:
    """``number`` messages of a queue, taken and given back."""
    broker = open_broker(url)
    await broker.connect()
    try:
        options = ConsumeOptions(prefetch=number, concurrency=number, lease=30, max_hold=None, consumer="looks")
        found: list[Envelope] = []
        async with broker.consume(queue, options) as consumer:
            while len(found) < number:
                found += [delivery.envelope for delivery in await consumer.receive(number)]
        return found
    finally:
        await broker.close()


async def put(url: str, queue: str, envelopes: Sequence[Envelope], delay: float = 0.0) -> None:
    broker = open_broker(url)
    await broker.connect()
    try:
        assert set(await broker.publish(queue, envelopes, delay=delay)) == {Published.CONFIRMED}
    finally:
        await broker.close()


def fields(envelope: Envelope) -> dict[str, object]:
    return {name: getattr(envelope, name) for name in Envelope.__slots__} | {"headers": dict(envelope.headers)}


def everything(name: str) -> Envelope:
    """A message of which everything is said that can be."""
    return Envelope(
        b'{"n": 7}',
        id=name,
        headers={"tenant": "acme", "n": 7},
        content_type="application/vnd.shop+json",
        correlation_id="c-1",
        reply_to="answers",
        priority=3,
        timestamp=1_700_000_000.0,
        idempotency_key="once",
        ordering_key="customer-9",
    )


def test_all_that_was_said_about_a_message_goes_along(capsys):
    said = everything("a")
    asyncio.run(put(OLD, "orders", [said]))
    assert main(["move", OLD, NEW]) == 0
    (came,) = asyncio.run(held(NEW, "orders", 1))
    assert fields(came) == fields(said)
    assert "moved 1 messages" in capsys.readouterr().out


def test_without_names_every_queue_of_the_source_is_moved_in_its_order_and_json_says_what(capsys, workdir):
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id=f"o{n:03}") for n in range(450)]))
    asyncio.run(put(OLD, "mails", [Envelope(b"1", id="m")]))
    assert main(["move", OLD, NEW, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    left = {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    assert told == {
        "source": f"sqlite:///{workdir}/old.db",
        "destination": f"sqlite:///{workdir}/new.db",
        "moved": 451,
        "queues": [
            {"queue": "mails", "moved": 1, "left": left, "cannot_be_moved": []},
            {"queue": "orders", "moved": 450, "left": left, "cannot_be_moved": []},
        ],
    }
    assert [one.id for one in asyncio.run(held(NEW, "orders", 450))] == [f"o{n:03}" for n in range(450)]


def test_only_the_queues_that_are_named_are_moved():
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="o")]))
    asyncio.run(put(OLD, "mails", [Envelope(b"1", id="m")]))
    assert main(["move", OLD, NEW, "mails"]) == 0
    assert [one.id for one in asyncio.run(held(OLD, "orders", 1))] == ["o"]


def test_what_is_delayed_or_dead_stays_and_is_named_with_what_to_do(capsys, workdir):
    asyncio.run(bury(OLD, "orders", [Envelope(b"1", id="dead")], [failure()]))
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="later")], delay=3600))
    assert main(["move", OLD, NEW]) == 0
    told = capsys.readouterr().out
    assert "orders: 1 are delayed: run it again when they are due, or with --wait" in told
    assert f"1 dead letters are not moved: pythia -b sqlite:///{workdir}/old.db dead export orders" in told


def test_wait_goes_on_until_what_is_delayed_was_moved(capsys):
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="later")], delay=1.0))
    assert main(["move", OLD, NEW, "--wait"]) == 0
    assert "moved 1 messages" in capsys.readouterr().out
    assert [one.id for one in asyncio.run(held(NEW, "orders", 1))] == ["later"]


def test_the_configured_broker_is_a_dash(monkeypatch, capsys):
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="a")]))
    monkeypatch.setenv("PYTHIA_BROKER__URL", NEW)
    assert main(["move", OLD, "-"]) == 0
    assert [one.id for one in asyncio.run(held(NEW, "orders", 1))] == ["a"]


async def _while_consumed(*arguments: str) -> int:
    broker = open_broker(OLD)
    await broker.connect()
    try:
        options = ConsumeOptions(prefetch=1, lease=30, max_hold=None, consumer="works")
        async with broker.consume("orders", options):
            return await asyncio.to_thread(main, ["move", OLD, NEW, *arguments])
    finally:
        await broker.close()


def test_a_queue_that_is_consumed_is_not_touched_without_yes(capsys):
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="a")]))
    assert asyncio.run(_while_consumed()) == 1
    assert "orders of SRC is being consumed" in capsys.readouterr().err
    assert asyncio.run(_while_consumed("--yes")) == 0
    assert [one.id for one in asyncio.run(held(NEW, "orders", 1))] == ["a"]


@pytest.mark.parametrize(
    ("source", "target", "code", "why"),
    [
        (OLD, "sqlite:///./old.db", 64, "are the same broker"),
        ("memory://", NEW, 78, "SRC: memory:// lives in one process"),
        (OLD, "memory://x", 78, "DST: memory:// lives in one process"),
        ("sqlite:///nowhere.db", NEW, 64, "there is no"),
        (OLD, "old.db", 64, "DST must be a URL"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(capsys, source, target, code, why):
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="a")]))
    assert main(["move", source, target]) == code
    assert why in capsys.readouterr().err
    assert [one.id for one in asyncio.run(held(OLD, "orders", 1))] == ["a"]


def test_a_password_among_the_urls_is_warned_of_and_never_shown(capsys):
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="a")]))
    assert main(["move", OLD, "amqp://shop:sesame@127.0.0.1:1/"]) == 69
    told = capsys.readouterr()
    assert "a password in an argument is visible" in told.err
    assert "sesame" not in told.out + told.err


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("amqp://a:x@localhost/", "amqp://b:y@127.0.0.1:5672/%2F", True),
        ("amqp://localhost", "amqps://LOCALHOST/", True),
        ("amqp://localhost/one", "amqp://localhost/two", False),
        ("amqp://localhost:1/", "amqp://localhost:2/", False),
        ("redis://localhost", "rediss://localhost/0?mode=list", True),
        ("redis://localhost/0", "redis://localhost/1", False),
        ("redis://no-such-host.invalid/0", "redis://NO-such-host.invalid", True),
        ("amqp://localhost/0", "redis://localhost/0", False),
        ("sqlite:///a.db", "redis://localhost", False),
        ("sqlite:///a.db", "sqlite:///b/../a.db", True),
        ("sqlite:///a.db", "sqlite:///b.db", False),
    ],
)
def test_one_place_is_recognised_by_other_names(one, other, same):
    assert same_place(one, other) is same_place(other, one) is same


def test_a_queue_file_is_recognised_by_its_links(workdir):
    (workdir / "a.db").touch()
    (workdir / "link.db").symlink_to("a.db")
    (workdir / "hard.db").hardlink_to(workdir / "a.db")
    assert same_place("sqlite:///a.db", "sqlite:///link.db")
    assert same_place("sqlite:///a.db", f"sqlite:///{workdir}/hard.db")


# -- the transfer itself, on brokers that fail ------------------------------------------------------------------------


class Picky(MemoryBroker):
    """A destination that answers as it is told to."""

    def __init__(self, answer: Published = Published.CONFIRMED) -> None:
        super().__init__()
        self.answer = answer

    async def publish(self, queue, messages, *, delay=0.0, exchange=""):
        for envelope in messages:
            if "impossible" in envelope.headers:
                raise PublishError("no such header", queue=queue, id=envelope.id, in_doubt=False)
        if self.answer is Published.CONFIRMED:
            return await super().publish(queue, messages, delay=delay, exchange=exchange)
        taken = await super().publish(queue, messages[:1], delay=delay, exchange=exchange)
        return [*taken, *[self.answer] * (len(messages) - 1)]


async def transfer(source: Broker, target: Broker, envelopes: Sequence[Envelope]) -> Tally:
    await source.connect()
    await target.connect()
    await source.publish("orders", envelopes)
    tally = Tally(queue="orders", depth=await source.depth("orders"))
    await moving.move(source, target, tally, lambda _steps: None)
    return tally


async def test_what_the_destination_cannot_carry_stays_and_holds_up_nothing():
    source, target = MemoryBroker(), Picky()
    said = [Envelope(b"1", id=f"{n}", headers={"impossible": 1} if n % 3 == 0 else {}) for n in range(10)]
    tally = await transfer(source, target, said)
    assert (tally.moved, tally.kept, tally.why_kept) == (6, ["0", "3", "6", "9"], "no such header")
    assert (await source.depth("orders")).ready == 4
    assert (await target.depth("orders")).ready == 6
    assert (tally.ready, tally.waits) == (0, 0)


@pytest.mark.parametrize(("answer", "doubt"), [(Published.REFUSED, False), (Published.UNKNOWN, True)])
async def test_what_is_not_confirmed_is_not_acked(answer, doubt):
    source, target = MemoryBroker(), Picky(answer)
    with pytest.raises(PublishError) as raised:
        await transfer(source, target, [Envelope(b"1", id=f"{n}") for n in range(5)])
    assert raised.value.in_doubt is doubt
    assert (await source.depth("orders")).ready == 4


class Gone(MemoryBroker):
    """A destination that is away."""

    async def publish(self, queue, messages, *, delay=0.0, exchange=""):
        raise BrokerUnavailable("away")


async def test_a_destination_that_goes_away_costs_nothing():
    source = MemoryBroker()
    with pytest.raises(BrokerUnavailable):
        await transfer(source, Gone(), [Envelope(b"1", id="a")])
    assert (await source.depth("orders")).ready == 1


async def test_what_is_ready_and_never_handed_out_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(moving, "_STALLED_SECONDS", 0.0)

    class Hoarder(MemoryBroker):
        async def depth(self, queue):
            return replace(await super().depth(queue), ready=1)

    source = Hoarder()
    began = time.monotonic()
    tally = await transfer(source, MemoryBroker(), [])
    assert (tally.moved, tally.ready) == (0, 1)
    assert time.monotonic() - began < 60


def test_where_queues_cannot_be_listed_they_want_names(capsys, monkeypatch):
    class Listless(MemoryBroker):
        @property
        def capabilities(self):
            return replace(super().capabilities, lists_queues=False)

    monkeypatch.setattr(connection, "open_broker", lambda url, config: Listless())
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="a")]))
    assert main(["move", OLD, NEW]) == 64
    assert "which queues?" in capsys.readouterr().err


def test_a_broker_that_keeps_nothing_is_refused(capsys, monkeypatch):
    class Fleeting(MemoryBroker):
        @property
        def capabilities(self):
            return replace(super().capabilities, keeps=False)

    monkeypatch.setattr(connection, "open_broker", lambda url, config: Fleeting())
    asyncio.run(put(OLD, "orders", [Envelope(b"1", id="a")]))
    assert main(["move", OLD, NEW]) == 78
    assert "keeps no messages" in capsys.readouterr().err
