"""A Redis that stands still, dies, forgets, or takes no writes, under a worker at work: one process lives through all of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis

from tests.acceptance.service_kit import until
from tests.faults import probes
from tests.faults.standing import Standing, standing
from tests.faults.venues import RedisVenue
from tests.kit.private_redis import redis_binary

Worker = Standing[RedisVenue]
Broken = Callable[[Worker], AbstractContextManager[object]]

AWAY = ("reconnecting",)
PAUSE_SECONDS = 3.5


@pytest.fixture(scope="module", params=["stream", "list"])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp(request.param)
    with standing(f"redis-{request.param}", folder, RedisVenue) as worker:
        yield worker


@contextmanager
def suspended(worker: Worker) -> Iterator[None]:
    worker.venue.redis.suspend()
    try:
        worker.until_noticed(*AWAY)
        yield
    finally:
        worker.venue.redis.resume()


@contextmanager
def paused(worker: Worker) -> Iterator[None]:
    """Commands of every client wait; the server says so to nobody."""
    worker.venue.redis.cli("CLIENT", "PAUSE", str(int(PAUSE_SECONDS * 1000)), "ALL")
    worker.until_noticed(*AWAY)
    yield


@contextmanager
def stopped_without_saving(worker: Worker) -> Iterator[None]:
    worker.venue.redis.cli("SHUTDOWN", "NOSAVE")
    worker.until_noticed(*AWAY)
    yield
    worker.venue.start()


@contextmanager
def killed(worker: Worker) -> Iterator[None]:
    worker.venue.redis.kill()
    worker.until_noticed(*AWAY)
    yield
    worker.venue.start()


@contextmanager
def forgetful(worker: Worker) -> Iterator[None]:
    worker.venue.redis.kill()
    shutil.rmtree(worker.venue.redis.folder / "appendonlydir")
    worker.venue.start()
    yield


@contextmanager
def read_only(worker: Worker) -> Iterator[None]:
    """As after a failover: this one is a replica now, of a server that is not there."""
    worker.venue.redis.cli("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
        until(lambda: not probes.is_ready(worker.service), "readiness tells")
    finally:
        worker.venue.redis.cli("REPLICAOF", "NO", "ONE")


@contextmanager
def not_saving(worker: Worker) -> Iterator[None]:
    """A snapshot that cannot be written makes the server refuse every write."""
    server = worker.venue.redis
    (server.folder / "dump.rdb").mkdir()
    server.cli("CONFIG", "SET", "save", "3600 1")
    server.cli("BGSAVE")
    until(lambda: "rdb_last_bgsave_status:err" in server.cli("INFO", "persistence"), "the snapshot has failed")
    try:
        yield
        worker.until_noticed("broker_blocked", *AWAY)
    finally:
        server.cli("CONFIG", "SET", "save", "")
        (server.folder / "dump.rdb").rmdir()


@contextmanager
def busy(worker: Worker) -> Iterator[None]:
    """A script that never ends: after a while every command is answered with BUSY."""
    worker.venue.redis.cli("CONFIG", "SET", "lua-time-limit", "100")
    binary = redis_binary("cli")
    assert binary is not None
    command = (binary, "-p", str(worker.venue.port), "EVAL", "while true do end", "0")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as asking:
        try:
            yield
            until(lambda: not probes.is_ready(worker.service), "readiness tells")
        finally:
            worker.venue.redis.cli("SCRIPT", "KILL")
            asking.wait(30)


@contextmanager
def full_of_clients(worker: Worker) -> Iterator[None]:
    """No connection is taken but the one that ends this."""
    with redis.Redis.from_url(worker.venue.redis.url, single_connection_client=True) as admin:
        usual = admin.config_get("maxclients")["maxclients"]
        admin.config_set("maxclients", 1)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            worker.until_noticed(*AWAY)
            yield
        finally:
            admin.config_set("maxclients", usual)


FAULTS: dict[str, Broken] = {
    "suspended": suspended,
    "paused": paused,
    "stopped without saving": stopped_without_saving,
    "killed": killed,
    "read-only": read_only,
    "not saving": not_saving,
    "busy with a script": busy,
    "full of clients": full_of_clients,
}


OF_EITHER = ("paused", "stopped without saving", "busy with a script", "full of clients")
"""What a list's connections suffer as a stream's do: done to one of them."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_cannot_serve_for_a_while_loses_nothing_and_is_used_again(worker: Worker, fault: str) -> None:
    if fault in OF_EITHER and worker.venue.name == "redis-list":
        pytest.skip("seen of a stream")
    worker.survives(FAULTS[fault])


def test_a_server_that_comes_back_empty_is_made_anew_and_consumed(worker: Worker) -> None:
    """What it had is gone, as its operator chose; what comes after is handled."""
    worker.survives(forgetful, forgets=True)
