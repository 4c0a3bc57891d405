"""A broker is found where it is said to be, or runs, or can be started; a missing one is told, never passed over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import servers
from tests.kit.processes import Started, free_port
from tests.kit.protocol import amqp_serves, redis_serves

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nothing_here(monkeypatch):
    """A machine without any broker."""
    for name in ("CI", "PYTHIA_TEST_REQUIRE_BROKERS", "PYTHIA_TEST_RABBITMQ_URL", "PYTHIA_TEST_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("amqp_serves", "redis_serves"):
        monkeypatch.setattr(servers, name, lambda *_: False)
    for name in ("rabbit_binaries", "redis_binary"):
        monkeypatch.setattr(servers, name, lambda *_: None)
    servers.find_rabbitmq.cache_clear()
    servers.find_redis.cache_clear()
    yield
    servers.find_rabbitmq.cache_clear()
    servers.find_redis.cache_clear()


NEEDS = {
    "RabbitMQ": servers.require_rabbitmq,
    "Redis": servers.require_redis,
    "installed RabbitMQ": servers.require_private_rabbit,
    "installed Redis": servers.require_private_redis,
}


@pytest.mark.parametrize("what", NEEDS)
def test_a_missing_broker_skips_with_the_reason(nothing_here, what: str):
    with pytest.raises(pytest.skip.Exception, match=f"{what} is not here: install"):
        NEEDS[what]()


@pytest.mark.parametrize("what", NEEDS)
@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("PYTHIA_TEST_REQUIRE_BROKERS", "1")])
def test_a_missing_broker_fails_where_it_must_be_there(nothing_here, monkeypatch, what: str, name: str, value: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(pytest.fail.Exception, match=f"{what} is needed"):
        NEEDS[what]()


@pytest.mark.parametrize("word", ["", "0", "false", "no"])
def test_a_word_for_no_is_no(nothing_here, monkeypatch, word: str):
    monkeypatch.setenv("CI", word)
    assert servers.must_have() is False


def test_the_environment_names_the_brokers_before_anything_else(nothing_here, monkeypatch):
    monkeypatch.setenv("PYTHIA_TEST_RABBITMQ_URL", "amqp://there/")
    monkeypatch.setenv("PYTHIA_TEST_REDIS_URL", "redis://there/")
    assert (servers.require_rabbitmq(), servers.require_redis()) == ("amqp://there/", "redis://there/")


def test_a_port_that_is_open_and_says_nothing_is_no_broker(monkeypatch):
    monkeypatch.setattr("tests.kit.protocol._SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not amqp_serves("127.0.0.1", port)
        assert not redis_serves("127.0.0.1", port)
    assert not redis_serves("127.0.0.1", free_port())


def test_redis_remembers_over_a_kill_what_it_was_told_to_write_down():
    servers.require_private_redis()
    with servers.PrivateRedis(appendonly=True) as redis:
        redis.cli("SET", "k", "v")
        redis.restart(kill=True)
        assert redis.cli("GET", "k") == "v\n"
        redis.fill_up(True)
        with pytest.raises(AssertionError, match="OOM"):
            redis.cli("SET", "k", "w")
        redis.fill_up(False)
        redis.cli("SET", "k", "w", stdin=None)
        folder = redis.folder
    assert not folder.exists()
    assert not redis_serves("127.0.0.1", redis.port)


def test_two_private_servers_run_side_by_side():
    servers.require_private_redis()
    with servers.PrivateRedis() as one, servers.PrivateRedis() as two:
        one.cli("SET", "k", "v")
        assert two.cli("EXISTS", "k") == "0\n"


def test_rabbitmq_keeps_its_vhosts_over_a_kill_and_lets_only_the_right_password_in(private_rabbit):
    private_rabbit.add_vhost("kept")
    private_rabbit.add_user("someone", "p@ss")
    private_rabbit.restart(kill=True)
    assert "kept" in private_rabbit.ctl("list_vhosts").split()
    assert amqp_serves("127.0.0.1", private_rabbit.port, "someone", "p@ss")
    assert not amqp_serves("127.0.0.1", private_rabbit.port, "someone", "wrong")
    assert private_rabbit.list_queues(vhost="kept") == []
    assert private_rabbit.url_of("someone", "p@ss", "a/b").endswith(
        f"someone:p%40ss@127.0.0.1:{private_rabbit.port}/a%2Fb"
    )


HANG = """
import signal, sys
from pathlib import Path
from tests.kit.processes import Started
child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
server = Started((sys.executable, "-u", "-c", child), env={}, output=Path(sys.argv[1]))
server.wait_until(lambda: Path(sys.argv[1]).read_text().endswith("\\n"))
print("up", flush=True)
signal.pause()
"""


def test_a_server_does_not_outlive_a_test_run_that_is_killed(tmp_path: Path):
    output = tmp_path / "output"
    with subprocess.Popen(
        [sys.executable, "-c", HANG, output], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout.readline() == b"up\n"
        child = int(output.read_text())
        watching = os.pidfd_open(child)
        process.send_signal(signal.SIGKILL)
    assert _ended(watching, 10.0)


def _ended(pidfd: int, seconds: float) -> bool:
    import select

    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def test_a_server_that_cannot_start_says_its_last_words(tmp_path: Path):
    server = Started(("/bin/sh", "-c", "echo no such option; exit 3"), env={}, output=tmp_path / "output")
    with pytest.raises(AssertionError, match="no such option"):
        server.wait_until(lambda: False)


def test_what_does_not_heed_a_stop_is_killed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tests.kit.processes.STOP_SECONDS", 0.2)
    output = tmp_path / "output"
    server = Started(("/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"), env={}, output=output)
    server.wait_until(lambda: output.read_text() == "up\n")
    server.stop()
    assert not server.running
