"""Reload: planned, prepared, applied as a generation between messages, or refused as a whole; the user's hooks; probation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pythia import Message, Worker, WorkerConfig
from pythia.brokers.memory import MemoryBroker
from pythia.brokers.memory_store import MemoryStore
from pythia.clock import settle_loop
from pythia.core.events import ConfigApplied, ConfigRefused
from pythia.core.publishing import make_envelope
from pythia.core.reloading import Reloaded
from pythia.core.state import WorkerState as S
from pythia.errors import BrokerRefused
from tests.unit.core_kit import Gate, Kit, Seam, ended, soon, unavailable, until

ARGUMENTS = {"http.enabled": False, "log.level": "critical"}


class Idle(Worker):
    async def process_message(self, message: Message) -> None:
        pass


class Told(Idle):
    """Remembers what its hook was told: the concurrency, the timeout and the URL, before and after."""

    def __init__(self, config: WorkerConfig | None = None) -> None:
        super().__init__(config)
        self.told: list[tuple[Any, ...]] = []
        self.fails: BaseException | None = None

    async def _apply_config_changes(self, old: WorkerConfig, new: WorkerConfig) -> None:
        self.told.append((old.concurrency, new.concurrency))
        if self.fails is not None:
            fails, self.fails = self.fails, None
            raise fails


class Reloads(Kit):
    """A worker whose configuration is a file, and a broker for each URL."""

    def __init__(self, cls: type[Worker], path: Path, text: str = "") -> None:
        self.path = path / "pythia.toml"
        self.write(text)
        super().__init__(cls(cls.config_class.load(self.path, **ARGUMENTS)))
        self.seams: dict[str, Seam] = {}
        self.opened: list[Seam] = []
        self.life.open_broker = self._open

    def _open(self, config: WorkerConfig) -> Seam:
        url = config.broker.display_url
        store = self.seams[url].store if url in self.seams else MemoryStore()
        seam = Seam(self.clock, store, self.seams[url].faults if url in self.seams else None)
        seam.on_seen = self._look
        self.seams[url] = self.seam = seam
        self.opened.append(seam)
        return seam

    def at(self, url: str) -> Seam:
        """The broker of ``url``, before anybody opened it."""
        self.seams[url] = Seam(self.clock, MemoryStore())
        return self.seams[url]

    def write(self, text: str) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(text if "url" in text else f"{text}\n[broker]\nurl = 'memory://a'\n")
        draft.replace(self.path)

    async def reload(self, text: str | None = None) -> Reloaded:
        if text is not None:
            self.write(text)
        answer: Reloaded = await soon(asyncio.wrap_future(self.life.reload()))
        return answer

    async def depth_of(self, broker: MemoryBroker, queue: str) -> Any:
        outside = MemoryBroker(clock=self.clock, store=broker.store)
        await outside.connect()
        return await outside.depth(queue)

    async def said(self, broker: MemoryBroker, queue: str = "default", **options: Any) -> str:
        """A message on this broker, published from outside."""
        outside = MemoryBroker(clock=self.clock, store=broker.store)
        await outside.connect()
        envelope = make_envelope({}, **options)
        await outside.publish(queue, [envelope])
        return envelope.id


@asynccontextmanager
async def reloading(cls: type[Worker], path: Path, text: str = "") -> AsyncIterator[Reloads]:
    kit = Reloads(cls, path, text)
    await kit.start()
    async with ended(kit):
        yield kit
    assert kit.counts()["lost"] == 0


# What is applied.


async def test_hot_keys_are_applied_as_the_next_generation_and_no_consumer_notices(tmp_path):
    async with reloading(Told, tmp_path, "concurrency = 10") as kit:
        await until(lambda: kit.seam.consumers)
        answer = await kit.reload("concurrency = 4\nmax_age_seconds = 60")
        assert (answer.result, answer.generation) == ("applied", 2)
        assert answer.plan is not None
        assert set(answer.plan.keys) == {"concurrency", "max_age_seconds"}
        (applied,) = kit.of(ConfigApplied)
        assert set(applied.changed) == {"concurrency", "max_age_seconds"}
        assert kit.worker.config.concurrency == kit.life.status.config.concurrency == 4
        assert len(kit.seam.consumers) == 1
        assert kit.worker.told == [(10, 4)]
        assert kit.life.tally.reloads == {"applied": 1, "refused": 0, "rolled_back": 0}


async def test_a_reload_without_a_change_is_carried_out_and_makes_no_generation(tmp_path):
    async with reloading(Told, tmp_path) as kit:
        answer = await kit.reload()
        assert (answer.result, answer.generation) == ("applied", 1)
        assert kit.of(ConfigApplied)[0].changed == ()
        assert kit.worker.told == []
        assert kit.life.tally.last_reload[1] == "applied"


async def test_another_queue_is_consumed_and_the_former_is_left_with_what_it_has(tmp_path):
    async with reloading(Idle, tmp_path, "queue = 'old'") as kit:
        await until(lambda: kit.seam.consumers)
        assert (await kit.reload("queue = 'new'")).result == "applied"
        assert kit.life.tally.queue("new").registered
        assert not kit.life.tally.queue("old").registered
        assert await kit.settled(await kit.said(kit.seam, "new")) == ["ack"]
        left = await kit.said(kit.seam, "old")
        await settle_loop()
        assert kit.kinds(left) == []
        assert (await kit.reload("queues = ['old', 'new']")).result == "applied"
        assert await kit.settled(left) == ["ack"]


async def test_what_is_in_hand_is_finished_under_the_rules_with_which_it_began(tmp_path):
    gate = Gate()

    class Holds(Worker):
        async def process_message(self, message: Message) -> str:
            await gate.pass_through()
            return "done"

    async with reloading(Holds, tmp_path, "sink = 'before'\nprefetch = 20") as kit:
        one = await kit.said(kit.seam)
        await gate.arrivals(1)
        assert (await kit.reload("sink = 'after'\nprefetch = 30")).result == "applied"
        assert kit.kinds(one) == []
        assert len(kit.seam.consumers) == 2
        gate.open.set()
        assert await kit.settled(one) == ["ack"]
        two = await kit.said(kit.seam)
        await kit.settled(two)
        assert [(await kit.depth_of(kit.seam, queue)).ready for queue in ("before", "after")] == [1, 1]


@pytest.mark.parametrize("change", ["lease_seconds = 60", "prefetch = 40", "queues = ['default', 'other']"])
async def test_new_consumers_replace_the_old_ones_under_load_and_every_message_is_done_once(tmp_path, change):
    async with reloading(Idle, tmp_path, "concurrency = 3") as kit:
        ids = [await kit.said(kit.seam) for _ in range(50)]
        for turn in range(6):
            ids += [await kit.said(kit.seam) for _ in range(50)]
            assert (await kit.reload(f"concurrency = 3\n{change if turn % 2 == 0 else ''}")).result == "applied"
        await until(lambda: all("ack" in kit.kinds(one) for one in ids))
        assert all(kit.kinds(one).count("ack") == 1 for one in ids)
        assert all(set(kit.kinds(one)) <= {"ack", "release"} for one in ids)


async def test_another_broker_is_connected_first_then_consumed_then_the_former_drains_and_closes(tmp_path):
    gate = Gate()

    class Holds(Worker):
        async def process_message(self, message: Message) -> None:
            await gate.pass_through()
            await self.publish("said", message.id)

    async with reloading(Holds, tmp_path) as kit:
        old = kit.seam
        one = await kit.said(old)
        await gate.arrivals(1)
        answer = await kit.reload("[broker]\nurl = 'memory://b'")
        new = kit.seam
        assert answer.result == "applied"
        assert new is not old
        two = await kit.said(new)
        await gate.arrivals(2)
        assert old._connected, "what is in hand is settled where it came from"
        gate.open.set()
        await until(lambda: old.kinds(one) == ["ack"] and new.kinds(two) == ["ack"])
        await until(lambda: not old._connected)
        assert kit.life.stores == [new]
        for broker in (old, new):
            assert (await kit.depth_of(broker, "said")).ready == 1, "a handler publishes where its message came from"
        assert kit.life.status.connection.connected


# What is refused.


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("concurrency = 5\nworker_name = 'other'", "worker_name"),
        ("concurrency = 'many'", "concurrency"),
        ("concurrency = 5\nlease = 5", "lease"),
        ("concurrency = ", "line 1"),
        ("concurrency = 5\n[retry]\ngive_up_on = ['no.such.Error']", "no.such.Error"),
        ("concurrency = 0\nprefetch = 0", "prefetch"),
    ],
)
async def test_one_value_that_cannot_be_used_refuses_all_of_them_in_one_line(tmp_path, text, named):
    async with reloading(Told, tmp_path) as kit:
        before = kit.worker.config
        answer = await kit.reload(text)
        assert (answer.result, answer.generation) == ("refused", 1)
        (refused,) = kit.of(ConfigRefused)
        assert named in refused.cause
        assert "\n" not in refused.cause
        assert kit.worker.config is kit.life.status.config is before
        assert kit.worker.told == []
        assert kit.life.tally.last_reload[1] == "refused"
        assert await kit.settled(await kit.said(kit.seam)) == ["ack"]


async def test_keys_that_only_a_restart_can_change_are_all_named(tmp_path):
    async with reloading(Idle, tmp_path) as kit:
        answer = await kit.reload("concurrency = 4\nworker_name = 'x'\n[dedup]\nttl_seconds = 5")
        assert kit.of(ConfigRefused)[0].changed == ("worker_name", "worker_id", "dedup.ttl_seconds")
        assert answer.cause == "worker_name, worker_id, dedup.ttl_seconds: only a restart can change them"


async def test_a_file_that_is_gone_refuses_rather_than_setting_everything_to_its_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "pythia.toml"
    file.write_text("concurrency = 3\n[http]\nenabled = false\n[broker]\nurl = 'memory://'\n")
    kit = Kit(Idle(WorkerConfig()))
    await kit.start()
    file.rename(file.with_suffix(".away"))
    answer = await soon(asyncio.wrap_future(kit.life.reload()))
    assert answer.result == "refused"
    assert "config/pythia.toml" in answer.cause
    assert kit.worker.config.concurrency == 3
    await kit.stop()


@pytest.mark.parametrize("fault", ["connect", "ping", "prepare"])
async def test_a_broker_that_cannot_serve_refuses_and_the_former_one_goes_on(tmp_path, fault):
    async with reloading(Told, tmp_path) as kit:
        old = kit.seam
        kit.at("memory://b").faults.connect = _raise if fault == "connect" else None
        original = kit.life.open_broker

        def open_broken(config: WorkerConfig) -> Seam:
            broker = original(config)
            if fault != "connect":
                setattr(broker, fault, _refuse)
            return broker

        kit.life.open_broker = open_broken
        answer = await kit.reload("concurrency = 4\n[broker]\nurl = 'memory://b'")
        assert answer.result == "refused"
        assert kit.worker.config.concurrency == 10
        assert not kit.seam._connected
        assert kit.life.stores == [old]
        one = await kit.said(old)
        await until(lambda: old.kinds(one) == ["ack"])
        assert len(old.consumers) == 1


def _raise() -> None:
    raise unavailable("nobody is there")


async def _refuse(*_: object) -> None:
    raise BrokerRefused("you may not")


async def test_a_queue_that_cannot_be_consumed_refuses(tmp_path):
    async with reloading(Idle, tmp_path) as kit:
        kit.seam.prepare = _refuse
        answer = await kit.reload("queues = ['default', 'secret']")
        assert (answer.result, answer.cause) == ("refused", "you may not")
        assert "secret" not in kit.life.tally.queues


async def test_a_broker_without_the_idempotency_store_that_the_worker_lives_by_refuses(tmp_path):
    text = "[dedup]\nenabled = true\n"
    async with reloading(Idle, tmp_path, f"{text}[broker]\nurl = 'memory://a'") as kit:
        original = kit.life.open_broker

        def without(config: WorkerConfig) -> Seam:
            broker = original(config)
            broker.idempotency = lambda: None
            return broker

        kit.life.open_broker = without
        answer = await kit.reload(f"{text}[broker]\nurl = 'memory://b'")
        assert answer.result == "refused"
        assert "no store" in answer.cause


# During an outage.


async def test_while_the_broker_is_away_hot_keys_are_applied_and_another_broker_may_be_gone_to(tmp_path):
    async with reloading(Idle, tmp_path) as kit:
        old = kit.seam
        await until(lambda: old.consumers)
        old.faults.connect = _raise
        old.cut("the broker went away")
        await until(lambda: not kit.life.status.connection.connected)
        assert (await kit.reload("concurrency = 4")).result == "applied"
        assert (await kit.reload("concurrency = 4\nqueues = ['default', 'b']")).result == "refused"
        assert (await kit.reload("concurrency = 4\n[broker]\nurl = 'memory://b'")).result == "applied"
        one = await kit.said(kit.seam)
        assert await kit.settled(one) == ["ack"]
        assert kit.life.status.connection.connected


# When it is asked for.


async def test_reloads_asked_for_at_once_are_few_and_the_newest_content_counts(tmp_path):
    async with reloading(Told, tmp_path) as kit:
        kit.write("concurrency = 20")
        first = [kit.life.reload() for _ in range(50)]
        await asyncio.wrap_future(first[0])
        kit.write("concurrency = 21")
        more = [kit.life.reload() for _ in range(50)]
        results = [await soon(asyncio.wrap_future(one)) for one in [*first, *more]]
        assert {result.result for result in results} == {"applied"}
        assert kit.worker.config.concurrency == 21
        assert sum(kit.life.tally.reloads.values()) <= 4


async def test_a_reload_that_is_asked_for_before_the_worker_runs_is_carried_out_when_it_does(tmp_path):
    gate = Gate()

    class Slow(Told):
        async def on_startup(self) -> None:
            await gate.pass_through()

    kit = Reloads(Slow, tmp_path)
    early = kit.life.reload()
    assert early.result(0).cause == "the worker is not running"
    kit.launch()
    await gate.arrivals(1)
    kit.write("concurrency = 7\nqueue = 'later'")
    asked = kit.life.reload()
    await settle_loop()
    assert not asked.done()
    gate.open.set()
    answer = await soon(asyncio.wrap_future(asked))
    assert answer.result == "applied"
    assert kit.worker.told == [(10, 7)]
    assert await kit.settled(await kit.said(kit.seam, "later")) == ["ack"]
    await kit.stop()


async def test_a_worker_that_stops_refuses_and_whoever_waits_is_answered(tmp_path):
    gate, hook = Gate(), Gate()

    class Holds(Worker):
        async def process_message(self, message: Message) -> None:
            await gate.pass_through()

        async def reload_config(self) -> None:
            await hook.pass_through()

    async with reloading(Holds, tmp_path) as kit:
        await kit.said(kit.seam)
        await gate.arrivals(1)
        under_way = kit.life.reload()
        await hook.arrivals(1)
        waiting = kit.life.reload()
        kit.worker.stop()
        await until(lambda: kit.worker.state is S.STOPPING)
        late = kit.life.reload()
        for asked in (under_way, waiting, late):
            answer = await soon(asyncio.wrap_future(asked))
            assert (answer.result, answer.cause) == ("refused", "the worker is stopping")
        gate.open.set()
        await kit.ended()
    assert kit.life.reload().result(0).cause == "the worker is not running"


async def test_a_paused_worker_is_reloaded_and_goes_on_with_that_when_resumed(tmp_path):
    async with reloading(Idle, tmp_path) as kit:
        kit.worker.pause()
        assert (await kit.reload("queue = 'other'")).result == "applied"
        one = await kit.said(kit.seam, "other")
        await settle_loop()
        assert kit.kinds(one) == []
        kit.worker.resume()
        assert await kit.settled(one) == ["ack"]


async def test_a_plan_changes_nothing_and_says_what_would_be(tmp_path):
    async with reloading(Told, tmp_path) as kit:
        kit.write("concurrency = 4\nprefetch = 50")
        planned = kit.life.planned()
        assert planned.to_json() == {
            "result": "applied",
            "generation": 1,
            "cause": None,
            "changes": [
                {"key": "concurrency", "old": "10", "new": "4", "class": "hot"},
                {"key": "prefetch", "old": "none", "new": "50", "class": "resubscribe"},
            ],
        }
        kit.write("concurrency = 4\nworker_name = 'other'")
        assert kit.life.planned().result == "refused"
        kit.write("concurrency = -1")
        assert "concurrency" in kit.life.planned().cause
        assert kit.worker.config.concurrency == 10
        assert kit.of(ConfigRefused) == []


# The user's hooks.


class Page(Told):
    """The hook of the first page."""

    async def reload_config(self) -> None:
        old_config = self.config
        new_config = self.config_class.load(self.path, **ARGUMENTS)
        if new_config != old_config:
            self.config = new_config
            assert self.config.concurrency == new_config.concurrency
            await self._apply_config_changes(old_config, new_config)


async def test_a_configuration_that_the_users_hook_assigns_is_applied_as_a_whole_when_it_returns(tmp_path):
    async with reloading(Page, tmp_path) as kit:
        kit.worker.path = kit.path
        answer = await kit.reload("concurrency = 4\nqueue = 'other'")
        assert (answer.result, answer.generation) == ("applied", 2)
        assert kit.worker.told == [(10, 4)]
        assert await kit.settled(await kit.said(kit.seam, "other")) == ["ack"]
        assert (await kit.reload()).generation == 2
        old = kit.seam
        assert (await kit.reload("queue = 'other'\n[broker]\nurl = 'memory://b'")).result == "applied"
        assert kit.seam is not old
        assert await kit.settled(await kit.said(kit.seam, "other")) == ["ack"]


async def test_an_assignment_in_the_users_hook_that_needs_a_restart_raises_there_and_nothing_changed(tmp_path):
    async with reloading(Page, tmp_path) as kit:
        kit.worker.path = kit.path
        answer = await kit.reload("concurrency = 4\nworker_name = 'other'")
        assert answer.cause.startswith("worker_name")
        assert kit.worker.told == []
        assert kit.worker.config.concurrency == 10


@pytest.mark.parametrize("cls", [Told, Page])
async def test_a_hook_that_raises_takes_the_whole_reload_back(tmp_path, cls):
    async with reloading(cls, tmp_path) as kit:
        kit.worker.path = kit.path
        kit.worker.fails = OSError("no such database")
        answer = await kit.reload("concurrency = 4\nqueue = 'other'")
        assert answer.result == ("rolled_back" if cls is Told else "refused")
        assert "OSError: no such database" in answer.cause
        assert kit.worker.config.concurrency == kit.life.status.config.concurrency == 10
        assert kit.worker.told == [(10, 4), (4, 10)], "what it began it can undo"
        assert await kit.settled(await kit.said(kit.seam)) == ["ack"]
        assert kit.life.tally.generation == (3 if cls is Told else 1)


async def test_what_the_hook_assigned_is_taken_back_when_its_broker_cannot_be_reached(tmp_path):
    async with reloading(Page, tmp_path) as kit:
        kit.worker.path = kit.path
        kit.at("memory://b").faults.connect = _raise
        answer = await kit.reload("concurrency = 4\n[broker]\nurl = 'memory://b'")
        assert (answer.result, answer.cause) == ("refused", "nobody is there")
        assert kit.worker.config.concurrency == 10
        assert kit.worker.told == [(10, 4), (4, 10)]


async def test_the_default_hook_can_be_called_by_the_users_own_code(tmp_path):
    async with reloading(Told, tmp_path) as kit:
        kit.write("concurrency = 4\nqueue = 'other'")
        await kit.worker.reload_config()
        assert kit.worker.told == [(10, 4)]
        assert await kit.settled(await kit.said(kit.seam, "other")) == ["ack"]
        kit.write("concurrency = -4")
        with pytest.raises(Exception, match="concurrency"):
            await kit.worker.reload_config()
        assert kit.worker.config.concurrency == 4


async def test_cold_keys_that_were_assigned_are_wired_by_the_next_reload(tmp_path):
    async with reloading(Idle, tmp_path) as kit:
        kit.write("queue = 'other'")
        kit.worker.config = kit.worker.config.reload()
        assert not kit.life.tally.queues.get("other")
        assert (await kit.reload()).result == "applied"
        assert await kit.settled(await kit.said(kit.seam, "other")) == ["ack"]


async def test_fewer_lanes_and_more_again_are_never_more_handlers_than_lanes(tmp_path):
    gate = Gate()

    class Holds(Worker):
        async def process_message(self, message: Message) -> None:
            await gate.pass_through()

    async with reloading(Holds, tmp_path, "concurrency = 3\nprefetch = 12") as kit:
        for _ in range(12):
            await kit.said(kit.seam)
        await gate.arrivals(3)
        await until(lambda: len(kit.seam.received) >= 6)
        await kit.reload("concurrency = 1\nprefetch = 12")
        await kit.reload("concurrency = 3\nprefetch = 12")
        await settle_loop()
        assert gate.inside == 3
        gate.open.set()
        await until(lambda: kit.counts()["ack"] == 12)
    assert gate.most_inside == 3
