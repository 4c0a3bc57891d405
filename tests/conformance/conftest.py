"""The brokers that the suite holds to the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pythia.broker import Broker
from pythia.brokers.sqlite import file
from tests.conformance.rigs import MemoryRig, Rig, SqliteRig


@pytest.fixture(params=["memory", "sqlite", "sqlite-wal"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    if request.param == "sqlite-wal":  # as with a library whose WAL is sound
        monkeypatch.setattr(file, "safe_journal", lambda _version, *, network: "wal")
    rig: Rig = MemoryRig() if request.param == "memory" else SqliteRig(tmp_path / "queue.db")
    await rig.broker.connect()
    yield rig
    await rig.close()


@pytest.fixture
def broker(rig: Rig) -> Broker:
    return rig.broker
