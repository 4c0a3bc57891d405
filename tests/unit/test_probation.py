"""A reload on probation: chance rolls nothing back, a regression does, and what failed under it is given back uncounted."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from pythia import Message, Reject, Worker, WorkerConfig
from pythia.clock import settle_loop
from pythia.core.events import ConfigApplied, ConfigRefused, ConfigRolledBack, MessageRetry
from pythia.core.probation import History, Share, is_worse
from tests.unit.core_kit import Gate, unavailable, until
from tests.unit.test_reload import Reloads, reloading

# Whether it is worse.


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Share(1000, 0), Share(5, 5)),
        (Share(1000, 10), Share(8, 8)),
        (Share(1000, 10), Share(100, 20)),
        (Share(10, 0), Share(10, 10)),
        (Share(0, 0), Share(10, 10)),
        (Share(1, 0), Share(10, 10)),
        (Share(10_000, 100), Share(10_000, 200)),
    ],
)
def test_more_failures_than_chance_explains_are_worse(before, now):
    assert is_worse(now, before)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Share(1000, 0), Share(4, 4)),
        (Share(1000, 10), Share(1000, 20)),
        (Share(0, 0), Share(10, 6)),
        (Share(100, 100), Share(100, 100)),
        (Share(3, 3), Share(50, 50)),
        (Share(1000, 500), Share(20, 14)),
        (Share(1000, 10), Share(0, 0)),
    ],
)
def test_few_failures_or_no_more_than_before_are_not(before, now):
    assert not is_worse(now, before)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("known", [0, 20, 200, 2000])
def test_noise_rolls_back_less_than_one_reload_in_a_hundred_though_it_is_looked_at_all_the_time(share, known):
    random = Random(f"{share} {known}")
    rolled_back = 0
    for _ in range(300):
        before = Share(known, sum(random.random() < share for _ in range(known)))
        now = Share()
        for _ in range(300):
            failed = random.random() < share
            now = Share(now.ended + 1, now.failed + failed)
            if failed and is_worse(now, before):
                rolled_back += 1
                break
    assert rolled_back <= 3


def test_the_window_before_is_as_long_as_the_probation_or_all_that_is_known():
    history = History()
    assert history.window(100.0, Share(7, 1), 10.0) == Share(7, 1)
    for second in range(100):
        history.note(float(second), Share(second * 10, second), 10.0)
    assert history.window(99.0, Share(990, 99), 10.0) == Share(100, 10)
    assert len(history._samples) < 15
    history.note(100.0, Share(1000, 100), 0.0)
    assert history.window(101.0, Share(1010, 101), 10.0) == Share(1010, 101)


# On the engine.


class ShopConfig(WorkerConfig):
    shop_fails: bool = False


class Shop(Worker):
    """Fails when it is told to."""

    config_class = ShopConfig
    concurrency = 3
    told: list[tuple[bool, bool]]

    async def on_startup(self) -> None:
        self.told = []

    async def process_message(self, message: Message) -> None:
        if self.config.shop_fails:
            raise ValueError("no such shop")

    async def _apply_config_changes(self, old: Any, new: Any) -> None:
        self.told.append((old.shop_fails, new.shop_fails))


ON = "[reload]\nprobation_seconds = 30\n[broker]\nurl = 'memory://a'\n"
BAD = f"shop_fails = true\n{ON}"


async def done(kit: Reloads, count: int) -> None:
    """So many messages go well, and are remembered."""
    ids = [await kit.said(kit.seam) for _ in range(count)]
    await until(lambda: all(kit.kinds(one) == ["ack"] for one in ids))
    kit.life.reloader.probation.look()


async def test_a_reload_after_which_messages_fail_is_rolled_back_and_its_failures_are_given_back_uncounted(tmp_path):
    async with reloading(Shop, tmp_path, ON) as kit:
        await done(kit, 200)
        assert (await kit.reload(BAD)).generation == 2
        ids = [await kit.said(kit.seam) for _ in range(30)]
        await until(lambda: kit.of(ConfigRolledBack))
        await until(lambda: all("ack" in kit.kinds(one) for one in ids))
        assert all(set(kit.kinds(one)) == {"ack"} or kit.kinds(one) == ["release", "ack"] for one in ids)
        assert sum("release" in kit.kinds(one) for one in ids) >= 5
        assert {delivery.attempt for delivery in kit.seam.received} == {1}
        assert kit.of(MessageRetry) == []
        (told,) = kit.of(ConfigRolledBack)
        assert (told.generation, told.changed) == (3, ("shop_fails",))
        assert "of 200 messages in the time before" in told.cause
        assert kit.life.tally.reloads == {"applied": 1, "refused": 0, "rolled_back": 1}
        assert kit.life.tally.last_reload[1] == "rolled_back"
        assert kit.worker.config.shop_fails is False
        assert kit.worker.told == [(False, True), (True, False)]


async def test_dead_letters_of_a_configuration_that_is_rolled_back_are_none(tmp_path):
    class Strict(Shop):
        async def process_message(self, message: Message) -> None:
            if self.config.shop_fails:
                raise Reject("no such shop")

    async with reloading(Strict, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(f"codecs = ['text']\n{ON}")
        ids = [await kit.said(kit.seam) for _ in range(10)]
        await until(lambda: all("ack" in kit.kinds(one) for one in ids))
        await kit.reload(BAD)
        ids = [await kit.said(kit.seam) for _ in range(10)]
        await until(lambda: all("ack" in kit.kinds(one) for one in ids))
        assert len(kit.of(ConfigRolledBack)) == 2
        assert kit.counts()["dead_letter"] == 0


async def test_without_probation_nothing_is_rolled_back(tmp_path):
    async with reloading(Shop, tmp_path) as kit:
        await done(kit, 100)
        await kit.reload("shop_fails = true")
        ids = [await kit.said(kit.seam) for _ in range(10)]
        await until(lambda: all(kit.kinds(one) == ["retry"] for one in ids))
        assert kit.of(ConfigRolledBack) == []


async def test_a_generation_that_proves_itself_settles_what_failed_as_it_would_have_been(tmp_path):
    class Odd(Shop):
        async def process_message(self, message: Message) -> None:
            if message.correlation_id == "odd" and message.attempt == 1:
                raise ValueError("odd")

    async with reloading(Odd, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(f"max_age_seconds = 600\n{ON}")
        odd = await kit.said(kit.seam, correlation_id="odd")
        await settle_loop()
        await done(kit, 20)
        assert kit.kinds(odd) == []
        assert kit.counts()["in_flight"] == 1
        await kit.clock.advance(33)  # a second of which is the delay
        await until(lambda: kit.kinds(odd) == ["retry", "ack"])
        assert [event.delivery.attempt for event in kit.of(MessageRetry)] == [1]
        assert kit.of(ConfigRolledBack) == []
        assert kit.life.shift.trial is not None
        later = await kit.said(kit.seam, correlation_id="odd")
        await until(lambda: kit.kinds(later) == ["retry"])


async def test_a_failure_is_kept_for_a_minute_at_most_and_half_the_prefetch_of_them(tmp_path):
    class Odd(Shop):
        async def process_message(self, message: Message) -> None:
            if message.correlation_id == "odd" and message.attempt == 1:
                raise ValueError("odd")

    text = (
        "prefetch = 8\nhandler_timeout_seconds = 1\n[reload]\nprobation_seconds = 300\n[broker]\nurl = 'memory://a'\n"
    )
    async with reloading(Odd, tmp_path, text) as kit:
        ids = [await kit.said(kit.seam, correlation_id="odd") for _ in range(50)]
        await until(lambda: all(kit.kinds(one) == ["retry"] for one in ids))
        await done(kit, 50)
        await kit.reload(f"max_age_seconds = 600\n{text}")
        ids = [await kit.said(kit.seam, correlation_id="odd") for _ in range(6)]
        await until(lambda: [kit.kinds(one) for one in ids] == [["retry"]] * 2 + [[]] * 4)
        await kit.clock.advance(62)
        await until(lambda: [kit.kinds(one)[:1] for one in ids] == [["retry"]] * 6)
        assert kit.counts()["lost"] == 0, "the leases outlast the keeping"


async def test_what_still_runs_under_a_configuration_that_was_rolled_back_is_given_back_too(tmp_path):
    gate = Gate()

    class Holds(Shop):
        async def process_message(self, message: Message) -> None:
            if message.correlation_id == "slow" and gate.came == 0:
                await gate.pass_through()
                raise ValueError("late")
            await super().process_message(message)

    async with reloading(Holds, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(BAD)
        slow = await kit.said(kit.seam, correlation_id="slow")
        await gate.arrivals(1)
        for _ in range(10):
            await kit.said(kit.seam)
        await until(lambda: kit.of(ConfigRolledBack))
        gate.open.set()
        await until(lambda: kit.kinds(slow) == ["release", "ack"])


async def test_a_reload_before_the_former_has_proved_itself_goes_back_to_the_one_that_had(tmp_path):
    async with reloading(Shop, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(BAD)
        for _ in range(3):
            await kit.said(kit.seam)
        await settle_loop()
        await kit.reload(f"max_age_seconds = 600\n{BAD}")
        ids = [await kit.said(kit.seam) for _ in range(10)]
        await until(lambda: kit.of(ConfigRolledBack))
        await until(lambda: all("ack" in kit.kinds(one) for one in ids))
        assert kit.worker.config.shop_fails is False
        assert kit.worker.config.max_age_seconds == 86_400
        assert kit.counts()["retry"] == 0


async def test_what_failed_is_given_back_too_when_the_operator_takes_the_change_back_himself(tmp_path):
    async with reloading(Shop, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(BAD)
        ids = [await kit.said(kit.seam) for _ in range(3)]
        await until(lambda: kit.life.shift.trial.kept == 3)
        await kit.reload(ON)
        await until(lambda: all(kit.kinds(one) == ["release", "ack"] for one in ids))
        await kit.clock.advance(60)
        assert kit.of(ConfigRolledBack) == []
        assert len(kit.of(ConfigApplied)) == 2


async def test_a_stop_in_the_middle_of_a_probation_settles_what_failed_as_it_would_have_been(tmp_path):
    async with reloading(Shop, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(BAD)
        ids = [await kit.said(kit.seam) for _ in range(3)]
        await until(lambda: kit.life.shift.trial.kept == 3)
        await kit.stop()
        assert [kit.kinds(one) for one in ids] == [["retry"]] * 3


async def test_a_move_to_a_broker_under_which_all_fails_is_rolled_back_to_the_former_one(tmp_path):
    class Away(Shop):
        async def process_message(self, message: Message) -> None:
            if self.config.broker.display_url.endswith("b"):
                raise ValueError("wrong broker")

    async with reloading(Away, tmp_path, ON) as kit:
        await done(kit, 100)
        old = kit.seam
        await kit.reload(ON.replace("memory://a", "memory://b"))
        new = kit.seam
        ids = [await kit.said(new) for _ in range(10)]
        await until(lambda: kit.of(ConfigRolledBack))
        assert kit.seam is not old
        assert kit.seam.store is old.store
        await until(lambda: not new._connected)
        assert all(new.kinds(one) in ([], ["ack"], ["release"], ["release", "ack"]) for one in ids)
        assert (await kit.depth_of(new, "default")).ready == sum("ack" not in new.kinds(one) for one in ids)
        assert {delivery.attempt for delivery in new.received} == {1}
        await done(kit, 10)


async def test_a_roll_back_that_cannot_be_made_is_told_and_the_worker_goes_on(tmp_path):
    async with reloading(Shop, tmp_path, ON) as kit:
        await done(kit, 100)
        await kit.reload(BAD.replace("memory://a", "memory://b"))
        new = kit.seam
        kit.seams["memory://a"].faults.connect = _away
        ids = [await kit.said(new) for _ in range(10)]
        await until(lambda: kit.of(ConfigRefused))
        assert "cannot be rolled back" in kit.of(ConfigRefused)[0].cause
        await until(lambda: all(new.kinds(one) == ["retry"] for one in ids))


def _away() -> None:
    raise unavailable("away")


async def test_a_handler_that_settles_by_itself_is_answered_at_once_on_probation_too(tmp_path):
    class Nacks(Shop):
        async def process_message(self, message: Message) -> None:
            await message.nack()

    async with reloading(Nacks, tmp_path, ON) as kit:
        await kit.reload(f"max_age_seconds = 600\n{ON}")
        one = await kit.said(kit.seam)
        await until(lambda: kit.kinds(one) == ["retry"])
