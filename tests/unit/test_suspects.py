"""Who is suspected of having killed a process, and how it is known: the rule, the files, the last words, the lanes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
import timeit
from pathlib import Path

import pytest

from pythia import runtime_file
from pythia.core import journal, lastwords, suspects
from pythia.core.events import MessageDead, Notice
from pythia.core.journal import LONGEST_KEY, NO_SLOT, Death, Hand
from pythia.core.lastwords import OomKills, OomRecord, cause_of
from pythia.core.suspects import CONDEMNED_AFTER, FORGOTTEN_SECONDS, Suspects, Suspicion, after, key_of, remembered
from pythia.core.worker import Worker
from pythia.message import Delivery, Envelope
from tests.unit.core_kit import Gate, running, until

CRASH = "Segmentation fault"
NONE = OomKills()


def delivery(name: str, queue: str = "default") -> Delivery:
    return Delivery(Envelope(b"{}", id=name), queue=queue, token=None, first_seen=0.0, redelivered=True)


def key(name: str) -> str:
    return key_of(delivery(name)).decode()


def died(*names: str, cause: str | None = CRASH) -> Death:
    return Death(pid=1, in_hand=tuple(map(key, names)), cause=cause)


# The rule.


def test_a_message_is_condemned_once_two_processes_died_by_themselves_with_it_alone_in_hand():
    table = after(died("a", "b", "c"), {}, 1.0)
    assert {row.deaths for row in table.values()} == {1}
    table = after(died("b"), table, 2.0)
    assert not any(row.condemned for row in table.values())
    table = after(died("b"), table, 3.0)
    assert [name for name in "abc" if table[key(name)].condemned] == ["b"]
    assert table[key("b")] == Suspicion(deaths=3, alone=CONDEMNED_AFTER, cause=CRASH, at=3.0)


def test_deaths_in_company_condemn_nobody_however_many_there_are():
    table = {}
    for moment in range(50):
        table = after(died("a", "b"), table, float(moment))
    assert not any(row.condemned for row in table.values())


def test_an_end_that_nobody_can_explain_says_nothing():
    table = after(died("a"), {}, 1.0)
    assert after(died("a", cause=None), table, 2.0) is table
    assert after(died("b", cause=None), {}, 2.0) == {}


def test_who_was_not_heard_of_for_a_day_is_forgotten():
    table = after(died("b"), after(died("a"), {}, 0.0), FORGOTTEN_SECONDS - 1)
    assert set(remembered(table, FORGOTTEN_SECONDS + 1)) == {key("b")}


def test_of_too_many_the_latest_are_kept(monkeypatch):
    monkeypatch.setattr(suspects, "MOST_REMEMBERED", 2)
    table = {name: Suspicion(at=float(at)) for at, name in enumerate("abc")}
    assert list(remembered(table, 3.0)) == ["b", "c"]


def test_two_messages_have_two_keys_of_a_slots_size_whatever_their_names():
    names = ["a", "b", "é" * 300, "é" * 301, "x\x1fy", "\ud800", "x" * LONGEST_KEY]
    keys = [key_of(delivery(name, queue)) for name in names for queue in ("q", "q2")]
    assert len(set(keys)) == len(keys)
    assert all(0 < len(one) <= LONGEST_KEY for one in keys)


# Hands.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "worker").mkdir()
    return tmp_path


def in_child(root: Path, then: str) -> subprocess.CompletedProcess[str]:
    """A process with two messages in hand, and then."""
    code = f"""
        import ctypes, os, signal, subprocess, sys, time
        from pathlib import Path
        from pythia.core import suspects
        from pythia.message import Delivery, Envelope
        def delivery(name):
            return Delivery(Envelope(b"", id=name), queue="default", token=None, first_seen=0.0)
        with suspects.watching(Path({str(root)!r}), "worker", slots=4, emit=print) as them:
            gone = them.take(delivery("gone"))
            a, b = them.take(delivery("a")), them.take(delivery("b"))
            them.let_go(gone)
            {then}
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )


def heard(root: Path, kills: OomKills = NONE) -> list[Death]:
    directory = next(path for path in root.iterdir() if path.is_dir() and path.name != "worker")
    with journal.locked(root):
        return journal.collect(directory, kills)


@pytest.mark.parametrize(
    ("then", "cause"),
    [
        ("ctypes.string_at(0)", "Segmentation fault"),
        ("os.abort()", "Aborted"),
        ("os._exit(3)", "os._exit(3)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", None),
        ("os.kill(os.getpid(), signal.SIGTERM)", None),
        ("(os.fork() or os._exit(1)) and os.wait(); os.kill(os.getpid(), signal.SIGKILL)", None),
        ("(os.fork() or ctypes.string_at(0)) and os.wait(); os.kill(os.getpid(), signal.SIGKILL)", None),
        ("__import__('multiprocessing').get_context('fork').Process(target=int).run(); os.abort()", "Aborted"),
        ("suspects.journal and __import__('pythia.core.lastwords').core.lastwords.leave_quietly(); os._exit(75)", None),
    ],
)
def test_what_a_process_had_in_hand_outlives_it_and_how_it_ended_is_told_apart(root, then, cause):
    assert in_child(root, then).returncode != 0
    (death,) = heard(root)
    assert sorted(death.in_hand) == [key("a"), key("b")]
    assert death.cause == cause
    assert heard(root) == [], "it is taken up once"


def test_a_death_without_a_word_while_the_kernel_killed_for_memory_is_one_by_itself(root):
    in_child(root, "os.kill(os.getpid(), signal.SIGKILL)")
    now = OomRecord().read()
    (death,) = heard(root, OomKills(group=now.group + 1, in_group=0, on_host=now.on_host + 1))
    assert death.cause == "out of memory"


def test_who_leaves_in_peace_leaves_nothing(root):
    assert in_child(root, "pass").returncode == 0
    assert sorted(path.name for path in root.iterdir()) == ["lock", "worker"]


def test_an_error_on_the_way_out_is_no_death(root):
    assert in_child(root, "raise SystemExit(1)").returncode == 1
    assert sorted(path.name for path in root.iterdir()) == ["lock", "worker"]


def test_a_child_that_outlives_its_parent_does_not_keep_it_alive(root):
    """The lock is a record lock, which a fork does not inherit."""
    sleeper = "os.fork() and os.abort() or (os.close(1), os.close(2), time.sleep(30))"
    in_child(root, sleeper.replace("time.sleep(30)", "time.sleep(3)"))
    (death,) = heard(root)
    assert death.cause == "Aborted"


def test_the_hand_of_a_living_process_is_left_alone(root):
    in_hand = Hand(root / "worker", 4, OomKills())
    code = f"from pathlib import Path; from pythia.core import journal; print(journal.any_left(Path({str(root / 'worker')!r})))"
    try:
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert said == "False\n"
        assert not journal.any_left(root / "worker"), "nor is our own"
    finally:
        in_hand.leave()


def test_more_in_hand_than_there_are_slots_is_not_noted_and_does_no_harm(root):
    hand = Hand(root / "worker", 2, OomKills())
    slots = [hand.take(b"x") for _ in range(3)]
    assert slots[2] == NO_SLOT
    for slot in slots:
        hand.let_go(slot)
    assert [hand.take(b"y") != NO_SLOT for _ in range(3)] == [True, True, False]
    hand.leave()


def test_a_file_that_is_no_hand_of_ours_is_swept_away_and_blames_nobody(root):
    for name, content in {"1-a": b"", "2-b": os.urandom(4096), "3-c": b"PYTHIA-1"}.items():
        (root / "worker" / f"{name}.hand").write_bytes(content)
    with journal.locked(root):
        assert journal.collect(root / "worker", OomKills()) == []
    assert list((root / "worker").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"guilt": 1}}', "\x00" * 100])
def test_a_table_that_is_not_ours_suspects_nobody(root, text):
    table = root / "worker" / "suspects.json"
    table.write_text(text)
    them = Suspects(table_file=table)
    them.look()
    assert them.table == {}


def test_noting_a_message_costs_no_system_call_and_about_a_microsecond(root):
    hand = Hand(root / "worker", 16, OomKills())
    them, one = Suspects(hand), delivery("0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000")
    best = min(timeit.repeat(lambda: them.let_go(them.take(one)), number=2000, repeat=20)) / 2000
    hand.leave()
    assert best < 20e-6, f"{best * 1e6:.2f} µs"


def test_a_directory_that_cannot_be_had_is_said_and_the_worker_runs():
    said: list[Notice] = []
    for root in (None, Path("/proc/nowhere")):
        with suspects.watching(root, "w", slots=1, emit=said.append) as them:
            them.let_go(them.take(delivery("a")))
            them.look()
            them.beat()
            assert not them.runs_alone(delivery("a"))
    assert len(said) == 2
    assert "will not be found out" in said[0].detail


def test_no_secret_and_no_url_is_in_a_name(tmp_path):
    with suspects.watching(tmp_path, "amqp://user@host/vhost app", slots=1, emit=print):
        names = " ".join(path.name for path in tmp_path.rglob("*"))
    assert "user" not in names
    assert "host" not in names


def test_what_lasts_is_kept_where_only_this_user_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert runtime_file.lasting_directory() == tmp_path / "pythia"
    (tmp_path / "pythia").chmod(0o777)
    assert runtime_file.lasting_directory() is None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "pythia" / "file"))
    (tmp_path / "pythia" / "file").write_text("")
    assert runtime_file.lasting_directory() is None


# Last words.


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (b"", None),
        (b"\n", None),
        (b"Fatal Python error: Bus error\n\nCurrent thread", "Bus error"),
        (b"os._exit(1)\n", "os._exit(1)"),
        (b"\xff\n", "\ufffd"),
    ],
)
def test_the_cause_is_the_first_line_of_what_was_left(words, cause):
    assert cause_of(words) == cause


def test_os_exit_and_the_fault_handler_are_as_they_were_afterwards(tmp_path):
    before = os._exit
    with (tmp_path / "words").open("wb") as file, lastwords.noted(file.fileno()):
        assert os._exit is not before
    assert os._exit is before


def machine(tmp_path: Path, *, membership: str, host: str = "oom_kill 5\n", **groups: str) -> OomRecord:
    (tmp_path / "self").mkdir(parents=True)
    (tmp_path / "self" / "cgroup").write_text(membership)
    (tmp_path / "vmstat").write_text(f"nr_free_pages 1\n{host}")
    for name, text in groups.items():
        file = tmp_path / "groups" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    events = tmp_path / "groups" / "unit" / "events"
    if events.exists():
        events.rename(events.with_name("memory.events"))
    control = tmp_path / "groups" / "memory" / "old" / "control"
    if control.exists():
        control.rename(control.with_name("memory.oom_control"))
    return OomRecord(tmp_path, tmp_path / "groups")


def test_the_kernels_count_is_read_from_either_version_of_control_groups_and_from_the_host(tmp_path):
    two = machine(tmp_path / "2", membership="0::/unit\n", unit__events="low 0\noom 1\noom_kill 3\n").read()
    assert (two.in_group, two.on_host, two.group > 0) == (3, 5, True)
    membership = "5:devices:/\n4:memory:/old\n0::/\n"
    one = machine(tmp_path / "1", membership=membership, memory__old__control="under_oom 0\noom_kill 2\n").read()
    assert (one.in_group, one.on_host, one.group > 0) == (2, 5, True)
    assert machine(tmp_path / "0", membership="0::/\n").read() == OomKills(on_host=5)
    assert machine(tmp_path / "n", membership="", host="").read() == OomKills()
    assert OomRecord(tmp_path / "none", tmp_path / "none").read() == OomKills()


def test_the_count_of_our_own_group_knows_better_than_that_of_the_host():
    before = OomKills(group=7, in_group=1, on_host=1)
    assert not OomKills(group=7, in_group=1, on_host=9).moved_since(before), "somebody else's process"
    assert OomKills(group=7, in_group=2, on_host=2).moved_since(before)
    assert OomKills(group=8, in_group=0, on_host=2).moved_since(before), "a new container: its group began anew"
    assert not OomKills(group=8, in_group=0, on_host=1).moved_since(before)
    assert OomKills(on_host=2).moved_since(OomKills(on_host=1))


# The lanes.


class Doors(Worker):
    concurrency = 8

    def __init__(self, config=None):
        super().__init__(config)
        self.gate = Gate()
        self.company: dict[str, int] = {}  # how many ran, when it began

    async def process_message(self, message):
        self.company[message.id] = self.gate.inside
        await self.gate.pass_through()


class Batches(Doors):
    concurrency = 2

    async def process_batch(self, messages):
        for message in messages:
            self.company[message.id] = len(messages) - 1 + self.gate.inside
        await self.gate.pass_through()


def accuse(kit, *names: str, alone: int = 0) -> Suspects:
    """Make them suspects of the running worker's."""
    them: Suspects = kit.life.shift.suspects
    them.table = {key(name): Suspicion(deaths=alone or 1, alone=alone, cause=CRASH, at=time.time()) for name in names}
    them.over = lambda delivery: them.table.pop(key_of(delivery).decode(), None)  # as the file would have it
    return them


async def test_a_suspect_runs_with_nothing_beside_it_and_then_everything_goes_on():
    async with running(Doors) as kit:
        them = accuse(kit, "s1", "s2")
        for name in ("a", "b", "s1", "c", "s2", "d"):
            await kit.publish(id=name)
        await kit.worker.gate.arrivals(2)
        await kit.clock.advance(0.1)
        assert set(kit.worker.company) == {"a", "b"}, "it waits for those that run, and those behind wait for it"
        kit.worker.gate.open.set()
        for name in ("a", "b", "s1", "c", "s2", "d"):
            assert await kit.settled(name) == ["ack"]
        assert kit.worker.company["s1"] == kit.worker.company["s2"] == 0
        assert them.table == {}, "both lived through it"


async def test_nothing_begins_while_a_suspect_runs():
    async with running(Doors) as kit:
        accuse(kit, "s")
        await kit.publish(id="s")
        await kit.worker.gate.arrivals(1)
        for number in range(20):
            await kit.publish(id=f"m{number}")
        await kit.clock.advance(5)
        assert kit.worker.gate.came == 1
        assert kit.counts()["in_flight"] <= 2, "no more is kept from others than can begin next"
        kit.worker.gate.open.set()
        for number in range(20):
            await kit.final(f"m{number}")
        kit.worker.gate.open.clear()
        for number in range(8):
            await kit.publish(id=f"n{number}")
        await kit.clock.advance(1)
        assert kit.worker.gate.inside == 8, "and then as many at once as before"
        kit.worker.gate.open.set()


async def test_a_suspect_waits_until_what_was_done_is_settled_so_that_nothing_else_comes_again():
    async with running(Doors) as kit:
        accuse(kit, "s")
        kit.seam.settle_gate.clear()
        kit.worker.gate.open.set()
        await kit.publish(id="a")
        await kit.worker.gate.arrivals(1)
        await kit.publish(id="s")
        await kit.clock.advance(0.5)
        assert "s" not in kit.worker.company
        kit.seam.settle_gate.set()
        assert await kit.settled("s") == ["ack"]


async def test_a_batch_holds_a_suspect_alone():
    async with running(Batches, batch__size=4, batch__wait_seconds=1) as kit:
        accuse(kit, "s")
        kit.worker.gate.open.set()
        for name in ("a", "s", "b"):
            await kit.publish(id=name)
        for name in ("a", "s", "b"):
            assert await kit.final(name) == ["ack"]
        assert kit.worker.company["s"] == 0


async def test_a_condemned_message_is_dead_lettered_without_running_and_free_once_it_is():
    async with running(Doors) as kit:
        them = accuse(kit, "s", alone=CONDEMNED_AFTER)
        kit.worker.gate.open.set()
        for name in ("a", "s", "b"):
            await kit.publish(id=name)
        assert await kit.settled("s") == ["dead_letter"]
        for name in ("a", "b"):
            assert await kit.settled(name) == ["ack"]
        assert "s" not in kit.worker.company
        (told,) = kit.of(MessageDead)
        assert told.reason == "poison"
        (letter,) = await kit.dead()
        assert (letter.reason, letter.attempts) == ("poison", 1)
        assert CRASH in letter.detail
        assert them.table == {}, "a person may replay it"


@pytest.mark.parametrize("way", ["raises", "times out"])
async def test_a_suspect_whose_handler_fails_has_not_killed_anybody(way):
    class Fails(Worker):
        handler_timeout_seconds = 5

        async def process_message(self, message):
            if way == "raises":
                raise ValueError
            await asyncio.Event().wait()

    async with running(Fails, retry__max_attempts=1) as kit:
        them = accuse(kit, "s")
        await kit.publish(id="s")
        await until(lambda: way == "raises" or kit.life.engine.lanes.handling)
        await kit.clock.advance(6)
        assert await kit.settled("s") == ["dead_letter"]
        assert them.table == {}


async def test_a_suspect_that_a_drain_interrupted_is_still_one():
    async with running(Doors) as kit:
        them = accuse(kit, "s")
        await kit.publish(id="s")
        await kit.worker.gate.arrivals(1)
        await kit.stop(timeout=1)
        assert set(them.table) == {key("s")}


async def test_a_message_that_comes_again_has_us_look_for_who_died():
    looks: list[int] = []
    async with running(Doors) as kit:
        kit.life.shift.suspects.look = lambda: looks.append(1)
        kit.worker.gate.open.set()
        await kit.settled(await kit.publish())
        assert looks == []
        kit.worker.gate.open.clear()
        one = await kit.publish()
        await kit.worker.gate.arrivals(2)
        kit.seam.cut()
        kit.worker.gate.open.set()
        await kit.final(one)
        assert looks
