"""Handlers that do what no handler should to their process: the worker goes on, or ends with a word, and nothing is lost."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

import pytest

from tests.acceptance.service_kit import until
from tests.faults import probes
from tests.faults.effects import HANDLER
from tests.faults.probes import QUEUE, QUICK

MISCHIEF = (
    HANDLER
    + """
import gc, signal, subprocess, sys, threading, warnings

async def for_ever():
    await asyncio.Event().wait()

def leaves_tasks():
    for _ in range(100):
        asyncio.get_running_loop().create_task(for_ever())

def forks():
    child = os.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", ""])
    os.waitpid(child, 0)

def recurses():
    recurses()

def goes_elsewhere():
    os.mkdir("elsewhere")
    os.chdir("elsewhere")

def dies_in_a_thread():
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()

def closes_what_it_reads():
    os.close(0)

def takes_a_signal():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

def clears_the_environment():
    os.environ.clear()

def replaces_standard_streams():
    sys.stderr = sys.stdout = None

class App(Worker):
    concurrency = 4
    retry = RetryPolicy(max_attempts=1)

    async def process_message(self, message):
        note("start", message)
        if isinstance(message.body, str):
            globals()[message.body]()
        note("end", message)
"""
)
DEEDS = [
    *("leaves_tasks", "forks", "recurses", "goes_elsewhere", "dies_in_a_thread", "closes_what_it_reads"),
    *("takes_a_signal", "clears_the_environment"),
]


def test_what_handlers_do_to_their_process_harms_no_other_message_and_no_stop(tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, f"sqlite:///{tmp_path}/queue.db", MISCHIEF)
    with place.running("--port", "0", **QUICK) as service:
        deeds = place.publish(QUEUE, list(DEEDS))
        until(lambda: set(deeds) <= set(probes.runs(place)), "all of them are begun")
        names = place.publish(QUEUE, list(range(50)))
        until(lambda: set(names) <= probes.handled(place), "the others are handled")
        assert probes.is_ready(service)
        assert service.stop() == 0
        assert "bug of Pythia" not in "".join(service.text)
    assert [letter["error"]["type"] for letter in place.dead(QUEUE)] == ["RecursionError"]
    assert place.rows("SELECT count(*) FROM messages") == [(0,)]
    assert len(probes.runs(place)) == len(set(probes.runs(place)))


STOPS_THE_LOOP = (
    HANDLER
    + """
class App(Worker):
    concurrency = 1

    async def process_message(self, message):
        note("start", message)
        if message.body == "stop" and not os.path.exists("once"):
            open("once", "w").close()
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0.1)
        note("end", message)
"""
)


def test_a_handler_that_stops_the_loop_ends_the_process_and_its_message_comes_again(tmp_path: Path) -> None:
    """The loop is the user's to stop; what was in hand is not lost with it."""
    place = probes.place_of(tmp_path, f"sqlite:///{tmp_path}/queue.db", STOPS_THE_LOOP)
    with place.running(**QUICK) as first:
        names = place.publish(QUEUE, ["stop", "other"])
        assert first.ended() not in {0, None}
    with place.running(**QUICK) as second:
        until(lambda: set(names) <= probes.handled(place), "both are handled")
        until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "and settled")
        assert second.stop() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux lets one process limit another")
def test_a_process_without_a_file_descriptor_left_works_on_and_answers_again_once_it_has_some(tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, f"sqlite:///{tmp_path}/queue.db")
    with place.running("--port", "0", **QUICK) as service:
        probes.handles(place)
        where = service.url.rpartition(":")[2]
        was = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        used = max(int(path.name) for path in Path(f"/proc/{service.pid}/fd").iterdir())
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (used + 1, was[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(20):  # those that it takes use up what there is
                address = ("127.0.0.1", int(where))
                unanswered = stack.enter_context(socket.create_connection(address, timeout=1.0))
                unanswered.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            (name,) = place.publish(QUEUE, [1])
            with pytest.raises(TimeoutError):
                unanswered.recv(1)
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, was)
        until(lambda: _answers(service), "it answers again")
        until(lambda: name in probes.handled(place), "what was published meanwhile is handled")
        told = [line for line in service.lines if "Too many open files" in str(line)]
        assert [line["event"] for line in told] == ["worker.notice"], "one line, not a hundred a second"
        assert service.stop() == 0


def _answers(service) -> bool:
    try:
        return probes.is_ready(service)
    except OSError:
        return False
