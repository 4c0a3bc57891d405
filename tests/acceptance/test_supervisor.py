"""Many processes under one ``pythia run``: kills, stops, crash loops, signals, one port, as an operator sees them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.service_kit import NOTE, PYTHIA, Place, Service, assert_one_clear_line, until

QUICK = {"PYTHIA_LEASE_SECONDS": "2"}

APP = f"""{NOTE}
class App(Worker):
    async def process_message(self, message):
        note("begun", message.body)
        self.metrics.counter("seen_total").inc()
        self.metrics.histogram("size").observe(3)
        await asyncio.sleep(0.05)
        note("done", message.body)
"""


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], Place]:
    return lambda module: Place(tmp_path, module)


@contextmanager
def supervised(
    place: Place, *arguments: str, running: int, target: str = "app:App", **environment: str
) -> Iterator[Service]:
    """Inside, all processes consume; nothing of it is left afterwards."""
    service = place.start("--port", "0", *arguments, target=target, **environment)
    try:
        service.wait_for("consumer.registered", count=running)
        yield service
    finally:
        pids = started(service)
        service.kill()
        try:
            until(lambda: not any(map(alive, pids)), "its processes are gone")
        finally:
            for pid in filter(alive, pids):
                os.kill(pid, signal.SIGKILL)


def started(service: Service) -> list[int]:
    """The pid of every process that was ever started."""
    return [line["pid"] for line in service.events("process.started")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def living(service: Service) -> list[int]:
    return [pid for pid in started(service) if alive(pid)]


def processes(service: Service) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = service.health()["processes"]
    return answer


def settled(service: Service, count: int) -> bool:
    """Whether so many processes run and each says so."""
    return [process["state"] for process in processes(service)] == ["running"] * count


def sums(service: Service) -> dict[tuple[str, ...], float]:
    """Every sample that must not go backwards."""
    families = text_string_to_metric_families(service.ask("/metrics")[1])
    return {
        (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
        for family in families
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


def value(service: Service, name: str, **labels: str) -> float:
    wanted = (name, *map(str, sorted(labels.items())))
    return sums(service).get(wanted, 0.0)


def post(service: Service, path: str) -> tuple[int, Any]:
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-X", "POST", service.url + path],
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, code = done.stdout.rpartition("\n")
    return int(code), json.loads(body)


# -- the death of a process --------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_kill_9_of_any_of_four_processes_is_healed_nothing_is_lost_and_no_counter_goes_backwards(place) -> None:
    here = place(APP)
    bodies = list(range(400))
    here.publish("default", bodies)
    backwards: list[str] = []
    over = threading.Event()

    def scrape(service: Service) -> None:
        before: dict[tuple[str, ...], float] = {}
        while not over.wait(0.1):
            now = sums(service)
            backwards.extend(
                f"{key}: {before[key]} → {now.get(key)}" for key in before if now.get(key, -1) < before[key]
            )
            before = now

    with supervised(here, "-p", "4", "-c", "2", running=4, **QUICK) as service:
        scraper = threading.Thread(target=scrape, args=(service,))
        scraper.start()
        try:
            for victim in started(service)[:4]:
                os.kill(victim, signal.SIGKILL)
            service.wait_for("process.started", count=8)
            until(
                lambda: len({line for line in here.ledger() if line.startswith("done")}) == len(bodies), "all is done"
            )
            until(lambda: settled(service, 4), "all four run again")
        finally:
            over.set()
            scraper.join()
        assert backwards == []
        deaths = service.events("process.died")
        assert [death["code_or_signal"] for death in deaths] == ["SIGKILL"] * 4
        assert sorted(death["slot"] for death in deaths) == [0, 1, 2, 3]
        assert value(service, "pythia_process_restarts_total", worker="app", reason="signal") == 4
        assert service.stop() == 0
    assert here.depth()["ready"] == here.depth()["dead"] == 0


def test_one_port_tells_of_all(place) -> None:
    here = place(APP)
    with supervised(here, "-p", "3", running=3) as service:
        here.publish("default", list(range(60)))
        done = lambda: value(service, "pythia_messages_processed_total", worker="app", queue="default", outcome="ack")
        until(lambda: done() == 60, "the sums of all")
        assert value(service, "seen_total", worker="app") == 60
        assert value(service, "size_count", worker="app") == 60
        health = service.health()
        assert (health["status"], health["state"], health["pid"]) == ("ok", "running", service.pid)
        assert sorted(process["pid"] for process in health["processes"]) == sorted(started(service))
        assert health["messages"]["ack"] == 60 == sum(process["messages"]["ack"] for process in health["processes"])
        assert {line["worker_id"] for line in service.events("worker.running")} == {
            process["worker_id"] for process in health["processes"]
        }
        for path in ("/livez", "/readyz", "/startupz"):
            assert (service.ask(path)[0], json.loads(service.ask(path)[1])["ok"]) == (200, True)
        listening = (
            subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True, check=True).stdout
            if shutil.which("ss")
            else ""
        )
        assert not any(f"pid={pid}," in listening for pid in started(service))
        assert service.stop() == 0


def test_a_process_that_is_frozen_makes_the_service_not_ready_and_names_itself(place) -> None:
    here = place(APP)
    with supervised(here, "-p", "2", running=2) as service:
        frozen = started(service)[1]
        here.freeze(frozen)
        code, text = service.ask("/readyz", deadline=20)
        assert code == 503
        assert f"pid {frozen}" in text
        assert [process["status"] for process in processes(service)] == ["ok", "failed"]
        os.kill(frozen, signal.SIGCONT)
        until(lambda: service.ask("/readyz")[0] == 200, "ready again")


POISON = f"""{NOTE}
class App(Worker):
    async def process_message(self, message):
        note("begun", message.body)
        if message.body == "killer":
            os._exit(1)
        note("done", message.body)
"""


def test_a_message_that_kills_its_process_is_found_out_by_the_processes_together(place) -> None:
    here = place(POISON)
    with supervised(here, "-p", "2", running=2, XDG_STATE_HOME=str(here.directory), **QUICK) as service:
        here.publish("default", ["killer", *range(20)])
        until(lambda: len(set(here.ledger())) == 41, "the others are done")
        until(lambda: [item["reason"] for item in here.dead()] == ["poison"], "it is set aside")
        assert here.ledger().count("begun killer") <= 3
        until(lambda: settled(service, 2), "both run")
        assert service.stop() == 0


def test_a_crash_loop_ends_with_70_and_the_reason_after_the_others_have_drained(place) -> None:
    here = place(
        APP
        + """
class Broken(Worker):
    queue = "broken"
    async def on_startup(self):
        raise RuntimeError("no licence")
"""
    )
    service = here.start("--port", "0", target="app:App app:Broken")
    assert service.ended(120) == 70
    (loop,) = service.events("process.crash_loop")
    assert "no licence" in loop["cause"]
    assert loop["deaths"] == 5
    (stopped,) = [line for line in service.events("worker.stopped") if line["worker"] == "app"]
    assert stopped["exit_code"] == 0
    waits = [line["restart_in_seconds"] for line in service.events("process.died")]
    assert [wait is not None for wait in waits] == [True, True, True, True, False]
    assert waits[0] < waits[1] < waits[2] < waits[3]
    assert living(service) == []


@pytest.mark.parametrize(
    ("module", "target", "environment", "code", "words"),
    [
        ("raise ValueError('boom')", "app:App", {}, 64, "importing app raised ValueError: boom"),
        (APP, "app:Nobody", {}, 64, "no 'Nobody'"),
        (APP, "app:App", {"PYTHIA_CONCURENCY": "3"}, 78, "PYTHIA_CONCURRENCY"),
        (APP, "app:App", {"PYTHIA_PROCESSES": "many"}, 78, "whole number"),
    ],
)
def test_what_a_start_again_does_not_heal_is_one_line_and_its_exit_code(
    place, module: str, target: str, environment: dict[str, str], code: int, words: str
) -> None:
    arguments = [] if "PYTHIA_PROCESSES" in environment else ["-p", "3"]
    done = place(module).command("run", target, *arguments, "--no-http", "--log-format", "json", **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert_one_clear_line(done.stderr, re.escape(words))


def test_a_port_that_was_set_and_is_busy_is_exit_69(place) -> None:
    here = place(APP)
    with supervised(here, "-p", "2", running=2) as service:
        port = service.url.rpartition(":")[2]
        done = here.command("run", "app:App", "-p", "2", "--port", port)
        assert done.returncode == 69
        assert_one_clear_line(done.stderr, f"http.port {port} .* is in use")


# -- the stop ----------------------------------------------------------------------------------------------------------


def test_sigterm_drains_all_four_and_ends_with_0(place) -> None:
    here = place(APP.replace("0.05", "1.0"))
    with supervised(here, "-p", "4", "-c", "2", running=4) as service:
        here.publish("default", list(range(40)))
        until(lambda: len(here.ledger()) >= 8, "handlers run")
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 25
    lines = [line.split() for line in here.ledger()]
    begun = sorted(body for word, body in lines if word == "begun")
    assert begun == sorted(body for word, body in lines if word == "done")
    assert len(service.events("worker.stopped")) == 4
    assert here.depth()["ready"] == 40 - len(begun)


STUCK = f"""{NOTE}
class App(Worker):
    async def process_message(self, message):
        note("begun", message.body)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
"""


def test_what_cannot_end_is_handed_back_at_the_one_deadline_and_the_exit_code_is_75(place) -> None:
    here = place(STUCK)
    with supervised(here, "-p", "2", "-c", "1", running=2, PYTHIA_DRAIN_TIMEOUT_SECONDS="3") as service:
        here.publish("default", [1, 2])
        until(lambda: len(here.ledger()) == 2, "both are stuck")
        began = time.monotonic()
        assert service.stop() == 75
        assert time.monotonic() - began < 20
        assert len(service.events("drain.released")) == 2


def test_a_process_that_does_not_even_hear_sigterm_is_killed_after_the_deadline(place) -> None:
    deaf = """
import signal
from pythia import Worker
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
class App(Worker):
    pass
"""
    with supervised(place(deaf), "-p", "2", running=2, PYTHIA_DRAIN_TIMEOUT_SECONDS="1") as service:
        assert service.stop() == 75
        assert [line["code_or_signal"] for line in service.events("process.died")] == ["SIGKILL", "SIGKILL"]


def test_a_second_signal_hurries(place) -> None:
    here = place(STUCK.replace("pass", "raise"))
    with supervised(here, "-p", "2", "-c", "1", running=2, PYTHIA_DRAIN_TIMEOUT_SECONDS="60") as service:
        here.publish("default", [1, 2])
        until(lambda: len(here.ledger()) == 2, "both run")
        service.signal(signal.SIGINT)
        service.wait_for("worker.stopping", count=2)
        began = time.monotonic()
        service.signal(signal.SIGINT)
        assert service.ended() == 75
        assert time.monotonic() - began < 30


def test_when_the_supervisor_is_killed_its_processes_drain_and_end(place) -> None:
    here = place(APP.replace("0.05", "1.0"))
    with supervised(here, "-p", "3", "-c", "1", running=3) as service:
        here.publish("default", list(range(3)))
        until(lambda: len(here.ledger()) >= 3, "handlers run")
        pids = started(service)
        service.process.kill()
        until(lambda: not any(map(alive, pids)), "no process outlives the supervisor")
    assert sorted(line for line in here.ledger() if line.startswith("done")) == ["done 0", "done 1", "done 2"]


def test_a_storm_of_signals_loses_nothing(place) -> None:
    here = place(APP)
    with supervised(here, "-p", "2", running=2, **QUICK) as service:
        here.publish("default", list(range(100)))
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD, signal.SIGCONT) * 20:
            service.signal(number)
        until(lambda: len({line for line in here.ledger() if line.startswith("done")}) == 100, "all is done")
        assert settled(service, 2)
        assert service.events("process.died") == []
        for _ in range(5):
            service.signal(signal.SIGTERM)
        assert service.ended() == 0


# -- the first process of a container ----------------------------------------------------------------------------------

ORPHANS = f"""{NOTE}
import subprocess
class App(Worker):
    async def process_message(self, message):
        subprocess.run(["sh", "-c", "sleep 0.3 & exit 0"], check=True)   # the sleep is left to the first process
        note("done", message.body)
"""


needs_unshare = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")


@contextmanager
def first_process(here: Place, processes: int) -> Iterator[tuple[Service, int]]:
    """A service that is the first process of its namespace, and its pid outside; consuming."""
    command = [*("unshare", "--pid", "--fork"), *PYTHIA, "run", "app:App", "-p", str(processes), "-b", here.url]
    service = Service(
        subprocess.Popen(
            [*command, "--no-http", "--log-format", "json"],
            cwd=here.directory, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
    )  # fmt: skip
    try:
        service.wait_for("consumer.registered", count=processes)
        yield service, children(service.pid)[0]
    finally:
        service.kill()


@needs_unshare
@pytest.mark.parametrize("processes", [1, 2])
def test_as_the_first_process_it_reaps_what_is_left_to_it_and_hears_signals(place, processes: int) -> None:
    here = place(ORPHANS)
    with first_process(here, processes) as (service, first):
        here.publish("default", list(range(6)))
        until(lambda: len(here.ledger()) == 6, "all is done")
        until(lambda: len(children(first)) == processes, "none but its own processes are below it")
        os.kill(first, signal.SIGUSR1)
        service.wait_for("config.applied", count=processes)
        os.kill(first, signal.SIGTERM)
        assert service.ended() == 0
    assert service.events("worker.stopped")


@needs_unshare
def test_as_the_first_process_it_ends_as_its_worker_does(place) -> None:
    here = place(ORPHANS)
    with first_process(here, 1) as (service, first):
        (worker,) = children(first)
        os.kill(worker, signal.SIGKILL)
        assert service.ended() == 128 + signal.SIGKILL


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


# -- what is run -------------------------------------------------------------------------------------------------------


def test_processes_are_added_and_drained_by_a_reload(place) -> None:
    here = place(APP)
    file = here.directory / "pythia.toml"
    file.write_text("processes = 2\n")
    with supervised(here, "--config", str(file), running=2) as service:
        file.write_text("processes = 4\n")
        service.signal(signal.SIGUSR1)
        service.wait_for("consumer.registered", count=4)
        until(lambda: settled(service, 4), "four")
        service.wait_for("config.applied", count=3)  # by the service and by the two that were there
        file.write_text("processes = 0\n")
        service.signal(signal.SIGUSR1)
        (refused,) = service.wait_for("config.refused")
        assert "processes" in refused["cause"]
        file.write_text("processes = 1\n")
        service.signal(signal.SIGUSR1)
        until(lambda: len(living(service)) == 1, "one")
        until(lambda: settled(service, 1), "one says so")
        assert len(service.wait_for("worker.stopped", count=3)) == 3
        assert service.events("process.died") == []
        assert service.stop() == 0


TWO = f"""{NOTE}
class Orders(Worker):
    queue = "orders"
    async def process_message(self, message):
        note("order", message.body, os.getpid(), self.config.concurrency)

class Mails(Worker):
    queue = "mails"
    async def process_message(self, message):
        note("mail", message.body, os.getpid(), self.config.concurrency)
"""


def test_a_reload_by_route_tells_what_came_of_it_in_each_process(place) -> None:
    here = place(APP)
    file = here.directory / "pythia.toml"
    file.write_text("processes = 2\n")
    with supervised(here, "--config", str(file), running=2) as service:
        file.write_text("processes = 3\nconcurrency = 5\n")
        code, answer = post(service, "/reload")
        assert (code, answer["result"]) == (200, "applied")
        assert [(one["worker"], one["result"]) for one in answer["processes"]] == [("app", "applied")] * 2
        service.wait_for("consumer.registered", count=3)
        until(lambda: settled(service, 3), "three")
        file.write_text("processes = many\n")
        code, answer = post(service, "/reload")
        assert (code, answer["result"]) == (409, "refused")
        assert "pythia.toml" in answer["cause"]


def test_several_targets_are_one_service(place) -> None:
    here = place(TWO)
    with supervised(here, target="app:Orders app:Mails", running=2) as service:
        here.publish("orders", [1])
        here.publish("mails", [2])
        until(lambda: len(here.ledger()) == 2, "both")
        assert len({line.split()[2] for line in here.ledger()}) == 2
        assert service.health()["worker"] == "orders, mails"
        assert service.stop() == 0


def test_the_tables_of_the_configuration_file_are_run_when_no_target_is_given(place) -> None:
    here = place(TWO)
    (here.directory / "config").mkdir()
    file = here.directory / "config" / "pythia.toml"
    text = """
[workers.orders]
target = "app:Orders"
processes = 2
concurrency = 3

[workers.post]
target = "app:Mails"
queue = "letters"
"""
    file.write_text(text)
    process = subprocess.Popen(
        [*PYTHIA, "run", "--port", "0", "--log-format", "json", "-b", here.url],
        cwd=here.directory, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    service = Service(process)
    try:
        service.wait_for("consumer.registered", count=3)
        here.publish("orders", [1])
        here.publish("letters", [2])
        until(lambda: len(here.ledger()) == 2, "both")
        assert sorted(line.split()[0] + line.split()[3] for line in here.ledger()) == ["mail10", "order3"]
        assert [process["worker"] for process in processes(service)] == ["orders", "orders", "post"]
        file.write_text(text.partition("[workers.post]")[0].replace("processes = 2", "processes = 1"))
        service.signal(signal.SIGUSR1)
        until(lambda: [process["worker"] for process in processes(service)] == ["orders"], "one is left")
        service.wait_for("config.applied", count=2)  # by the service and by that process: the next file is not read yet
        assert service.events("config.refused") == []
        file.write_text("concurrency = 1\n")
        service.signal(signal.SIGUSR1)
        (refused,) = service.wait_for("config.refused")
        assert "[workers]" in refused["cause"]
        assert service.stop() == 0
    finally:
        service.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a TARGET, or tables"),
        (["app:App", "app:App"], "stands there twice"),
        (["app:App", "app:Other", "-q", "x"], "--queue and --name are for one worker"),
        (["app:App", "--reload-dir", "nowhere"], "there is no such folder"),
    ],
)
def test_what_makes_no_sense_is_exit_64(place, arguments: list[str], words: str) -> None:
    done = place(APP).command("run", *arguments)
    assert done.returncode == 64
    assert_one_clear_line(done.stderr, words)


def test_a_burst_ends_when_every_process_is_done(place) -> None:
    here = place(APP)
    here.publish("default", list(range(20)))
    code, text = here.run_to_the_end("-p", "2", "--burst")
    assert code == 0, text
    assert len([line for line in here.ledger() if line.startswith("done")]) == 20


def test_a_pause_holds_for_a_process_that_takes_the_place_of_another(place) -> None:
    here = place(APP)
    with supervised(here, "-p", "2", running=2) as service:
        assert post(service, "/pause") == (200, {"paused": True, "state": "running"})
        assert service.ask("/readyz")[0] == 503
        for pid in started(service)[:2]:
            os.kill(pid, signal.SIGKILL)
        service.wait_for("worker.running", count=4)
        until(lambda: settled(service, 2), "both are back")
        here.publish("default", [1])
        assert [process["paused"] for process in processes(service)] == [True, True]
        assert here.ledger() == []
        assert post(service, "/resume")[0] == 200
        until(lambda: "done 1" in here.ledger(), "it goes on")


def test_systemd_is_told_by_the_supervisor_alone(place, tmp_path) -> None:
    here = place(APP)
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(60)
        with supervised(here, "-p", "2", running=2, NOTIFY_SOCKET=address) as service:
            while (word := systemd.recv(4096)) != b"READY=1":
                assert word == b"WATCHDOG=1"
            for pid in started(service):
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert service.stop() == 0


def test_no_secret_is_in_the_list_of_processes(place) -> None:
    here = place(APP)
    with supervised(here, "-p", "2", running=2) as service:
        for pid in started(service):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            assert words[1:3] == ["-m", "pythia.supervisor"]
            assert "sqlite" not in " ".join(words)


# -- development -------------------------------------------------------------------------------------------------------


def test_a_change_of_the_code_drains_and_starts_again_and_a_broken_one_waits_for_the_next(place) -> None:
    here = place(APP)
    module = here.directory / "app.py"
    with supervised(here, "--reload", running=1) as service:
        module.write_text(APP.replace('"done"', '"made"'))
        service.wait_for("consumer.registered", count=2)
        assert len(service.events("worker.stopped")) == 1
        here.publish("default", [1])
        until(lambda: "made 1" in here.ledger(), "the new code runs")
        module.write_text("def broken(:\n")
        (died,) = service.wait_for("process.died")
        assert "SyntaxError" in died["detail"]
        assert service.process.poll() is None
        module.write_text(APP.replace('"done"', '"finished"'))
        service.wait_for("consumer.registered", count=3)
        here.publish("default", [2])
        until(lambda: "finished 2" in here.ledger(), "the mended code runs")
        assert service.stop() == 0


# -- Python ------------------------------------------------------------------------------------------------------------

SCRIPT = f"""{NOTE}
import sys
from pythia import Supervisor, WorkerConfig

class Orders(Worker):
    queue = "orders"
    async def process_message(self, message):
        note("order", message.body, self.config.concurrency, self.config.drain_timeout_seconds, self.config.worker_id)

class Mails(Worker):
    queue = "mails"
    async def process_message(self, message):
        note("mail", message.body, self.config.concurrency)

if __name__ == "__main__":
    supervisor = Supervisor(drain_timeout_seconds=7)
    supervisor.add(Orders, processes=2, config=WorkerConfig(concurrency=4)).add(Mails)
    sys.exit(supervisor.run())
"""


def test_the_same_from_python(place) -> None:
    here = place("")
    (here.directory / "main.py").write_text(SCRIPT)
    environment = here.environment | {
        "PYTHIA_BROKER__URL": here.url,
        "PYTHIA_HTTP__PORT": "0",
        "PYTHIA_LOG__FORMAT": "json",
    }
    command = [PYTHIA[0], "main.py"]
    service = Service(
        subprocess.Popen(
            command, cwd=here.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    )
    try:
        service.wait_for("consumer.registered", count=3)
        here.publish("orders", [1, 2, 3])
        here.publish("mails", [4])
        until(lambda: len(here.ledger()) == 4, "all")
        orders = [line.split() for line in here.ledger() if line.startswith("order")]
        assert {(words[2], words[3]) for words in orders} == {("4", "7.0")}
        assert all(int(words[4].rpartition("-")[2]) in started(service) for words in orders)
        assert "mail 4 10" in here.ledger()
        os.kill(started(service)[0], signal.SIGKILL)
        service.wait_for("consumer.registered", count=4)
        assert service.stop() == 0
    finally:
        service.kill()


def test_a_script_without_the_guard_says_so_and_starts_no_bomb(place) -> None:
    here = place("")
    (here.directory / "main.py").write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run(
        [PYTHIA[0], "main.py"],
        cwd=here.directory,
        env=here.environment | {"PYTHIA_BROKER__URL": here.url, "PYTHIA_HTTP__ENABLED": "false"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 64
    assert 'if __name__ == "__main__":' in done.stderr
