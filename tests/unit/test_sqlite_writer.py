"""The writer thread: one trip to the disk for many, nobody hurt by another's failure, leases kept, trouble waited out."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pythia.broker import ConsumeOptions, Published, Settled, Settlement
from pythia.brokers.sqlite import SqliteBroker, SqliteClock, claims, commit, trouble, writer
from pythia.brokers.sqlite.calls import Answer, Outbox
from pythia.clock import VirtualClock
from pythia.errors import BrokerError, BrokerUnavailable, PublishError, StoreError
from pythia.message import Envelope

DEADLINE = 10.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
async def broker(path):
    broker = SqliteBroker(path)
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
def looks_at_once(monkeypatch):
    """The file is looked for at its path before every transaction, not once a second."""
    monkeypatch.setattr(writer, "_LOOK_SECONDS", 0.0)


def messages(count, body=b"x"):
    return [Envelope(body, id=f"m{n}") for n in range(count)]


def options(**changes):
    return ConsumeOptions(**{"prefetch": 100, "lease": 30.0, "max_hold": None, "consumer": "c"} | changes)


async def soon(wanted):
    async with asyncio.timeout(DEADLINE):
        return await wanted


async def until(holds):
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.005)


class Hold:
    """Keeps the writer thread inside a change until it is let go."""

    def __init__(self, broker):
        self._free = threading.Event()
        self._reached = threading.Event()
        self._broker = broker

    def _stay(self, _store):
        self._reached.set()
        assert self._free.wait(DEADLINE)

    async def __aenter__(self):
        self._held = asyncio.create_task(self._broker.writer().write(self._stay))
        await until(self._reached.is_set)

    async def __aexit__(self, *_):
        self._free.set()
        await self._held


# -- group commit -----------------------------------------------------------------------------------------------------


async def test_what_is_asked_while_a_transaction_runs_goes_into_the_next_one_together(broker):
    async with broker.consume("q", options()) as consumer:
        await broker.publish("q", messages(10))
        held = await soon(consumer.receive(10))
        async with Hold(broker):
            before = broker.stats()["commits"]
            asked = [asyncio.create_task(broker.publish("q", messages(1))) for _ in range(50)]
            asked += [asyncio.create_task(consumer.settle([Settlement(d, "ack")])) for d in held]
            receiving = asyncio.create_task(consumer.receive(100))
            await asyncio.sleep(0)
        await asyncio.gather(*asked)
        assert len(await soon(receiving)) == 50
    assert broker.stats()["commits"] - before == 2 + 1, "the one that was under way, one for all of this, one to leave"


async def test_a_change_that_fails_hurts_nobody_else(broker):
    def fail(store):
        store.put("q", messages(5))
        raise KeyError("mine")

    async with Hold(broker):
        good = asyncio.create_task(broker.publish("q", messages(1)))
        bad = asyncio.create_task(broker.writer().write(fail))
        unfit = asyncio.create_task(broker.publish("q", [Envelope(b"x", id="u", headers={"x": object()})]))
        also_good = asyncio.create_task(broker.publish("q", messages(1)))
        await asyncio.sleep(0)
    assert await good == await also_good == [Published.CONFIRMED]
    with pytest.raises(KeyError, match="mine"):
        await bad
    with pytest.raises(PublishError):
        await unfit
    assert (await broker.depth("q")).ready == 2


async def test_a_change_alone_that_fails_leaves_nothing(broker):
    def fail(store):
        store.put("q", messages(5))
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await broker.writer().write(fail)
    assert (await broker.depth("q")).ready == 0


async def test_when_sqlite_gives_up_the_whole_transaction_each_change_is_tried_alone(broker):
    """A full disk may roll back everything, the changes before it too."""

    def overturn(store):
        store.connection.execute("ROLLBACK")
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = trouble.FULL
        raise error

    async with Hold(broker):
        first = asyncio.create_task(broker.publish("q", messages(1)))
        bad = asyncio.create_task(broker.writer().write(overturn, refused=lambda in_doubt: ("refused", in_doubt)))
        last = asyncio.create_task(broker.publish("q", messages(1)))
        await asyncio.sleep(0)
    assert await first == await last == [Published.CONFIRMED]
    assert await bad == ("refused", False)
    assert (await broker.depth("q")).ready == 2


async def test_a_commit_that_fails_with_an_io_error_leaves_a_publish_in_doubt(broker):
    connection = broker.writer()._transactions._connection

    class Broken:
        def __getattr__(self, name):
            return getattr(connection, name)

        def execute(self, statement, *values):
            if statement == "COMMIT":
                connection.execute("ROLLBACK")
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            return connection.execute(statement, *values)

    broker.writer()._transactions._connection = Broken()
    assert await broker.publish("q", messages(2)) == [Published.UNKNOWN] * 2
    assert "I/O error" in broker.stats()["trouble"]
    broker.writer()._transactions._connection = connection
    assert await broker.publish("q", messages(1)) == [Published.CONFIRMED]
    assert broker.stats()["trouble"] is None


async def test_a_flaw_in_the_thread_fails_everybody_instead_of_hanging_them(broker, monkeypatch):
    monkeypatch.setattr(broker.writer()._transactions, "commit", lambda _changes: 1 / 0)
    for _ in range(2):
        with pytest.raises(BrokerError, match="ZeroDivisionError"):
            await soon(broker.publish("q", messages(1)))
    await broker.connect()
    assert await broker.publish("q", messages(1)) == [Published.CONFIRMED]


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_a_handler_that_blocks_the_loop_beyond_its_lease_loses_nothing(broker, path):
    await broker.publish("q", messages(1))
    lost = []
    watched = options(lease=0.6, on_lost=lambda deliveries, reason: lost.append(reason))
    async with broker.consume("q", watched) as consumer:
        (delivery,) = await soon(consumer.receive(1))
        stolen: list[object] = []
        thief = threading.Thread(target=lambda: stolen.extend(asyncio.run(steal(path, 1.5))))
        thief.start()
        time.sleep(2.0)  # the loop stands still for three leases
        thief.join()
        assert stolen == []
        assert await consumer.settle([Settlement(delivery, "ack")]) == [Settled.DONE]
    assert lost == []
    assert broker.stats()["lease_renewals"] >= 2


async def steal(path, seconds):
    broker = SqliteBroker(path)
    await broker.connect()
    async with broker.consume("q", options()) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        await asyncio.wait((receiving,), timeout=seconds)
        await consumer.drain()
        taken = list(await receiving)
    await broker.close()
    return taken


async def test_the_owner_of_a_delivery_that_another_took_is_told_at_the_next_renewal(path):
    clock = VirtualClock()
    broker = SqliteBroker(path, clock=SqliteClock.injected(clock))
    await broker.connect()
    await broker.publish("q", messages(2))
    lost = []
    watched = options(on_lost=lambda deliveries, reason: lost.append((list(deliveries), reason)))
    async with broker.consume("q", watched) as consumer:
        first, second = await soon(consumer.receive(2))
        robber = sqlite3.connect(path, isolation_level=None)
        robber.execute("UPDATE messages SET fence = fence + 1, owner = 999 WHERE seq = ?", (first.token[0],))
        robber.close()
        await clock.advance(11.0)
        await until(lambda: lost)
        ((deliveries, reason),) = lost
        assert deliveries == [first]
        assert reason
        answers = await consumer.settle([Settlement(first, "ack"), Settlement(second, "ack")])
    assert answers == [Settled.STALE, Settled.DONE]
    assert broker.stats()["leases_lost"] == 1
    await broker.close()


async def test_renewals_go_on_trying_while_the_file_cannot_be_written(path):
    clock = VirtualClock()
    broker = SqliteBroker(path, clock=SqliteClock.injected(clock))
    await broker.connect()
    await broker.publish("q", messages(1))
    async with broker.consume("q", options()) as consumer:
        await soon(consumer.receive(1))
        await query_only(broker, "ON")
        await clock.advance(11.0)
        await until(lambda: broker.stats()["trouble"])
        assert broker.stats()["lease_renewals"] == 0
        await query_only(broker, "OFF")
        await clock.advance(2.0)
        await until(lambda: broker.stats()["lease_renewals"] == 1)
    await broker.close()


async def test_what_is_held_for_too_long_is_renewed_no_more(path):
    clock = VirtualClock()
    broker = SqliteBroker(path, clock=SqliteClock.injected(clock))
    await broker.connect()
    await broker.publish("q", messages(1))
    async with broker.consume("q", options(max_hold=60.0)) as consumer:
        await soon(consumer.receive(1))
        taken = clock.monotonic()
        for _ in range(17):  # up to 85 s: the last renewal was at 60 s at the latest
            await clock.advance(5.0)
            await broker.writer().write(lambda _store: None)
        (until_when,) = await broker.writer().read(
            lambda store: store.connection.execute("SELECT lease_until FROM messages").fetchone()
        )
        assert 60.0 < until_when - taken <= 90.0
    await broker.close()


async def query_only(broker, switch):
    await broker.writer().read(lambda store: store.connection.execute(f"PRAGMA query_only={switch}"))


async def test_what_another_process_publishes_is_noticed_by_looking_at_the_file(broker, path, monkeypatch):
    monkeypatch.setattr(claims, "_LOOK_SECONDS", 3600.0)
    other = SqliteBroker(path)
    await other.connect()
    async with broker.consume("q", options()) as consumer:
        for _ in range(3):
            receiving = asyncio.create_task(consumer.receive(1))
            await until(lambda: broker.writer()._claims._waiters and not broker.writer()._claims._stirred)
            await other.publish("q", messages(1))
            (delivery,) = await soon(receiving)
            await consumer.settle([Settlement(delivery, "ack")])
    await other.close()


async def test_a_delayed_message_and_an_expiring_lease_are_noticed_at_their_moment(broker, path, monkeypatch):
    monkeypatch.setattr(claims, "_LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(claims.Claims, "_others_wrote", lambda _self: False)
    await broker.publish("q", messages(1), delay=0.2)
    async with broker.consume("q", options()) as consumer:
        await soon(consumer.receive(1))
        robbed = sqlite3.connect(path, isolation_level=None)
        robbed.execute("UPDATE messages SET owner = 999, lease_until = lease_until - 29.8")
        robbed.close()
        assert len(await soon(consumer.receive(1))) == 1


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", mount], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting needs rights that this user has not")
    yield mount
    subprocess.run(["umount", mount], check=True)


async def test_a_full_disk_is_waited_out_and_nothing_confirmed_is_lost(small_disk):
    broker = SqliteBroker(small_disk / "queue.db")
    await broker.connect()
    confirmed = 0
    async with broker.consume("q", options(prefetch=10_000)) as consumer:
        await broker.publish("q", messages(3))
        held = await soon(consumer.receive(3))
        ballast = (small_disk / "ballast").open("wb", buffering=0)
        with pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(b"x" * 4096)
        answer = await soon(broker.publish("q", messages(300, b"x" * 1000)))
        assert set(answer) == {Published.REFUSED}
        batch = [Settlement(delivery, "retry", delay=60.0) for delivery in held]
        assert set(await soon(consumer.settle(batch))) <= {Settled.REFUSED, Settled.DONE}
        assert "disk is full" in broker.stats()["trouble"]
        ballast.close()
        (small_disk / "ballast").unlink()
        confirmed = (await soon(broker.publish("q", messages(300, b"x" * 1000)))).count(Published.CONFIRMED)
        assert confirmed == 300
        assert set(await soon(consumer.settle(batch))) <= {Settled.STALE, Settled.DONE}
        assert broker.stats()["trouble"] is None
        depth = await broker.depth("q")
        assert (depth.ready, depth.delayed, depth.in_flight) == (300, 3, 0)
    await broker.close()


async def test_a_settlement_is_refused_on_a_full_disk_and_taken_when_there_is_room(small_disk):
    """Even an ack needs room for the journal."""
    broker = SqliteBroker(small_disk / "queue.db")
    await broker.connect()
    await broker.publish("q", messages(100, b"x" * 2000))
    async with broker.consume("q", options()) as consumer:
        held = await soon(consumer.receive(100))
        with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(b"x" * 4096)
        batch = [Settlement(delivery, "ack") for delivery in held]
        assert list(await soon(consumer.settle(batch))) == [Settled.REFUSED] * 100
        (small_disk / "ballast").unlink()
        assert list(await soon(consumer.settle(batch))) == [Settled.DONE] * 100
    await broker.close()


async def test_a_consumer_waits_without_spinning_while_nothing_can_be_claimed(broker):
    await broker.publish("q", messages(1))
    async with broker.consume("q", options()) as consumer:
        await query_only(broker, "ON")
        tries = 0
        not_served = broker.writer()._claims._not_served

        def counted(setback):
            nonlocal tries
            tries += 1
            not_served(setback)

        broker.writer()._claims._not_served = counted
        receiving = asyncio.create_task(consumer.receive(1))
        for _ in range(100):
            await broker.publish("q", messages(1))
        assert 1 <= tries <= 10
        await query_only(broker, "OFF")
        assert len(await soon(receiving)) == 1


async def test_a_lock_that_another_process_holds_is_waited_out(broker, path, monkeypatch):
    monkeypatch.setattr(commit, "LOCK_SECONDS", 0.05)
    await broker.publish("q", messages(1))
    async with broker.consume("q", options()) as consumer:
        (delivery,) = await soon(consumer.receive(1))
        receiving = asyncio.create_task(consumer.receive(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await soon(broker.publish("q", messages(1))) == [Published.REFUSED]
        assert await soon(consumer.settle([Settlement(delivery, "ack")])) == [Settled.REFUSED]
        with pytest.raises(BrokerUnavailable, match="locked by another process"):
            await broker.idempotency().claim("k", "a", 1.0)
        assert (await broker.depth("q")).in_flight == 1
        other.execute("ROLLBACK")
        other.close()
        assert await soon(consumer.settle([Settlement(delivery, "ack")])) == [Settled.DONE]
        assert await soon(broker.publish("q", messages(1))) == [Published.CONFIRMED]
        assert len(await soon(receiving)) == 1


@pytest.mark.parametrize("fate", ["deleted", "replaced"])
async def test_a_file_that_is_gone_from_its_path_stops_everybody(broker, path, looks_at_once, fate):
    await broker.publish("q", messages(1))
    consuming = broker.consume("q", options())
    consumer = await consuming.__aenter__()
    (delivery,) = await soon(consumer.receive(1))
    receiving = asyncio.create_task(consumer.receive(1))
    path.unlink()
    if fate == "replaced":
        path.write_bytes(b"")
    with pytest.raises(StoreError, match="deleted or replaced"):
        await soon(receiving)
    with pytest.raises(StoreError, match="deleted or replaced"):
        await soon(consumer.settle([Settlement(delivery, "ack")]))
    with pytest.raises(StoreError, match="deleted or replaced"):
        await soon(broker.publish("q", messages(1)))
    await soon(consuming.__aexit__(None, None, None))
    await soon(broker.close())
    assert path.exists() == (fate == "replaced"), "nothing was made anew"


async def test_a_file_that_becomes_corrupt_stops_everybody(broker, path):
    await broker.publish("q", messages(500, b"x" * 500))
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x5a" * (len(content) - 4096))
    touched = sqlite3.connect(path, isolation_level=None)
    touched.execute("PRAGMA user_version=1")  # the other process that changed it: caches are dropped
    touched.close()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(StoreError, match="corrupt"):
            await broker.publish("q", messages(1))
    with pytest.raises(StoreError, match="corrupt"):
        await broker.ping()


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_closing_writes_what_was_asked_before(broker, path):
    async with Hold(broker):
        publishing = [asyncio.create_task(broker.publish("q", messages(1))) for _ in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(broker.close())
        await asyncio.sleep(0)
    await soon(closing)
    assert [await published for published in publishing] == [[Published.CONFIRMED]] * 20
    await broker.connect()
    assert (await broker.depth("q")).ready == 20


async def test_what_is_asked_too_late_is_answered(broker):
    closed = broker.writer()
    await broker.close()
    await broker.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await soon(closed.write(lambda _store: None))
    await soon(closed.stop())


async def test_the_thread_ends_with_the_broker(broker):
    thread = broker.writer()._thread
    assert thread.is_alive()
    await broker.close()
    assert not thread.is_alive()


async def test_a_cancelled_connect_lets_the_file_go(path, monkeypatch):
    opened = threading.Event()
    go_on = threading.Event()
    really = writer.open_file

    def slow(*values, **named):
        opened.set()
        assert go_on.wait(DEADLINE)
        return really(*values, **named)

    monkeypatch.setattr(writer, "open_file", slow)
    broker = SqliteBroker(path)
    connecting = asyncio.create_task(broker.connect())
    await until(opened.is_set)
    thread = next(t for t in threading.enumerate() if t.name.startswith("pythia writer"))
    connecting.cancel()
    await asyncio.wait((connecting,))
    go_on.set()
    await until(lambda: not thread.is_alive())


async def test_a_cancelled_entry_leaves_no_consumer(broker):
    async with Hold(broker):
        entering = asyncio.create_task(broker.consume("q", options()).__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait((entering,))
    async with asyncio.timeout(DEADLINE):
        while (await broker.depth("q")).consumers or broker.writer()._holders:
            await asyncio.sleep(0.005)


async def test_leaving_releases_even_when_it_is_cancelled(broker):
    await broker.publish("q", messages(3))
    consuming = broker.consume("q", options())
    consumer = await consuming.__aenter__()
    await soon(consumer.receive(3))
    async with Hold(broker):
        leaving = asyncio.create_task(consuming.__aexit__(None, None, None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait((leaving,))
    assert (await broker.depth("q")).ready == 3


def test_an_answer_for_a_loop_that_is_closed_is_undone():
    undone = []
    loop = asyncio.new_event_loop()

    async def ask():
        return Answer(undone.append)

    answer = loop.run_until_complete(ask())
    loop.close()
    outbox = Outbox()
    outbox.put(answer, ["a delivery"])
    outbox.put(answer, None, ValueError())
    outbox.send()
    assert undone == [["a delivery"]]


FORK = """
import asyncio, os, sys
from pythia.brokers.sqlite import SqliteBroker
from pythia.errors import BrokerUnavailable
from pythia.message import Envelope

async def use(broker):
    await broker.connect()
    await broker.publish("q", [Envelope(b"x", id="x")])

async def in_child(broker):
    try:
        await broker.ping()
    except BrokerUnavailable as error:
        assert "fork" in str(error)
        await use(broker)
        await broker.close()
        os._exit(0)

broker = SqliteBroker(sys.argv[1])
asyncio.run(use(broker))
child = os.fork()
if child == 0:
    asyncio.run(in_child(broker))
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

async def count():
    await use(broker)
    depth = await broker.depth("q")
    await broker.close()
    assert depth.ready == 3, depth
asyncio.run(count())
"""


def test_a_forked_child_is_told_to_connect_again_and_its_parent_goes_on(path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, path],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
