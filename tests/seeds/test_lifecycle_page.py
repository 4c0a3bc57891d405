"""The first page, "Worker Lifecycle": every Python block of it runs as printed and does what the page says it does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from pythia import Worker, WorkerConfig, WorkerState
from pythia.observability.metrics import WorkerCollector, render
from pythia.utils.testing import WorkerHarness
from tests.seeds.page_blocks import DEADLINE, Script, files, load, text

pytestmark = pytest.mark.usefixtures("workdir")

CODE = "f6620c92b51ce7812369f6dc2dcc199a79df94c802a4063300204f14623645ee"  # of the code lines of all blocks, without their indentation


def silent(**overrides: Any) -> WorkerConfig:
    return WorkerConfig(log={"level": "critical"}, **overrides)


# The page


def test_the_page_is_all_there_and_nobody_edited_a_line():
    lines = [line.strip() for file in files() for line in file.read_text().splitlines() if line.strip()]
    assert len(files()) == 13
    assert sha256("\n".join(lines).encode()).hexdigest() == CODE


# Worker states


def test_there_are_six_states_in_the_order_of_the_page():
    state = load("01_states").WorkerState
    names = ["INITIALIZING", "STARTING", "RUNNING", "STOPPING", "STOPPED", "ERROR"]
    assert [member.name for member in state] == names
    assert [member.value for member in state] == list(range(6))
    assert [str(member) for member in state] == [name.lower() for name in names]


# Basic worker lifecycle


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody listens at this port, if nobody did before."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            pass  # somebody does
        yield


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_basic_worker_goes_through_its_lifecycle_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals):
    with taken(8080), Script(tmp_path, "02_basic", before="") as script:
        script.wait_for("worker.running")
        assert script.ends_after(number) == 0
    told = [event for event in script.events if event.startswith(("worker.", "Worker")) and event != "worker.notice"]
    assert told == [
        "worker.starting",
        "Worker starting up...",
        "worker.running",
        "worker.stopping",
        "Worker shutting down...",
        "worker.stopped",
    ]
    assert script.lines[-1]["exit_code"] == 0
    assert {line["worker"] for line in script.lines} == {"basic-worker"}


def test_the_basic_worker_handles_what_is_published_from_a_shell(tmp_path: Path):
    env = {"PYTHIA_LOG__MESSAGES": "all", "PYTHIA_HTTP__ENABLED": "false"}
    command = [sys.executable, "-m", "pythia", "publish", "default", '{"order": 1}']
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=DEADLINE)
    with Script(tmp_path, "02_basic", before="", env=env) as script:
        assert script.wait_for("message.done")["queue"] == "default"
        assert script.ends_after(signal.SIGTERM) == 0


# Startup and shutdown hooks

STANDINS = {
    "asyncpg": """
story = []

class Connection:
    async def __aenter__(self): return self
    async def __aexit__(self, *error): pass
    async def fetchval(self, query): story.append(query)

class Pool:
    def acquire(self): return Connection()
    async def close(self): story.append("pool closed")

async def create_pool(**options):
    story.append(options)
    return Pool()
""",
    "aioredis": """
story = []

class Client:
    async def ping(self): story.append("ping")
    async def close(self): story.append("client closed")

async def from_url(url, **options):
    story.append((url, options))
    return Client()
""",
}


@pytest.fixture
def drivers(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Modules in the place of asyncpg and aioredis, which the page uses and nobody here needs."""
    for name, code in STANDINS.items():
        (workdir / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(workdir)
    import aioredis
    import asyncpg

    return SimpleNamespace(postgres=asyncpg.story, redis=aioredis.story)


async def test_the_database_worker_sets_everything_up_before_it_runs(drivers: SimpleNamespace):
    worker = load("03_database_startup").DatabaseWorker(silent())
    async with worker.running():
        options = {"host": "localhost", "port": 5432, "user": "worker", "database": "production"}
        assert drivers.postgres == [options | {"min_size": 5, "max_size": 20}, "SELECT 1"]
        assert drivers.redis == [
            ("redis://localhost:6379", {"encoding": "utf-8", "decode_responses": True}),
            "ping",
        ]
        exposition = metrics_of(worker)
        assert 'database_queries_total{worker="database-worker"} 0' in exposition
        assert 'query_duration_seconds_count{worker="database-worker"} 0' in exposition


async def test_the_shutdown_hooks_close_what_the_startup_hooks_opened(drivers: SimpleNamespace):
    startup, shutdown = load("03_database_startup").DatabaseWorker, load("04_database_shutdown").DatabaseWorker

    class DatabaseWorker(shutdown, startup):
        """Both halves of the page's class."""

    async with DatabaseWorker(silent()).running() as worker:
        pass
    assert worker.state is WorkerState.STOPPED
    assert (drivers.postgres[-1], drivers.redis[-1]) == ("pool closed", "client closed")


async def test_a_shutdown_hook_that_fails_is_told_and_the_worker_still_stops(capfd: pytest.CaptureFixture[str]):
    worker = load("04_database_shutdown").DatabaseWorker(WorkerConfig())  # nobody opened a pool
    async with worker.running():
        pass
    assert worker.state is WorkerState.STOPPED
    printed = capfd.readouterr().out
    assert "Starting graceful shutdown..." in printed
    assert "has no attribute 'db_pool'" in printed


# Signal handling

SIGNALS = "asyncio.run(SignalAwareWorker(WorkerConfig()).start())"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_workers_own_signal_handlers_stop_it(tmp_path: Path, number: signal.Signals):
    with Script(tmp_path, "05_signals", after=SIGNALS) as script:
        script.wait_for("worker.running")
        assert script.ends_after(number) == 0
    assert f"Received signal {int(number)}, initiating shutdown..." in script.events
    assert script.events[-1] == "worker.stopped"


def test_a_workers_own_reload_handler_sees_the_changed_file(tmp_path: Path):
    file = tmp_path / "pythia.toml"
    file.write_text("concurrency = 5\n")
    with Script(tmp_path, "05_signals", after=SIGNALS, env={"PYTHIA_CONFIG_FILE": str(file)}) as script:
        script.wait_for("worker.running")
        file.write_text("concurrency = 6\n")
        script.process.send_signal(signal.SIGUSR1)
        assert script.wait_for("config.applied")["changed"] == ["concurrency"]
        assert script.ends_after(signal.SIGTERM) == 0
    reloads = [event for event in script.events if "onfiguration" in event]
    assert reloads == [
        "Received reload signal, reloading configuration...",
        "Configuration changed, applying updates...",
    ]


# Health checks


class Api:
    """In the place of aiohttp: answers with ``status`` and counts."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []
        self.often = asyncio.Event()
        self.ClientSession = lambda: self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    def get(self, url: str) -> Api:
        self.asked.append(url)
        if len(self.asked) >= 5:
            self.often.set()
        return self


async def test_the_health_aware_worker_checks_periodically_from_running_to_stopped():
    api = Api()
    worker = load("06_health", aiohttp=api).HealthAwareWorker(silent(health_check_interval=0.01))
    async with worker.running(), asyncio.timeout(DEADLINE):
        await api.often.wait()
        assert worker.healthy
        assert isinstance(worker.last_health_check, datetime)
        assert set(api.asked) == {"https://api.example.com/health"}
        api.status = 503
        assert await worker.health_check() is False
        assert not worker.healthy
        assert len(asyncio.all_tasks()) > 1
    assert asyncio.all_tasks() == {asyncio.current_task()}  # nobody is left to ask


# Error recovery


class Pauses:
    """In the place of asyncio: sleeps are remembered, and last until ``over``."""

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.lengths.append(seconds)
        self.begun.set()
        await self.over.wait()


async def test_the_resilient_worker_recovers_while_other_messages_go_on():
    pauses = Pauses()

    class ResilientWorker(load("07_recovery", asyncio=pauses).ResilientWorker):
        async def _process_business_logic(self, message: Any) -> None:
            if message.body == "bad":
                raise ValueError("no")

    async with WorkerHarness(ResilientWorker, retry={"max_attempts": 1}) as harness:
        bad = [await harness.publish("bad") for _ in range(5)]
        await pauses.begun.wait()
        assert (harness.worker.error_count, str(harness.worker.last_error)) == (5, "no")
        assert [(await harness.settled(failed)).dead_reason for failed in bad[:4]] == ["attempts_exhausted"] * 4
        pauses.over.set()
        assert (await harness.settled(bad[4])).kind == "dead_letter"
        assert pauses.lengths == [10]
        assert harness.worker.error_count == 0
        assert (await harness.settled(await harness.publish("good"))).kind == "ack"
        assert harness.worker.state is WorkerState.RUNNING


async def test_the_resilient_worker_pauses_longer_when_it_is_not_healthy():
    pauses = Pauses()
    pauses.over.set()

    class ResilientWorker(load("07_recovery", asyncio=pauses).ResilientWorker):
        async def _process_business_logic(self, message: Any) -> None:
            raise ValueError("no")

        async def health_check(self) -> bool:
            return False

    async with WorkerHarness(ResilientWorker) as harness:
        harness.worker.error_count = 4
        await harness.outcome(await harness.publish(1))
        assert pauses.lengths == [10, 30]
        assert harness.worker.error_count == 5


# Monitoring worker state


def metrics_of(worker: Worker) -> str:
    body, _ = render([WorkerCollector(worker._pythia_life.status)])
    return body.decode()


def test_the_monitored_workers_metrics_can_be_scraped(tmp_path: Path):
    env = {"PYTHIA_HTTP__PORT": "0"}
    run = "asyncio.run(MonitoredWorker(WorkerConfig()).start())"
    with Script(tmp_path, "08_monitoring", after=run, env=env) as script:
        url = script.wait_for("worker.starting")["http"]
        script.wait_for("Worker healthy, processed 0 messages")
        with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE) as answer:
            lines = answer.read().decode().splitlines()
        assert script.ends_after(signal.SIGTERM) == 0
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['worker_startups_total{worker="monitored-worker"}']) == 1
    assert float(values['pythia_worker_state{worker="monitored-worker"}']) == WorkerState.RUNNING
    assert float(values['worker_startup_timestamp{worker="monitored-worker"}']) > 1_700_000_000
    assert float(values['worker_uptime_seconds{worker="monitored-worker"}']) >= 0


async def test_the_monitored_worker_counts_messages_and_records_its_shutdown():
    monitored = load("08_monitoring").MonitoredWorker

    class MonitoredWorker(monitored):
        async def process_message(self, message: Any) -> None: ...

    async with WorkerHarness(MonitoredWorker) as harness:
        await harness.settled(await harness.publish(1))
        assert harness.worker.metrics.counter("messages_processed_total")._value == 1
        assert harness.worker.metrics.gauge("worker_state")._value == WorkerState.RUNNING
        await harness.drain()
    exposition = metrics_of(harness.worker)
    assert 'worker_shutdowns_total{worker="monitored-worker"} 1' in exposition
    assert 'worker_uptime_seconds_histogram_count{worker="monitored-worker"} 1' in exposition
    assert exposition.count("# TYPE worker_uptime_seconds gauge") == 1


# Custom lifecycle manager


async def test_a_custom_lifecycle_manager_has_its_phases_around_the_standard_start(monkeypatch: pytest.MonkeyPatch):
    page, story = load("09_lifecycle_manager"), []

    def tell(name: str) -> Any:
        async def phase(*_given: object) -> None:
            story.append(name)

        return phase

    for name in (
        "_validate_environment",
        "_setup_advanced_monitoring",
        "_register_with_discovery",
        "_start_background_tasks",
    ):
        monkeypatch.setattr(page.CustomLifecycleManager, name, tell(name))
    monkeypatch.setattr(page.AdvancedWorker, "on_startup", tell("on_startup"))
    monkeypatch.setattr(page.AdvancedWorker, "process_message", tell("process_message"))
    async with WorkerHarness(page.AdvancedWorker) as harness:
        await harness.settled(await harness.publish(1))
    assert story == [
        "_validate_environment",
        "_setup_advanced_monitoring",
        "on_startup",
        "_register_with_discovery",
        "_start_background_tasks",
        "process_message",
    ]


async def test_a_custom_lifecycle_manager_runs_as_printed():
    worker = load("09_lifecycle_manager").AdvancedWorker(silent())
    async with worker.running():
        assert worker.state is WorkerState.RUNNING
    assert worker.state is WorkerState.STOPPED


# Best practices


def managed(fails: bool) -> Any:
    class ResourceManagedWorker(load("10_resources").ResourceManagedWorker):
        def __init__(self, config: WorkerConfig) -> None:
            super().__init__(config)
            self.story: list[str] = []

        async def _init_database(self) -> None:
            self.db = "database"

        async def _init_cache(self) -> None:
            self.cache = "cache"

        async def _init_external_clients(self) -> None:
            if fails:
                raise ConnectionError("no such client")
            self.external_clients = "clients"

        async def _cleanup_external_clients(self) -> None:
            self.story.append("clients")

        async def _cleanup_cache(self) -> None:
            self.story.append("cache")

        async def _cleanup_database(self) -> None:
            self.story.append("database")

    return ResourceManagedWorker(silent())


async def test_resources_are_released_in_reverse_at_the_end():
    worker = managed(fails=False)
    async with worker.running():
        assert worker.story == []
    assert worker.story == ["clients", "cache", "database"]


async def test_a_start_that_fails_releases_what_it_had_once_and_says_why():
    worker = managed(fails=True)
    with pytest.raises(ConnectionError, match="no such client"):
        await worker.start()
    assert worker.story == ["cache", "database"]
    assert worker.state is WorkerState.ERROR
    await worker.stop()
    assert worker.state is WorkerState.STOPPED


async def test_the_graceful_worker_goes_on_degraded():
    class ExternalServiceError(Exception):
        pass

    class GracefulWorker(load("11_degradation", ExternalServiceError=ExternalServiceError).GracefulWorker):
        sink = "out"

        async def _process_normal(self, message: Any) -> str:
            if message.body == "down":
                raise ExternalServiceError
            return "normal"

        async def _process_degraded(self, message: Any) -> str:
            return "degraded"

    async with WorkerHarness(GracefulWorker) as harness:
        for body in ("up", "down", "up"):
            assert (await harness.settled(await harness.publish(body))).kind == "ack"
        assert [message.body for message in harness.published("out")] == ["normal", "degraded", "degraded"]
        assert harness.worker.degraded_mode


RELOADS = """
class Told(ReloadableWorker):
    worker_name = "reloadable-worker"

    async def _apply_config_changes(self, old, new):
        self.logger.info("changed", before=old.concurrency, now=new.concurrency, mine=self.config.concurrency)

asyncio.run(Told(WorkerConfig()).start())
"""


def test_the_reloadable_worker_reloads_on_sigusr1_and_keeps_what_it_has_when_the_file_is_wrong(tmp_path: Path):
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "pythia.toml"
    file.write_text("concurrency = 5\n")
    with Script(tmp_path, "12_reload", after=RELOADS, env={"PYTHIA_HTTP__ENABLED": "false"}) as script:
        assert script.wait_for("worker.starting")["concurrency"] == 5
        script.wait_for("worker.running")
        file.write_text("concurrency = -1\n")
        script.process.send_signal(signal.SIGUSR1)
        assert "concurrency" in script.wait_for("config.refused")["cause"]
        file.write_text("concurrency = 6\n")
        script.process.send_signal(signal.SIGUSR1)
        changed = script.wait_for("changed")
        assert (changed["before"], changed["now"], changed["mine"]) == (5, 6, 6)
        assert script.ends_after(signal.SIGTERM) == 0
    assert script.events.count("Configuration changed, reloading...") == 1


# Testing worker lifecycle


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider", "-q"],
        ["-m", "pytest", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function", "-q"],
        ["-m", "unittest", "-v", "test_worker"],
    ],
    ids=["plain pytest", "pytest-asyncio", "unittest"],
)
def test_the_pages_own_tests_pass(tmp_path: Path, command: list[str]):
    (tmp_path / "test_worker.py").write_text(f"from pythia.core.lifecycle import WorkerState\n{text('13_testing')}")
    result = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=tmp_path, env={**os.environ, "PYTHIA_CONCURRENCY": "nonsense"}, capture_output=True, text=True,
        timeout=2 * DEADLINE, check=False,
    )  # fmt: skip
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "3 passed" in said or "Ran 3 tests" in said
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["test_worker.py"]


async def test_handle_error_raises_the_very_error_and_the_worker_stays_as_it_is():
    error = Exception("Test error")
    async with WorkerHarness(Worker) as harness:
        with pytest.raises(Exception, match="Test error") as raised:
            await harness.worker._handle_error(error)
        assert raised.value is error
        assert harness.worker.state is WorkerState.RUNNING
