"""A worker's life: every move, every hook, every way to stop, and what is left when something goes wrong on the way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import warnings
from contextlib import asynccontextmanager

import pytest

from pythia.core.events import (
    BrokerLost,
    ConfigApplied,
    DrainReleased,
    Notice,
    TaskFailed,
    WorkerFailed,
    WorkerRunning,
    WorkerStarting,
    WorkerStopped,
    WorkerStopping,
)
from pythia.core.lifecycle import LifecycleManager
from pythia.core.state import MOVES, WorkerState, moved
from pythia.core.worker import Worker, make_worker
from pythia.errors import BrokerRefused, BrokerUnavailable, ConfigError, LifecycleError
from pythia.service import RunOptions
from tests.unit.core_kit import QUIET, Gate, Kit, config_of, running, unavailable, until

S = WorkerState


class Idle(Worker):
    """Remembers what was called, and in which state."""

    def __init__(self, config=None):
        super().__init__(config)
        self.steps: list[str] = []

    def step(self, name: str) -> None:
        self.steps.append(f"{name} {self.state}")

    async def on_startup(self):
        self.step("on_startup")

    async def on_shutdown(self):
        self.step("on_shutdown")

    async def process_message(self, message):
        self.step("process_message")


# States.

LEGAL = {
    (S.INITIALIZING, S.STARTING),
    (S.STARTING, S.RUNNING),
    (S.RUNNING, S.STOPPING),
    (S.STOPPING, S.STOPPED),
    (S.INITIALIZING, S.ERROR),
    (S.STARTING, S.ERROR),
    (S.RUNNING, S.ERROR),
    (S.ERROR, S.STOPPING),
    (S.STARTING, S.STOPPING),
    (S.INITIALIZING, S.STOPPED),
    (S.STOPPED, S.INITIALIZING),
}


@pytest.mark.parametrize(("here", "there"), list(itertools.product(S, S)), ids=str)
def test_the_moves_of_the_design_are_allowed_and_no_others(here, there):
    if (here, there) in LEGAL:
        assert moved(here, there) is there
    else:
        with pytest.raises(LifecycleError, match=f"{here} cannot become {there}"):
            moved(here, there)


def test_states_are_numbers_from_0_to_5_whose_text_is_their_lower_case_name():
    assert [(state.value, str(state)) for state in S] == [
        (0, "initializing"), (1, "starting"), (2, "running"), (3, "stopping"), (4, "stopped"), (5, "error"),
    ]  # fmt: skip
    assert f"{S.RUNNING}" == "running"
    assert all(there in S for moves in MOVES.values() for there in moves)


async def test_a_whole_life_takes_its_steps_in_order_and_tells_of_them():
    kit = Kit(Idle)
    assert kit.worker.state is S.INITIALIZING
    await kit.start()
    assert kit.worker.state is S.RUNNING
    assert kit.worker.is_running
    await kit.settled(await kit.publish())
    await kit.stop()
    assert kit.worker.steps == ["on_startup starting", "process_message running", "on_shutdown stopping"]
    assert kit.worker.state is S.STOPPED
    assert not kit.worker.is_running
    told = [type(e) for e in kit.events if type(e).name.startswith("worker.")]
    assert told == [WorkerStarting, WorkerRunning, WorkerStopping, WorkerStopped]
    assert kit.of(WorkerStopped)[0].exit_code == 0
    assert kit.life.tending == []


async def test_consumption_begins_after_the_manager_has_started_the_worker():
    class Slow(LifecycleManager):
        async def start_worker(self, worker):
            await super().start_worker(worker)
            for _ in range(50):
                await asyncio.sleep(0)
            worker.step("started")

    kit = Kit(Idle)
    kit.worker.lifecycle_manager = Slow()
    await kit.publish()
    await kit.start()
    await until(lambda: len(kit.worker.steps) == 3)
    assert kit.worker.steps == ["on_startup starting", "started running", "process_message running"]
    await kit.stop()


async def test_a_task_born_in_on_startup_first_runs_in_running():
    seen: list[S] = []

    class Watches(Idle):
        async def on_startup(self):
            self.task = asyncio.create_task(self.watch())

        async def watch(self):
            seen.append(self.state)

    async with running(Watches):
        await until(lambda: seen)
    assert seen == [S.RUNNING]


async def test_a_worker_without_a_handler_says_so_at_the_start():
    class Nothing(Worker):
        pass

    async with running(Nothing, retry__max_attempts=1) as kit:
        assert any("process_message" in notice.detail for notice in kit.of(Notice))
        assert await kit.settled(await kit.publish()) == ["dead_letter"]
        assert (await kit.dead())[0].error_type == "NotImplementedError"


# Stopping, from anywhere.


async def test_awaiting_stop_in_a_handler_does_not_wait_for_itself():
    class Stops(Idle):
        async def process_message(self, message):
            await self.stop()
            self.step("after the stop")

    kit = Kit(Stops)
    await kit.start()
    one = await kit.publish()
    await kit.ended()
    assert kit.kinds(one) == ["ack"]
    assert kit.worker.state is S.STOPPED
    assert kit.worker.steps[1].startswith("after the stop")


async def test_stop_from_a_plain_handler_in_its_thread():
    class Stops(Idle):
        def process_message(self, message):
            self.stop()

    kit = Kit(Stops)
    await kit.start()
    one = await kit.publish()
    await kit.ended()
    assert kit.kinds(one) == ["ack"]


@pytest.mark.parametrize("how", ["called", "awaited", "then waits", "then fails"])
async def test_stop_from_on_startup(how):
    class Stops(Idle):
        async def on_startup(self):
            if how == "awaited":
                await self.stop()
            else:
                self.stop()
            if how == "then waits":
                await asyncio.Event().wait()
            if how == "then fails":
                raise ValueError("too late")

    kit = Kit(Stops)
    kit.launch()
    if how == "then fails":
        with pytest.raises(ValueError, match="too late"):
            await kit.ended()
    else:
        await kit.ended()
    assert kit.worker.state is S.STOPPED
    completed = how in ("called", "awaited")
    assert [step for step in kit.worker.steps if "on_shutdown" in step] == (
        ["on_shutdown stopping"] if completed else []
    )
    assert kit.life.exit_code == (70 if how == "then fails" else 0)


async def test_stop_during_a_slow_on_startup_interrupts_it_and_is_no_failure():
    class Slow(Idle):
        async def on_startup(self):
            self.step("on_startup")
            await asyncio.Event().wait()

    kit = Kit(Slow)
    kit.launch()
    await until(lambda: kit.worker.steps)
    await asyncio.to_thread(kit.worker.stop)
    await kit.ended()
    assert kit.worker.state is S.STOPPED
    assert kit.worker.steps == ["on_startup starting"]
    assert kit.life.exit_code == 0
    assert kit.of(WorkerFailed) == []


async def test_stop_from_a_thread_can_be_waited_for_there():
    async with running(Idle) as kit:
        ended: list[S] = []

        def elsewhere():
            async def wait():
                await kit.worker.stop()
                ended.append(kit.worker.state)

            asyncio.run(wait())

        await asyncio.to_thread(elsewhere)
        assert ended == [S.STOPPED]
        await kit.ended()


async def test_stop_twice_and_after_the_end():
    kit = Kit(Idle)
    await kit.start()
    first, second = kit.worker.stop(), kit.worker.stop()
    await asyncio.wait_for(asyncio.gather(first, second), 5)
    assert kit.worker.state is S.STOPPED
    await asyncio.wait_for(kit.worker.stop(), 5)
    await kit.ended()
    assert kit.worker.steps.count("on_shutdown stopping") == 1


async def test_stop_before_the_first_start_and_then_a_start():
    kit = Kit(Idle)
    await asyncio.wait_for(kit.worker.stop(), 5)
    assert kit.worker.state is S.STOPPED
    await kit.start()
    assert kit.worker.state is S.RUNNING
    await kit.stop()


def test_stop_without_any_loop():
    worker = Idle(config_of())
    worker.stop()
    assert worker.state is S.STOPPED


async def test_start_after_stop_connects_and_consumes_again():
    kit = Kit(Idle)
    for _ in range(3):
        await kit.start()
        assert await kit.settled(await kit.publish()) == ["ack"]
        await kit.stop()
    assert kit.seam.connects >= 3
    assert kit.counts()["ack"] == 3


async def test_a_stop_of_a_stopped_worker_does_not_stop_its_next_life():
    kit = Kit(Idle)
    await kit.start()
    await kit.stop()
    kit.worker.stop()
    await kit.start()
    assert await kit.settled(await kit.publish()) == ["ack"]
    assert kit.worker.state is S.RUNNING
    await kit.stop()


async def test_starting_twice_is_refused_and_disturbs_nothing():
    async with running(Idle) as kit:
        with pytest.raises(LifecycleError, match="is running: stop it before"):
            await kit.worker.start()
        assert await kit.settled(await kit.publish()) == ["ack"]


async def test_a_stop_that_is_a_task():
    kit = Kit(Idle)
    await kit.start()
    await asyncio.wait_for(asyncio.create_task(kit.worker.stop()), 5)
    assert kit.worker.state is S.STOPPED


async def test_nobody_minds_a_stop_that_is_never_awaited():
    kit = Kit(Idle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await kit.start()
        kit.worker.stop()
        await kit.ended()
        gc.collect()
    assert kit.worker.state is S.STOPPED


async def test_cancelling_start_drains_first():
    gate = Gate()

    class Waits(Idle):
        async def process_message(self, message):
            await gate.pass_through()

    kit = Kit(Waits)
    await kit.start()
    one = await kit.publish()
    await gate.arrivals(1)
    assert kit.task is not None
    kit.task.cancel()
    await until(lambda: kit.worker.state is S.STOPPING)
    assert not kit.task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await kit.ended()
    assert kit.kinds(one) == ["ack"]
    assert kit.worker.state is S.STOPPED
    assert kit.worker.steps == ["on_startup starting", "on_shutdown stopping"]


async def test_cancelling_start_while_it_starts_is_a_stop_and_no_failure():
    class Slow(Idle):
        async def on_startup(self):
            self.step("on_startup")
            await asyncio.Event().wait()

    kit = Kit(Slow)
    task = kit.launch()
    await until(lambda: kit.worker.steps)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await kit.ended()
    assert kit.worker.state is S.STOPPED
    assert kit.of(WorkerFailed) == []
    assert kit.worker.steps == ["on_startup starting"]


async def test_a_second_cancel_ends_the_drain_and_what_was_held_comes_again():
    gate = Gate()

    class Waits(Idle):
        async def process_message(self, message):
            await gate.pass_through()

    kit = Kit(Waits)
    await kit.start()
    await kit.publish()
    await gate.arrivals(1)
    assert kit.task is not None
    kit.task.cancel()
    await until(lambda: kit.worker.state is S.STOPPING)
    kit.task.cancel()
    waiting = kit.worker.stop()
    with pytest.raises(asyncio.CancelledError):
        await kit.ended()
    await asyncio.wait_for(waiting, 5)
    assert kit.worker.state is S.STOPPED
    counts = kit.counts()
    assert (counts["in_flight"], counts["lost"]) == (0, 1)
    assert (await kit.depth()).ready == 1
    await kit.start()  # and it can begin again
    gate.open.set()
    await kit.stop()


async def test_a_stop_while_the_broker_is_out_of_reach_ends_at_once():
    kit = Kit(Idle)
    kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable())
    kit.launch()
    await until(lambda: kit.of(BrokerLost))
    assert kit.life.status.waiting_for_broker
    await asyncio.wait_for(kit.worker.stop(), 5)
    await kit.ended()
    assert kit.worker.state is S.STOPPED
    assert kit.worker.steps == []


# Starting, and failing to.


async def test_it_waits_for_a_broker_that_comes_later():
    kit = Kit(Idle)
    tries = itertools.count()

    def refuse():
        if next(tries) < 2:
            raise unavailable()

    kit.faults.connect = refuse
    kit.launch()
    await kit.until_running()
    assert not kit.life.status.waiting_for_broker
    assert next(tries) >= 3
    assert len(kit.of(BrokerLost)) == 1  # one line an outage
    await kit.stop()


async def test_fail_fast_does_not_wait_for_the_broker():
    kit = Kit(Idle)
    kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable())
    kit.launch(RunOptions(http=False, signals=False, fail_fast=True))
    with pytest.raises(BrokerUnavailable):
        await kit.ended()
    assert (kit.worker.state, kit.life.exit_code) == (S.ERROR, 69)


async def test_the_startup_timeout_bounds_the_wait_for_the_broker():
    kit = Kit(Idle, startup_timeout_seconds=0.1)
    kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable())
    kit.launch()
    with pytest.raises(BrokerUnavailable):
        await kit.ended()
    assert kit.life.exit_code == 69


async def test_the_startup_timeout_bounds_on_startup_and_says_which_setting_it_was():
    class Slow(Idle):
        async def on_startup(self):
            await asyncio.Event().wait()

    kit = Kit(Slow, startup_timeout_seconds=0.05)
    kit.launch()
    with pytest.raises(TimeoutError, match=r"startup_timeout_seconds = 0\.05"):
        await kit.ended()
    assert (kit.worker.state, kit.life.exit_code) == (S.ERROR, 70)


async def test_the_startup_timeout_is_for_the_broker_and_on_startup_together():
    class Slow(Idle):
        async def on_startup(self):
            await asyncio.Event().wait()

    kit = Kit(Slow, startup_timeout_seconds=30)
    kit.launch()
    await until(lambda: kit.worker.state is S.STARTING)
    kit.worker.stop()
    await kit.ended()
    kit.life._began -= 29.95  # what waiting for the broker would have taken
    began = time.monotonic()
    from pythia.core.starting import _on_startup

    with pytest.raises(TimeoutError, match="startup_timeout_seconds"):
        await asyncio.wait_for(_on_startup(kit.life), 10)
    assert time.monotonic() - began < 5


async def test_on_startups_own_timeout_error_is_its_own():
    class Own(Idle):
        async def on_startup(self):
            raise TimeoutError("the database")

    kit = Kit(Own, startup_timeout_seconds=10)
    kit.launch()
    with pytest.raises(TimeoutError, match="the database"):
        await kit.ended()


async def test_a_failed_on_startup_is_error_and_on_shutdown_is_not_run_but_the_exit_stack_is_closed():
    class Fails(Idle):
        async def on_startup(self):
            self.exit_stack.callback(lambda: self.step("closed"))
            raise ValueError("no database")

    kit = Kit(Fails)
    kit.launch()
    with pytest.raises(ValueError, match="no database"):
        await kit.ended()
    assert kit.worker.state is S.ERROR
    assert kit.worker.steps == ["closed error"]
    assert kit.life.exit_code == 70
    assert kit.life.status.failure == "no database"
    assert len(kit.of(WorkerFailed)) == 1
    with pytest.raises(LifecycleError, match="is error: stop it"):
        await kit.worker.start()
    await asyncio.wait_for(kit.worker.stop(), 5)
    assert kit.worker.state is S.STOPPED


async def test_a_stop_while_a_failed_start_is_being_undone_waits_for_that():
    class Fails(Idle):
        async def on_startup(self):
            self.exit_stack.push_async_callback(self.slowly)
            raise ValueError("no database")

        async def slowly(self):
            self.step("closing")
            for _ in range(200):
                await asyncio.sleep(0)
            self.step("closed")

    kit = Kit(Fails)
    task = kit.launch()
    await until(lambda: kit.worker.steps)
    await asyncio.wait_for(kit.worker.stop(), 5)
    assert kit.worker.steps == ["closing error", "closed error"]
    assert kit.worker.state is S.STOPPED
    with pytest.raises(ValueError, match="no database"):
        await task


async def test_on_startup_that_lets_a_cancelled_task_through_has_failed_and_says_so():
    class Awaits(Idle):
        async def on_startup(self):
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task

    kit = Kit(Awaits)
    kit.launch()
    with pytest.raises(RuntimeError, match="on_startup"):
        await kit.ended()
    assert (kit.worker.state, kit.life.exit_code) == (S.ERROR, 70)


async def test_a_refusal_by_the_broker_at_the_start_is_error_with_its_exit_code():
    kit = Kit(Idle)
    kit.faults.connect = lambda: (_ for _ in ()).throw(BrokerRefused("wrong password"))
    kit.launch()
    with pytest.raises(BrokerRefused):
        await kit.ended()
    assert (kit.worker.state, kit.life.exit_code) == (S.ERROR, 78)


async def test_an_execution_mode_that_cannot_be_is_a_configuration_error():
    class Wrong(Worker):
        execution = "process"

        async def process_message(self, message):
            pass

    kit = Kit(Wrong)
    kit.launch()
    with pytest.raises(ConfigError, match="execution"):
        await kit.ended()
    assert kit.life.exit_code == 78


# Hooks that fail at the end.


@pytest.mark.parametrize("kind", ["raises", "exits", "plain", "plain raises", "cancelled task", "hangs"])
async def test_whatever_on_shutdown_does_the_worker_stops_and_the_broker_is_let_go(kind):
    class Bad(Idle):
        async def on_shutdown(self):
            match kind:
                case "raises":
                    raise ValueError("bye")
                case "exits":
                    raise SystemExit(3)
                case "cancelled task":
                    task = asyncio.create_task(asyncio.Event().wait())
                    await asyncio.sleep(0)
                    task.cancel()
                    await task
                case "hangs":
                    await asyncio.Event().wait()

    class Plain(Idle):
        def on_shutdown(self):
            if kind == "plain raises":
                raise ValueError("bye")

    kit = Kit(Plain if kind.startswith("plain") else Bad, drain_timeout_seconds=0.2)
    await kit.start()
    await kit.stop()
    assert kit.worker.state is S.STOPPED
    assert [event.where for event in kit.of(TaskFailed)] == ["on_shutdown"]
    assert kit.life.exit_code == 0
    with pytest.raises(BrokerUnavailable):
        kit.seam.reached()


async def test_a_broker_that_cannot_be_closed_does_not_keep_the_worker_from_stopping():
    kit = Kit(Idle)
    await kit.start()

    async def close():
        raise OSError("the file system is gone")

    kit.seam.close = close
    await kit.stop()
    assert kit.worker.state is S.STOPPED
    assert len(kit.of(TaskFailed)) == 1


async def test_the_exit_stack_is_closed_in_reverse_after_on_shutdown():
    class Stacks(Idle):
        async def on_startup(self):
            for name in ("first", "second"):
                await self.exit_stack.enter_async_context(self.resource(name))

        @asynccontextmanager
        async def resource(self, name):
            yield
            self.step(name)

    kit = Kit(Stacks)
    await kit.start()
    await kit.stop()
    assert kit.worker.steps == ["on_shutdown stopping", "second stopping", "first stopping"]
    await kit.start()  # and again, with a stack of its own
    await kit.stop()
    assert len(kit.worker.steps) == 6


# A manager of the user's own.


@pytest.mark.parametrize("how", ["raises before", "raises after", "forgets"])
async def test_a_manager_that_fails_to_stop_does_not_keep_the_worker_from_stopping(how):
    class Bad(LifecycleManager):
        async def stop_worker(self, worker):
            if how == "raises before":
                raise RuntimeError("in my manager")
            if how == "raises after":
                await super().stop_worker(worker)
                raise RuntimeError("in my manager")

    gate = Gate()

    class Waits(Idle):
        async def process_message(self, message):
            await gate.pass_through()

    kit = Kit(Waits)
    kit.worker.lifecycle_manager = Bad()
    await kit.start()
    one = await kit.publish()
    await gate.arrivals(1)
    kit.worker.stop()
    gate.open.set()
    await kit.ended()
    assert kit.worker.state is S.STOPPED
    assert kit.kinds(one) == ["ack"]
    assert kit.worker.steps == ["on_startup starting", "on_shutdown stopping"]
    assert kit.life.exit_code == (0 if how == "forgets" else 70)


async def test_a_manager_that_does_not_start_the_worker_is_an_error_that_says_so():
    class Forgets(LifecycleManager):
        async def start_worker(self, worker):
            pass

    kit = Kit(Idle)
    kit.worker.lifecycle_manager = Forgets()
    kit.launch()
    with pytest.raises(LifecycleError, match="start_worker returned without"):
        await kit.ended()
    assert kit.worker.state is S.ERROR


async def test_the_extension_points_of_a_manager_do_nothing_by_themselves():
    manager = LifecycleManager(None)
    worker = Idle(config_of())
    await manager._validate_environment()
    await manager._setup_advanced_monitoring(worker)
    await manager._register_with_discovery()
    await manager._start_background_tasks(worker)
    assert worker.steps == []
    with pytest.raises(LifecycleError, match=r"start\(\), run\(\) or running\(\)"):
        await manager.start_worker(worker)


# The drain.


class Drains(Idle):
    drain_timeout_seconds_chosen = 20

    def __init__(self, config=None):
        super().__init__(config)
        self.gate = Gate()
        self.ended: list[str] = []

    async def process_message(self, message):
        try:
            await self.gate.pass_through()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            if message.body == "stubborn":
                await self.gate.open.wait()
            raise
        self.ended.append("returned")


async def test_running_handlers_go_on_until_three_quarters_of_the_deadline_and_are_then_released():
    kit = Kit(Drains, drain_timeout_seconds=20)
    await kit.start()
    one = await kit.publish()
    await kit.worker.gate.arrivals(1)
    kit.worker.stop()
    await kit.clock.advance(14.9)
    assert kit.worker.ended == []
    assert kit.worker.state is S.STOPPING
    await kit.clock.advance(0.2)
    assert await kit.settled(one) == ["release"]
    await kit.ended()
    assert kit.worker.ended == ["cancelled"]
    assert kit.life.exit_code == 75
    (told,) = kit.of(DrainReleased)
    assert (told.count, list(told.message_ids)) == (1, [one])
    assert told.ages[0] == pytest.approx(15, abs=0.3)
    assert kit.life.tally.drained == {"finished": 0, "released": 1, "abandoned": 0}
    (row,) = [row for _, _, row in kit.store.lane("default").ready]
    assert row.attempt == 1


async def test_what_swallows_its_cancellation_is_released_in_its_name_at_nine_tenths():
    kit = Kit(Drains, drain_timeout_seconds=20)
    await kit.start()
    one = await kit.publish("stubborn")
    await kit.worker.gate.arrivals(1)
    kit.worker.stop()
    await kit.clock.advance(17.9)
    assert kit.worker.ended == ["cancelled"]
    assert kit.kinds(one) == []
    await kit.clock.advance(0.2)
    assert await kit.settled(one) == ["release"]
    await kit.ended()
    assert kit.life.exit_code == 75
    assert kit.life.tally.drained["abandoned"] == 1
    assert kit.life.engine.lanes.stuck == 1
    kit.worker.gate.open.set()
    await until(lambda: kit.life.engine.lanes.stuck == 0)


async def test_handlers_that_finish_in_time_make_a_clean_stop():
    kit = Kit(Drains)
    await kit.start()
    ids = [await kit.publish() for _ in range(3)]
    await kit.worker.gate.arrivals(3)
    kit.worker.stop()
    await kit.clock.advance(1)
    kit.worker.gate.open.set()
    await kit.ended()
    assert [kit.kinds(one) for one in ids] == [["ack"]] * 3
    assert kit.life.exit_code == 0
    assert kit.of(DrainReleased) == []
    assert kit.life.tally.drained == {"finished": 3, "released": 0, "abandoned": 0}


async def test_hurrying_interrupts_at_once():
    kit = Kit(Drains)
    await kit.start()
    one = await kit.publish()
    await kit.worker.gate.arrivals(1)
    kit.worker.stop()
    await kit.clock.advance(1)
    assert kit.worker.ended == []
    kit.life.hurry.set()
    assert await kit.settled(one) == ["release"]
    await kit.ended()
    assert kit.life.exit_code == 75


async def test_a_drain_tells_handlers_that_it_has_begun():
    seen: list[bool] = []

    class Checks(Idle):
        async def process_message(self, message):
            seen.append(message.stopping.is_set())
            await message.stopping.wait()
            seen.append(message.stopping.is_set())

    kit = Kit(Checks)
    await kit.start()
    one = await kit.publish()
    await until(lambda: seen)
    kit.worker.stop()
    await kit.ended()
    assert seen == [False, True]
    assert kit.kinds(one) == ["ack"]


@pytest.mark.parametrize("timeout", [0, 0.001])
async def test_a_stop_with_hardly_any_time_still_hands_everything_back(timeout):
    kit = Kit(Drains)
    await kit.start()
    await kit.publish()
    await kit.worker.gate.arrivals(1)
    kit.worker.stop(timeout=timeout)
    await kit.ended()
    assert kit.worker.state is S.STOPPED
    assert kit.life.exit_code == 75
    assert kit.counts()["in_flight"] == 0
    assert (await kit.depth()).ready == 1


# Adopted tasks.


async def test_tasks_born_in_on_startup_are_kept_told_of_and_cancelled_after_on_shutdown():
    class Adopts(Idle):
        async def on_startup(self):
            asyncio.create_task(self.forever())  # noqa: RUF006 - nobody keeps it but the worker
            asyncio.create_task(self.fails(), name="my loop")  # noqa: RUF006 - the same

        async def forever(self):
            try:
                await asyncio.Event().wait()
            finally:
                self.step("cancelled")

        async def fails(self):
            await asyncio.sleep(0)
            raise ValueError("in the background")

    kit = Kit(Adopts)
    await kit.start()
    gc.collect()
    await until(lambda: kit.of(TaskFailed))
    assert "my loop" in kit.of(TaskFailed)[0].where
    assert kit.worker.state is S.RUNNING
    await kit.stop()
    assert kit.worker.steps == ["on_shutdown stopping", "cancelled stopping"]


async def test_tasks_of_others_that_are_born_meanwhile_are_not_adopted():
    release, others = asyncio.Event(), []

    class Slow(Idle):
        async def on_startup(self):
            self.mine = asyncio.create_task(asyncio.Event().wait())
            self.step("waiting")
            await release.wait()

    kit = Kit(Slow)
    kit.launch()
    await until(lambda: kit.worker.steps)
    others.append(asyncio.create_task(asyncio.Event().wait()))
    release.set()
    await kit.until_running()
    await kit.stop()
    assert kit.worker.mine.cancelled()
    assert not others[0].done()
    others[0].cancel()


async def test_two_workers_that_start_at_the_same_time_each_adopt_their_own_and_leave_the_loop_as_it_was():
    gates = [asyncio.Event(), asyncio.Event()]

    class Slow(Idle):
        async def on_startup(self):
            self.tasks = [asyncio.create_task(asyncio.Event().wait())]
            self.step("waiting")
            await self.gate.wait()
            self.tasks.append(asyncio.create_task(asyncio.Event().wait()))

    kits = [Kit(Slow), Kit(Slow)]
    for kit, gate in zip(kits, gates, strict=True):
        kit.worker.gate = gate
        kit.launch()
        await until(lambda kit=kit: kit.worker.steps)
    for kit, gate in zip(kits, gates, strict=True):  # the first that began ends first
        gate.set()
        await kit.until_running()
    assert asyncio.get_running_loop().get_task_factory() is None
    await kits[0].stop()
    assert [task.cancelled() for kit in kits for task in kit.worker.tasks] == [True, True, False, False]
    await kits[1].stop()
    assert all(task.cancelled() for task in kits[1].worker.tasks)


async def test_an_adopted_task_that_awaits_stop_does_not_wait_for_itself():
    class Watches(Idle):
        async def on_startup(self):
            self.task = asyncio.create_task(self.watch())

        async def watch(self):
            await self.stop()
            self.step("went on")

    kit = Kit(Watches)
    kit.launch()
    await kit.ended()
    assert kit.worker.steps[0].startswith("went on")


# Embedding.


async def test_running_is_running_inside_and_stopped_after():
    kit = Kit(Idle)
    async with kit.worker.running() as worker:
        assert worker is kit.worker
        assert worker.state is S.RUNNING
        assert await kit.settled(await kit.publish()) == ["ack"]
    assert kit.worker.state is S.STOPPED


async def test_running_raises_what_kept_it_from_starting():
    class Fails(Idle):
        async def on_startup(self):
            raise ValueError("no database")

    kit = Kit(Fails)
    with pytest.raises(ValueError, match="no database"):
        async with kit.worker.running():
            pytest.fail("it never ran")


async def test_an_error_inside_running_passes_and_the_worker_is_stopped():
    kit = Kit(Idle)
    with pytest.raises(KeyError):
        async with kit.worker.running():
            raise KeyError("in the block")
    assert kit.worker.state is S.STOPPED


async def test_giving_up_on_running_while_it_starts_leaves_nothing_behind():
    kit = Kit(Idle)
    kit.faults.connect = lambda: (_ for _ in ()).throw(unavailable())

    async def embed():
        async with kit.worker.running():
            pytest.fail("it never ran")

    task = asyncio.create_task(embed())
    await until(lambda: kit.of(BrokerLost))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kit.worker.state is S.STOPPED


async def test_stop_inside_running_can_be_awaited():
    kit = Kit(Idle)
    async with kit.worker.running():
        await asyncio.wait_for(kit.worker.stop(), 5)
        assert kit.worker.state is S.STOPPED


# Configuration, assigned.


async def test_hot_keys_take_effect_and_of_the_others_the_operator_is_told():
    async with running(Idle) as kit:
        kit.configure(concurrency=3, lease_seconds=60)
        (applied,) = kit.of(ConfigApplied)
        assert set(applied.changed) == {"concurrency", "lease_seconds"}
        assert "lease_seconds" in kit.of(Notice)[-1].detail
        assert "concurrency" not in kit.of(Notice)[-1].detail
        assert kit.life.tally.generation == 2
        assert kit.worker.config.concurrency == 3


async def test_a_configuration_that_cannot_be_used_changes_nothing():
    async with running(Idle) as kit:
        before = kit.worker.config
        with pytest.raises(ConfigError):
            kit.configure(concurrency=3, retry__give_up_on=["no.such.Error"])
        assert kit.worker.config is before
        assert kit.life.tally.generation == 1


async def test_a_worker_that_does_not_run_takes_all_of_a_configuration():
    kit = Kit(Idle)
    kit.configure(queue="later", concurrency=20)
    await kit.start()
    assert await kit.settled(await kit.publish(queue="later")) == ["ack"]
    await kit.stop()
    await asyncio.to_thread(kit.configure, queue="elsewhere", concurrency=50)  # no loop there
    assert kit.of(ConfigApplied) == []
    await kit.start()
    assert await kit.settled(await kit.publish(queue="elsewhere")) == ["ack"]
    await kit.stop()


async def test_a_configuration_assigned_in_on_startup_is_the_one_that_runs():
    gate = Gate()

    class Assigns(Idle):
        async def on_startup(self):
            self.config = config_of(concurrency=3)

        async def process_message(self, message):
            await gate.pass_through()

    async with running(Assigns, concurrency=1) as kit:
        for _ in range(4):
            await kit.publish()
        await gate.arrivals(3)
        assert gate.inside == 3
        gate.open.set()
        await until(lambda: kit.counts()["ack"] == 4)


async def test_a_pause_is_not_kept_over_a_restart():
    kit = Kit(Idle)
    await kit.start()
    kit.worker.pause()
    await kit.stop()
    await kit.start()
    assert not kit.life.status.paused
    assert await kit.settled(await kit.publish()) == ["ack"]
    await kit.stop()


async def test_a_pause_before_the_start_is_kept_until_resumed():
    kit = Kit(Idle)
    kit.worker.pause()
    await kit.start()
    one = await kit.publish()
    await kit.clock.advance(5)
    assert kit.kinds(one) == []
    kit.worker.resume()
    assert await kit.settled(one) == ["ack"]
    await kit.stop()


# Small things that users rely on.


async def test_handle_error_logs_counts_and_raises_the_same_error_and_the_state_stays():
    async with running(Idle) as kit:
        error = ValueError("x")
        with pytest.raises(ValueError, match="x") as caught:
            await kit.worker._handle_error(error)
        assert caught.value is error
        assert kit.worker.state is S.RUNNING
        assert kit.life.tally.user_errors == 1


async def test_publishing_before_the_worker_is_connected_says_when_it_can():
    with pytest.raises(BrokerUnavailable, match="on_startup"):
        await Idle(config_of()).publish("q", {})


async def test_publishing_from_the_hooks_works():
    class Says(Idle):
        async def on_startup(self):
            self.first = await self.publish("log", {"up": True})

        async def on_shutdown(self):
            await self.publish("log", {"up": False}, delay=5)

    kit = Kit(Says)
    await kit.start()
    await kit.stop()
    depth = await kit.depth("log")
    assert (depth.ready, depth.delayed) == (1, 1)
    assert kit.life.tally.published["log", "confirmed"] == 2


def test_constructors_of_every_shape_make_a_worker():
    class Takes(Worker):
        def __init__(self, config):
            super().__init__(config)

    class Nothing(Worker):
        def __init__(self):
            super().__init__(config_of(worker_name="mine"))

    config = config_of()
    assert make_worker(Takes, config).config == config
    assert make_worker(Nothing).name == "mine"
    assert make_worker(Nothing, config).name == "mine"


async def test_a_constructor_that_forgets_super_is_told_so():
    class Forgets(Worker):
        def __init__(self):
            pass

    with pytest.raises(LifecycleError, match=r"super\(\).__init__"):
        await Forgets().start()


async def test_pause_resume_and_stop_from_many_threads_at_once_end_in_stopped():
    kit = Kit(Idle)
    await kit.start()
    threads = [
        threading.Thread(target=action) for action in (kit.worker.pause, kit.worker.resume, kit.worker.stop) * 10
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await kit.ended()
    assert kit.worker.state is S.STOPPED


async def test_a_burst_ends_when_nothing_is_ready_and_names_what_is_delayed():
    kit = Kit(Idle)
    for _ in range(3):
        await kit.publish()
    await kit.publish(delay=50)
    kit.launch(RunOptions(http=False, signals=False, burst=True))
    assert kit.task is not None
    await asyncio.wait_for(asyncio.shield(kit.task), 10)
    assert kit.counts()["ack"] == 3
    assert any("1 delayed" in notice.detail for notice in kit.of(Notice))
    assert QUIET.burst is False
