"""The brokers that the suite holds to the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pythia.broker import Broker
from pythia.brokers.sqlite import file
from tests.conformance.real_rigs import RABBIT_SETTINGS, REDIS_MODES, real_rig
from tests.conformance.rigs import Rig
from tests.conformance.virtual_rigs import MemoryRig, SqliteRig

VIRTUAL = ("memory", "sqlite", "sqlite-wal")
REAL = (*RABBIT_SETTINGS, *REDIS_MODES)
FLEETING = ("redis-pubsub",)  # who is not there when something is said misses it
ALIKE = {
    "test_connection",
    "test_dead_letters",
    "test_envelopes",
    "test_ordering_by_worker",
    "test_publishing",
}  # for every kind of queue


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every broker that keeps messages, and the others where the test is marked ``fleeting``."""
    if "rig" not in metafunc.fixturenames:
        return
    fleeting = metafunc.definition.get_closest_marker("fleeting") is not None
    every = (*VIRTUAL, *REAL)
    if "real" in metafunc.fixturenames:
        every = REAL
    if "forgetful" in metafunc.fixturenames:
        every = FLEETING
    if metafunc.module.__name__.rpartition(".")[2] in ALIKE:
        every = [name for name in every if name != "rabbitmq-classic"]
    names = [name for name in every if fleeting or name not in FLEETING]
    metafunc.parametrize("rig", names, indirect=True)


@pytest.fixture
async def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    rig = _rig(request, tmp_path, monkeypatch)
    try:
        await rig.broker.connect()
        assert rig.broker.capabilities.keeps == (request.param not in FLEETING)
        yield rig
    finally:
        await rig.close()


def _rig(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    own_server = request.node.get_closest_marker("own_server") is not None
    match request.param:
        case "memory":
            return MemoryRig()
        case "sqlite":
            return SqliteRig(folder / "queue.db")
        case "sqlite-wal":  # as with a library whose WAL is sound
            monkeypatch.setattr(file, "safe_journal", lambda _version, *, network: "wal")
            return SqliteRig(folder / "queue.db")
        case name:
            return real_rig(name, own_server=own_server)


@pytest.fixture
def real(rig: Rig) -> Rig:
    """A rig with a server behind it; a test that asks for it runs on no other."""
    return rig


@pytest.fixture
def forgetful(rig: Rig) -> Rig:
    """A rig whose broker keeps nothing; a test that asks for it runs on no other."""
    return rig


@pytest.fixture
def broker(rig: Rig) -> Broker:
    return rig.broker
