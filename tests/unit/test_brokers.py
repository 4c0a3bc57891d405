"""A URL names its broker, or says in one line why not; nothing is imported that was not asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pythia.broker import Claim
from pythia.brokers import open_broker
from pythia.brokers.memory import MemoryBroker
from pythia.brokers.sqlite import SqliteBroker
from pythia.clock import VirtualClock
from pythia.errors import ConfigError


def test_a_sqlite_url_is_relative_with_three_slashes_and_absolute_with_four(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative, absolute = open_broker("sqlite:///a/q.db"), open_broker("sqlite:////var/q.db")
    assert isinstance(relative, SqliteBroker)
    assert isinstance(absolute, SqliteBroker)
    assert (relative.path, absolute.path) == (tmp_path / "a" / "q.db", Path("/var/q.db"))


def test_a_path_may_hold_what_urls_escape(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broker = open_broker("sqlite:///a%20b?c#d.db")
    assert isinstance(broker, SqliteBroker)
    assert broker.path == tmp_path / "a b?c#d.db"


def test_a_memory_url_is_the_memory_broker():
    assert isinstance(open_broker("memory://"), MemoryBroker)
    assert isinstance(open_broker("MEMORY://"), MemoryBroker)


@pytest.mark.parametrize("url", ["kafka://u:secret@h", "secret", "", "sqlite:secret.db", "://secret"])
def test_an_unknown_broker_is_a_configuration_error_and_its_secret_stays(url):
    with pytest.raises(ConfigError) as caught:
        open_broker(url)
    assert caught.value.key == "broker.url"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://relative.db"])
def test_a_sqlite_url_without_a_path_says_how_it_goes(url):
    with pytest.raises(ConfigError, match="three slashes"):
        open_broker(url)


async def test_an_injected_clock_reaches_the_broker(tmp_path):
    clock = VirtualClock(start=1000.0)
    for url in ("memory://clocked", f"sqlite:///{tmp_path}/q.db"):
        broker = open_broker(url, clock=clock)
        await broker.connect()
        store = broker.idempotency()
        assert store is not None
        await store.claim("k", "a", 10.0)
        await clock.advance(11.0)
        assert await store.claim("k", "b", 10.0) is Claim.OURS
        await broker.close()


def test_only_the_adapter_that_was_asked_for_is_imported():
    code = (
        "import sys; before = set(sys.modules); from pythia.brokers import open_broker; open_broker('memory://');"
        "print(sorted({'sqlite3', 'aio_pika', 'redis', 'pydantic'} & set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
