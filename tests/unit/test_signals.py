"""Signals: over default dispositions only, put back at the end, noticed by an idle loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from pythia import Worker, signals
from pythia.config import WorkerConfig
from tests.unit.core_kit import until

ROOT = Path(__file__).parents[2]
ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGWINCH)


@pytest.fixture(autouse=True)
def dispositions():
    """Each test begins with the defaults, and leaves what it found."""
    former = {number: signal.getsignal(number) for number in ALL}
    for number in ALL:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def found() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in ALL}


async def test_each_signal_calls_its_action_and_all_is_put_back_at_the_end():
    before, seen = found(), []
    loop = asyncio.get_running_loop()
    with signals.installed(loop, {signal.SIGUSR1: lambda: seen.append(1), signal.SIGTERM: lambda: seen.append(2)}):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: sorted(seen) == [1, 2])
    assert found() == before


async def test_a_handler_of_the_users_own_is_left_alone():
    def mine(_number, _frame):
        seen.append("mine")

    seen: list[str] = []
    signal.signal(signal.SIGTERM, mine)
    with signals.installed(asyncio.get_running_loop(), {signal.SIGTERM: lambda: seen.append("ours")}):
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: seen)
    assert seen == ["mine"]
    assert signal.getsignal(signal.SIGTERM) is mine


async def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals.installed(asyncio.get_running_loop(), {signal.SIGHUP: lambda: None}):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


async def test_an_idle_loop_notices_at_once():
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    with signals.installed(loop, {signal.SIGUSR2: lambda: loop.call_soon(arrived.set)}):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        await asyncio.wait_for(arrived.wait(), 5)


async def test_what_asyncio_puts_over_sigint_is_a_default_too():
    class Runner:
        def _on_sigint(self, number, frame, main_task=None):
            raise AssertionError("asyncio's own")

    seen: list[int] = []
    signal.signal(signal.SIGINT, functools.partial(Runner()._on_sigint, main_task=None))
    with signals.installed(asyncio.get_running_loop(), {signal.SIGINT: lambda: seen.append(1)}):
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: seen)


def test_outside_the_main_thread_nothing_happens():
    before, errors = found(), []

    def elsewhere():
        async def enter():
            with signals.installed(asyncio.get_running_loop(), {signal.SIGTERM: lambda: None}):
                assert found() == before
            with signals.early():
                assert found() == before

        try:
            asyncio.run(enter())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []


async def test_a_reload_signal_before_the_worker_is_ready_is_remembered_and_acted_on():
    seen: list[str] = []
    before = found()
    with signals.early():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        with signals.installed(asyncio.get_running_loop(), {signal.SIGUSR1: lambda: seen.append("reload")}):
            assert seen == ["reload"]
        with signals.installed(asyncio.get_running_loop(), {signal.SIGUSR1: lambda: seen.append("again")}):
            assert seen == ["reload"]
    assert found() == before


def test_a_stop_signal_before_anything_has_begun_ends_the_process_with_0():
    code = textwrap.dedent("""
        import os, signal
        from pythia import signals
        with signals.early():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")
    """)
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=30).returncode == 0


SERVICE = """
import asyncio, os, signal, sys
from pythia.config import WorkerConfig
from pythia.core.worker import Worker

class Works(Worker):
    async def on_startup(self):
        await self.publish("default", {})
    async def process_message(self, message):
        print("begun", flush=True)
        BODY
    async def on_shutdown(self):
        print("bye", flush=True)

config = WorkerConfig.load(os.devnull, **{"broker.url": "memory://", "http.enabled": False, "log.level": "critical",
                                          "drain_timeout_seconds": DRAIN})
sys.exit(Works(config).run())
"""


def run_until_begun(body: str, drain: float = 20) -> subprocess.Popen[str]:
    code = SERVICE.replace("BODY", body).replace("DRAIN", str(drain))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", signals.STOP)
def test_a_stop_signal_lets_running_handlers_finish_and_ends_with_0(number):
    process = run_until_begun("await message.stopping.wait()")
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("bye\n", 0)


def test_the_collector_looks_less_often_in_a_process_that_is_the_workers_own():
    process = run_until_begun(
        "import gc; print(gc.get_freeze_count() > 0, gc.get_threshold()[0] >= 10_000); self.stop()"
    )
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("True True\nbye\n", 0)


async def test_the_collector_is_left_alone_in_somebody_elses_process():
    before = gc.get_threshold(), gc.get_freeze_count()

    class Embedded(Worker):
        pass

    config = WorkerConfig.load(os.devnull, **{"broker.url": "memory://collector", "log.level": "critical"})
    async with Embedded(config).running():
        assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_a_second_signal_hurries_and_what_was_unfinished_is_75():
    process = run_until_begun(
        "await message.stopping.wait(); print('draining', flush=True); await asyncio.Event().wait()"
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=15)  # well before three quarters of the deadline, which is 15 s
    assert (out, process.returncode) == ("bye\n", 75)


def test_a_first_signal_after_a_stop_by_other_means_does_not_hurry():
    body = (
        "self.stop(); await message.stopping.wait(); os.kill(os.getpid(), signal.SIGTERM); "
        "[await asyncio.sleep(0.01) for _ in range(20)]; print('finished', flush=True)"
    )
    process = run_until_begun(body)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("finished\nbye\n", 0)


@pytest.mark.parametrize(
    "body",
    ["import time; time.sleep(100)", "await asyncio.to_thread(__import__('time').sleep, 100)"],
    ids=["blocked loop", "blocked thread"],
)
def test_a_handler_that_never_returns_ends_the_process_at_the_deadline_with_75(body):
    process = run_until_begun(body, drain=1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_a_thread_that_a_timeout_left_behind_does_not_keep_the_process_from_ending():
    code = SERVICE.replace(
        "async def process_message(self, message):",
        "handler_timeout_seconds = 0.2\n    def process_message(self, message):",
    )
    code = code.replace("BODY", "__import__('time').sleep(100)").replace("DRAIN", "20")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2  # the second try: the first was timed out
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=15)
    assert (out, process.returncode) == ("bye\n", 75)
