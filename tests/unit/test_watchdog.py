"""The watch on the event loop: that it says what blocks it, and nothing else."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from pythia.core.events import LoopBlocked
from pythia.message import Delivery, Envelope
from pythia.observability import watchdog
from pythia.observability.watchdog import LOOK_EVERY_SECONDS, Watchdog, where


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def status(clock):
    return SimpleNamespace(heartbeat=clock.now, blocked=None)


def delivery(id="m-1"):
    return Delivery(Envelope(b"", id=id), queue="orders", token=None, first_seen=0.0)


def watching(status, clock, stepping=lambda: None, *, thread_id=None):
    events = []
    watch = Watchdog(status, events.append, thread_id or threading.get_ident(), stepping, clock=clock)

    def pass_time(seconds, *, turning=False):
        for _ in range(round(seconds / LOOK_EVERY_SECONDS)):
            clock.now += LOOK_EVERY_SECONDS
            if turning:
                status.heartbeat = clock.now
            watch.look()

    return watch, events, pass_time


def test_a_loop_that_turns_is_left_alone(status, clock):
    _, events, pass_time = watching(status, clock)
    pass_time(10, turning=True)
    assert events == []
    assert status.blocked is None


def test_a_standstill_of_a_second_is_told_with_the_message_and_the_line(status, clock):
    _, events, pass_time = watching(status, clock, delivery)
    pass_time(0.75)
    assert events == []
    pass_time(0.25)
    (event,) = events
    assert isinstance(event, LoopBlocked)
    assert event.seconds == 1.0
    assert event.delivery.envelope.id == "m-1"
    assert "test_watchdog.py:" in event.where
    assert (status.blocked.message_id, status.blocked.queue, status.blocked.seconds) == ("m-1", "orders", 1.0)


def test_one_standstill_is_told_at_growing_intervals_while_its_length_is_kept_up_to_date(status, clock):
    _, events, pass_time = watching(status, clock)
    pass_time(200)
    assert [event.seconds for event in events] == [1, 10, 30, 60, 120, 180]
    assert status.blocked.seconds == 200


def test_when_the_loop_turns_again_it_is_taken_back_and_the_next_standstill_is_told_anew(status, clock):
    _, events, pass_time = watching(status, clock)
    pass_time(2)
    pass_time(1, turning=True)
    assert status.blocked is None
    pass_time(2)
    assert [event.seconds for event in events] == [1, 1]


def test_a_process_that_was_stopped_as_a_whole_is_no_blocked_loop(status, clock):
    watch, events, pass_time = watching(status, clock)
    clock.now += 300  # SIGSTOP, a suspended machine: nobody looked in the meantime
    watch.look()
    pass_time(2, turning=True)
    assert events == []
    assert status.blocked is None


def test_a_loop_whose_thread_has_ended_is_not_blocked(status, clock):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    _, events, pass_time = watching(status, clock, thread_id=-1)
    pass_time(5)
    assert events == []


def test_an_engine_that_cannot_say_which_message_it_is_does_not_silence_the_rest(status, clock):
    def stepping():
        raise RuntimeError("dictionary changed size during iteration")

    _, events, pass_time = watching(status, clock, stepping)
    pass_time(1)
    assert events[0].delivery is None


def test_the_thread_sees_another_thread_standing_still_and_stops_when_told(status):
    status.heartbeat = time.monotonic() - 5
    release, told = threading.Event(), threading.Event()
    events = []

    def handler():
        release.wait(30)

    blocked = threading.Thread(target=handler)
    blocked.start()
    watch = Watchdog(status, lambda event: (events.append(event), told.set()), blocked.ident, lambda: None)
    try:
        watch.start()
        watch.start()
        assert told.wait(10)
        assert events[0].where.endswith("in handler")
        assert status.blocked is not None
    finally:
        watch.stop()
        watch.stop()
        release.set()
        blocked.join()
    assert status.blocked is None
    assert "pythia-watchdog" not in {thread.name for thread in threading.enumerate()}


def test_stop_before_start_is_nothing(status, clock):
    Watchdog(status, lambda event: None, 1, lambda: None, clock=clock).stop()


# Whose line it is


def stack(*calls):
    """``where`` of a stack of these (file, function), outermost first, each compiled as if it were there."""
    namespace = {"look": lambda: where(sys._getframe(1))}
    inner = "look"
    for file, name in reversed(calls):
        exec(compile(f"def {name}():\n    return {inner}()\n", file, "exec"), namespace)
        inner = name
    return namespace[inner]()


LOOP = (f"{watchdog._ASYNCIO}/base_events.py", "_run_once")
PYTHIA = (f"{watchdog._PYTHIA}/core/stepping.py", "drive")
LIBRARY = ("/venv/lib/python3.11/site-packages/requests/api.py", "get")
PYTHON = (f"{watchdog._PATHS['stdlib']}/ssl.py", "read")
USER = ("/srv/shop/worker.py", "process_message")
INSTALLED = ("/venv/lib/python3.11/site-packages/shop/worker.py", "process_message")


@pytest.mark.parametrize(
    ("calls", "named"),
    [
        ([PYTHIA, USER], "/srv/shop/worker.py:2 in process_message"),
        ([PYTHIA, USER, LIBRARY, PYTHON], "/srv/shop/worker.py:2 in process_message"),
        (
            [PYTHIA, USER, (f"{watchdog._PYTHIA}/publisher.py", "publish"), PYTHON],
            "/srv/shop/worker.py:2 in process_message",
        ),
        (
            [PYTHIA, INSTALLED, LIBRARY, PYTHON],
            "/venv/lib/python3.11/site-packages/shop/worker.py:2 in process_message",
        ),
        (
            [PYTHIA, (f"{watchdog._PYTHIA}/examples/integrity.py", "process_message")],
            "integrity.py:2 in process_message",
        ),
        ([PYTHIA, PYTHON], "ssl.py:2 in read"),
    ],
)
def test_the_line_named_is_the_users_own(calls, named):
    assert stack(LOOP, *calls).endswith(named)


def test_the_script_that_runs_the_worker_is_not_blamed_for_what_the_loop_does():
    assert stack(("/srv/shop/main.py", "main"), LOOP, PYTHIA, PYTHON).endswith("ssl.py:2 in read")


def test_a_file_below_the_current_directory_is_named_relative_to_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert stack(LOOP, PYTHIA, (f"{tmp_path}/shop/worker.py", "f")) == "shop/worker.py:2 in f"
