"""``Supervisor`` and ``Server`` from Python: what can be added, and what lives in this process."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from pythia import Supervisor, Worker, handler
from pythia.errors import LifecycleError, TargetError
from pythia.supervisor import Server, inside


class Orders(Worker):
    """At the top of a module."""


@handler("mails")
async def on_mail(message: Any) -> None:
    """So is this."""


class Loop:
    """What the pages of background workers have: a thread with ``start``, ``stop`` and ``join``."""

    def __init__(self, name: str) -> None:
        self.name, self.ran, self.torn_down = name, threading.Event(), False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main)

    def _main(self) -> None:
        self.ran.set()
        self._stop.wait()
        self.torn_down = True

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)


def test_server_is_the_other_name() -> None:
    assert Server is Supervisor
    assert Server(name="MyServer").name == "MyServer"


def test_a_class_and_a_function_can_be_added_as_often_as_one_likes() -> None:
    supervisor = Supervisor().add(Orders, processes=2).add(on_mail).add(Orders)
    posts = supervisor._posts
    assert [(post.target.rpartition(":")[2], post.processes) for post in posts] == [
        ("Orders", 2),
        ("on_mail", 1),
        ("Orders", 1),
    ]
    assert len({post.key for post in posts}) == 3


def test_what_another_process_could_not_import_is_refused_when_it_is_added() -> None:
    class Local(Worker):
        pass

    with pytest.raises(TargetError, match="cannot be imported by another process"):
        Supervisor().add(Local)
    with pytest.raises(TargetError, match="is no Worker class"):
        Supervisor().add(print)
    with pytest.raises(ValueError, match="at least 1"):
        Supervisor().add(Orders, processes=0)
    with pytest.raises(TypeError, match="add the class Orders"):
        Supervisor().add_worker(Orders())
    with pytest.raises(TypeError, match="has no start"):
        Supervisor().add_worker(3)


def test_start_stop_and_join_all_are_for_what_lives_here() -> None:
    server = Server(name="MyServer")
    loops = [Loop("a"), Loop("b")]
    for loop in loops:
        server.add_worker(loop)
    server.start()
    assert all(loop.ran.wait(30) for loop in loops)
    server.stop()
    server.join_all(timeout=5.0)
    assert [loop.torn_down for loop in loops] == [True, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_forever_stops_all_at_a_signal_and_puts_the_handlers_back(number: int) -> None:
    before = signal.getsignal(number)
    server, loop = Server(), Loop("a")
    server.add_worker(loop)
    threading.Thread(target=lambda: loop.ran.wait(30) and os.kill(os.getpid(), number)).start()
    assert server.run_forever() == 0
    assert loop.torn_down
    assert signal.getsignal(number) is before


def test_a_stop_from_another_thread_ends_it() -> None:
    server, loop = Server(), Loop("a")
    server.add_worker(loop)
    threading.Thread(target=lambda: loop.ran.wait(30) and server.stop()).start()
    assert server.run() == 0


def test_a_process_of_a_supervisor_starts_none(monkeypatch) -> None:
    monkeypatch.setattr(inside, "_here", [True])
    with pytest.raises(TargetError, match="guard the call"):
        Supervisor().add(Orders).run()


@pytest.mark.timeout(180)
def test_processes_can_be_started_and_stopped_beside_other_work(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHIA_BROKER__URL", f"sqlite:///{tmp_path}/q.db")
    monkeypatch.setenv("PYTHIA_HTTP__ENABLED", "false")
    supervisor = Supervisor(drain_timeout_seconds=20).add(Orders)
    supervisor.start()
    with pytest.raises(LifecycleError, match="runs already"):
        supervisor.start()
    supervisor.stop()
    supervisor.join_all(timeout=60)
    assert supervisor._thread is None
