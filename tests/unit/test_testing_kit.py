from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import structlog

from pythia import Defer, Drop, Message, Reject, RetryPolicy, Worker, WorkerConfig, WorkerState, handler
from pythia.broker import Settled
from pythia.errors import ConfigError, NotDelivered
from pythia.utils.testing import WorkerHarness, WorkerTestCase, make_message

pytest_plugins = ["pythia.utils.testing"]

ENDED = 10  # seconds within which a child process must have ended


class Shop(Worker):
    """Does what the body says."""

    queue = "orders"
    sink = "receipts"
    retry = RetryPolicy(base_seconds=60, jitter=0)

    async def process_message(self, message: Message) -> object:
        match message.body:
            case {"fail": times} if message.attempt <= times:
                raise ValueError(f"no, for the {message.attempt}. time")
            case {"defer": seconds} if message.deliveries == 1:
                raise Defer(seconds, "later")
            case "reject":
                raise Reject("unknown")
            case "drop":
                raise Drop("a test order")
            case "silent":
                return None
        return {"done": message.body}


class Gate(Worker):
    """Waits until the test lets it go on."""

    def __init__(self, config: WorkerConfig | None = None) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.story: list[str] = []

    async def on_startup(self) -> None:
        self.story.append("up")

    async def on_shutdown(self) -> None:
        self.story.append("down")

    async def process_message(self, message: Message) -> None:
        self.begun.set()
        await self.open.wait()
        self.story.append(f"done {message.id}")


# Outcomes


@pytest.mark.parametrize(
    ("body", "kind", "attempts"),
    [
        ({"sku": "a"}, "ack", 1),
        ({"fail": 2}, "ack", 3),
        ({"fail": 99}, "dead_letter", 4),
        ({"defer": 3600}, "ack", 1),
        ("reject", "dead_letter", 1),
        ("drop", "drop", 1),
    ],
)
async def test_settled_goes_through_every_delay_to_the_final_outcome(body: object, kind: str, attempts: int):
    async with WorkerHarness(Shop, retry={"max_attempts": 4}) as harness:
        message_id = await harness.publish(body)
        outcome = await harness.settled(message_id)
        assert outcome.kind == kind
        assert harness.attempts(message_id) == attempts


async def test_the_outcome_of_an_attempt_is_told_before_the_next_is_due():
    async with WorkerHarness(Shop) as harness:
        message_id = await harness.publish({"fail": 1})
        first = await harness.outcome(message_id)
        assert (first.kind, first.delay_seconds, str(first.error)) == ("retry", 60, "no, for the 1. time")
        await harness.advance(59)
        assert await harness.outcome(message_id) is first
        await harness.advance(1)
        assert (await harness.outcome(message_id)).kind == "ack"


async def test_a_day_passes_at_once():
    async with WorkerHarness(Shop, retry={"base_seconds": 3600, "factor": 1}) as harness:
        began, told = time.monotonic(), harness.clock.time()
        message_id = await harness.publish({"fail": 12})
        assert (await harness.settled(message_id)).kind == "ack"
        assert harness.clock.time() - told == pytest.approx(12 * 3600)
        assert time.monotonic() - began < 60


async def test_a_message_that_waited_too_long_is_dead_before_its_handler_sees_it():
    async with WorkerHarness(Shop, max_age_seconds=100) as harness:
        message_id = await harness.publish({"fail": 99})
        outcome = await harness.settled(message_id)
        assert (outcome.kind, outcome.dead_reason) == ("dead_letter", "expired")
        assert [letter.reason for letter in harness.dead()] == ["expired"]


async def test_a_body_that_cannot_be_decoded_has_an_outcome():
    async with WorkerHarness(Shop) as harness:
        message_id = await harness.publish(b"{", content_type="application/json")
        assert (await harness.settled(message_id)).dead_reason == "undecodable"


async def test_a_handler_in_a_thread_is_waited_for():
    class Blocking(Worker):
        def process_message(self, message: Message) -> None:
            if message.attempt == 1:
                raise ValueError

    async with WorkerHarness(Blocking) as harness:
        assert (await harness.settled(await harness.publish(1))).kind == "ack"


async def test_a_batch_that_waits_for_company_is_settled():
    class Batches(Worker):
        sizes: list[int] = []

        async def process_batch(self, messages: list[Message]) -> None:
            self.sizes.append(len(messages))

    async with WorkerHarness(Batches, batch={"size": 10, "wait_seconds": 30}) as harness:
        ids = [await harness.publish(number) for number in range(3)]
        assert [(await harness.settled(message_id)).kind for message_id in ids] == ["ack"] * 3
        assert Batches.sizes == [3]


async def test_a_message_behind_a_failing_one_of_its_key_is_settled():
    async with WorkerHarness(Shop) as harness:
        await harness.publish({"fail": 2}, ordering_key="a")
        second = await harness.publish("second", ordering_key="a")
        assert (await harness.settled(second)).kind == "ack"


async def test_a_delayed_message_is_settled_at_its_time():
    async with WorkerHarness(Shop) as harness:
        began = harness.clock.time()
        message_id = await harness.publish(1, delay=90)
        assert harness.attempts(message_id) == 0
        await harness.settled(message_id)
        assert harness.clock.time() - began == pytest.approx(90)


async def test_a_hung_handler_times_out_when_the_clock_says_so():
    async with WorkerHarness(Gate, handler_timeout_seconds=300, retry={"max_attempts": 1}) as harness:
        message_id = await harness.publish(1)
        with pytest.raises(TimeoutError, match=r"its handler runs \(advance\(300\)"):
            await harness.outcome(message_id, timeout=0.01)
        await harness.advance(301)
        assert "ran longer than 300 s" in (await harness.outcome(message_id)).reason


# What is seen


async def test_published_is_what_the_worker_said_and_not_what_the_test_did():
    class Chain(Shop):
        async def process_message(self, message: Message) -> object:
            await self.publish("orders.audit", {"seen": message.body}, headers={"by": "chain"})
            return message.body

    async with WorkerHarness(Chain) as harness:
        message_id = await harness.publish("silk")
        await harness.settled(message_id)
        assert harness.published("orders") == []
        assert [message.body for message in harness.published("receipts")] == ["silk"]
        (audit,) = harness.published("orders.audit")
        assert (audit.body, audit.headers["by"], audit.queue) == ({"seen": "silk"}, "chain", "orders.audit")


async def test_a_dead_letter_says_why():
    async with WorkerHarness(Shop, retry={"max_attempts": 2}) as harness:
        message_id = await harness.publish({"fail": 9})
        await harness.settled(message_id)
        (letter,) = harness.dead("orders")
        assert (letter.id, letter.reason, letter.attempts, letter.error_type) == (
            message_id,
            "attempts_exhausted",
            2,
            "ValueError",
        )


async def test_the_users_own_hook_is_called_too():
    class Hooked(Shop):
        told: list[str] = []

        async def on_outcome(self, message: Message, outcome: object) -> None:
            self.told.append(outcome.kind)

    async with WorkerHarness(Hooked) as harness:
        await harness.settled(await harness.publish({"fail": 1}))
        await harness.advance(0)
        assert Hooked.told == ["retry", "ack"]


async def test_what_can_never_be_settled_is_said_at_once():
    async with WorkerHarness(Shop) as harness:
        elsewhere = await harness.publish(1, "mail")
        with pytest.raises(AssertionError, match="was published to 'mail': worker shop consumes orders"):
            await harness.settled(elsewhere)
        with pytest.raises(AssertionError, match="no message with the id 'nobody'"):
            await harness.outcome("nobody")
        harness.worker.pause()
        waiting = await harness.publish(1)
        with pytest.raises(TimeoutError, match="worker shop is paused; attempts 0, last outcome none"):
            await harness.settled(waiting, timeout=0.05)
        await harness.drain()
        with pytest.raises(AssertionError, match="worker shop is stopped"):
            await harness.settled(waiting)


# Its life


async def test_a_drain_lets_handlers_finish_and_runs_the_hooks():
    async with WorkerHarness(Gate) as harness:
        message_id = await harness.publish(1)
        await harness.worker.begun.wait()
        stopping = harness.drain()
        harness.worker.open.set()
        await stopping
        assert harness.worker.state is WorkerState.STOPPED
        assert harness.worker.story == ["up", f"done {message_id}", "down"]
        assert (await harness.outcome(message_id)).kind == "ack"


async def test_a_drain_interrupts_what_does_not_end_without_waiting_for_real():
    async with WorkerHarness(Gate, drain_timeout_seconds=200) as harness:
        message_id = await harness.publish(1)
        await harness.worker.begun.wait()
        await harness.drain(timeout=0)
        assert harness.worker.state is WorkerState.STOPPED
        assert (await harness.outcome(message_id)).kind == "release"


async def test_a_stopped_worker_starts_again():
    async with WorkerHarness(Shop) as harness:
        await harness.drain()
        message_id = await harness.publish(1)
        await harness.start()
        assert (await harness.settled(message_id)).kind == "ack"


async def test_a_crash_in_mid_message_delivers_it_again_uncounted():
    async with WorkerHarness(Gate) as harness:
        message_id = await harness.publish(1)
        killed = harness.worker
        await killed.begun.wait()
        await harness.crash()
        assert killed.story == ["up"]
        assert harness.worker is not killed
        await harness.worker.begun.wait()
        harness.worker.open.set()
        assert (await harness.settled(message_id)).kind == "ack"
        assert harness.attempts(message_id) == 1
        assert harness.worker.story == ["up", f"done {message_id}"]


async def test_a_crash_runs_nothing_of_an_orderly_stop():
    class Careful(Gate):
        closed: list[str] = []

        async def on_startup(self) -> None:
            self.exit_stack.callback(self.closed.append, "exit_stack")
            self.background = asyncio.create_task(asyncio.Event().wait())

        async def on_shutdown(self) -> None:
            self.closed.append("on_shutdown")

    async with WorkerHarness(Careful) as harness:
        killed = harness.worker
        await harness.crash()
        assert Careful.closed == []
        assert killed.background.cancelled()
    assert Careful.closed == ["on_shutdown", "exit_stack", "exit_stack"]  # the second's, and then what the first left


async def test_a_retry_that_waits_survives_a_crash():
    async with WorkerHarness(Shop) as harness:
        message_id = await harness.publish({"fail": 1})
        await harness.outcome(message_id)
        await harness.crash()
        assert (await harness.settled(message_id)).kind == "ack"
        assert harness.attempts(message_id) == 2


async def test_a_cut_connection_is_made_again():
    async with WorkerHarness(Shop) as harness:
        await harness.settled(await harness.publish(1))
        harness.broker.cut()
        message_id = await harness.publish(2)
        await harness.advance(60)
        assert (await harness.settled(message_id)).kind == "ack"


async def test_a_settlement_that_the_broker_refuses_is_asked_again_in_virtual_time():
    async with WorkerHarness(Shop) as harness:
        answers = [Settled.REFUSED] * 3
        harness.faults.settle = lambda _settlement: answers.pop() if answers else None
        assert (await harness.settled(await harness.publish(1))).kind == "ack"
        assert answers == []


async def test_what_keeps_a_worker_from_starting_is_raised():
    class Broken(Worker):
        async def on_startup(self) -> None:
            raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        async with WorkerHarness(Broken):
            pytest.fail("it must not run")


async def test_what_ends_a_worker_is_raised_at_the_end():
    harness = WorkerHarness(Shop)
    await harness.start()
    await harness.worker.stop()
    await harness.close()
    await harness.close()
    assert harness.worker.state is WorkerState.STOPPED


# Isolation


async def test_nothing_of_this_machine_reaches_the_worker(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    (workdir / "config").mkdir()
    (workdir / "config" / "pythia.toml").write_text("concurrency = 3\n")
    monkeypatch.setenv("PYTHIA_CONCURRENCY", "4")
    monkeypatch.setenv("PYTHIA_NO_SUCH_KEY", "1")
    async with WorkerHarness(Shop) as harness:
        assert harness.worker.config.concurrency == 10
        assert list(workdir.iterdir()) == [workdir / "config"]
    monkeypatch.delenv("PYTHIA_NO_SUCH_KEY")
    async with WorkerHarness(Shop, config=WorkerConfig()) as harness:
        assert harness.worker.config.concurrency == 4
        assert (await harness.settled(await harness.publish(1))).kind == "ack"
        assert list(workdir.iterdir()) == [workdir / "config"]


async def test_an_override_that_cannot_be_used_is_refused():
    with pytest.raises(ConfigError, match="concurrancy"):
        WorkerHarness(Shop, concurrancy=1)
    with pytest.raises(TypeError, match="not both"):
        WorkerHarness(Shop, config=WorkerConfig(), concurrency=1)


async def test_it_is_quiet_and_leaves_logging_as_it_was(capfd: pytest.CaptureFixture[str]):
    root = logging.getLogger()
    before = (root.level, list(root.handlers), structlog.is_configured())
    async with WorkerHarness(Shop, retry={"max_attempts": 1}) as harness:
        harness.worker.logger.error("a line")
        await harness.settled(await harness.publish({"fail": 1}))
    assert (root.level, list(root.handlers), structlog.is_configured()) == before
    assert capfd.readouterr() == ("", "")


async def test_two_harnesses_share_nothing():
    async with WorkerHarness(Shop) as one, WorkerHarness(Shop) as other:
        await one.settled(await one.publish(1))
        assert other.published("receipts") == []


async def test_a_function_is_tested_by_its_worker_class():
    @handler("mail")
    async def on_mail(message: Message[int]) -> None:
        if message.body < 0:
            raise Reject("negative")

    async with WorkerHarness(on_mail.worker_class) as harness:
        assert (await harness.settled(await harness.publish(-1))).kind == "dead_letter"
        assert (await harness.settled(await harness.publish("one"))).dead_reason == "invalid"


# The other ways in


async def test_the_fixture_makes_running_workers(harness):
    one = await harness(Shop, concurrency=1)
    other = await harness(Gate)
    assert (one.worker.state, other.worker.state) == (WorkerState.RUNNING, WorkerState.RUNNING)
    assert one.worker.config.concurrency == 1


async def test_a_handler_is_called_directly_with_a_message_made_by_hand():
    message = make_message({"sku": "a"}, id="7", headers={"x": "y"}, attempt=3)
    assert (message.body, message.id, message.headers["x"], message.attempt) == ({"sku": "a"}, "7", "y", 3)
    with pytest.raises(NotDelivered):
        await message.ack()


class TestTheCase(WorkerTestCase):
    worker_class = Gate
    config = WorkerConfig(worker_name="gate", log={"level": "critical"})

    async def test_start_returns_at_running_and_stop_at_stopped(self):
        await self.worker.start()
        assert self.worker.state == WorkerState.RUNNING
        await self.worker.stop()
        assert self.worker.state == WorkerState.STOPPED
        assert self.worker.story == ["up", "down"]

    async def test_the_handle_stands_for_the_worker(self):
        assert isinstance(self.worker, Gate)
        assert self.worker.name == "gate"
        self.worker.note = 7
        assert self.harness.worker.note == 7

    async def test_messages_are_published_and_settled(self):
        await self.worker.start()
        self.worker.open.set()
        message_id = await self.harness.publish(1)
        assert (await self.harness.settled(message_id)).kind == "ack"

    async def test_a_message_made_by_hand(self):
        self.worker.open.set()
        await self.worker.process_message(self.create_test_message({"a": 1}, id="7"))
        assert self.worker.story == ["done 7"]

    async def test_a_worker_that_is_left_running_is_stopped(self):
        await self.worker.start()
        self.addCleanup(lambda: None)


def test_the_case_stops_what_a_test_left_running():
    cases = []

    class Left(WorkerTestCase):
        async def test_nothing(self):
            cases.append(self)
            await self.worker.start()

    result = Left("test_nothing").run()
    assert result is not None
    assert result.wasSuccessful()
    assert cases[0].worker.state is WorkerState.STOPPED


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=ENDED * 3,
        check=False,
    )


def test_the_kit_needs_no_pytest(tmp_path: Path):
    result = run_python(
        """
        import sys
        sys.modules["pytest"] = sys.modules["pytest_asyncio"] = None
        del sys.modules["pytest"]
        import pythia.utils.testing
        assert "pytest" not in sys.modules and not hasattr(pythia.utils.testing, "harness")
        """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("options", [["-p", "no:asyncio"], ["-o", "asyncio_default_fixture_loop_scope=function"]])
def test_the_plugin_loads_with_and_without_pytest_asyncio(tmp_path: Path, options: list[str]):
    (tmp_path / "conftest.py").write_text('import pythia.utils.testing\npytest_plugins = ["pythia.utils.testing"]\n')
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
