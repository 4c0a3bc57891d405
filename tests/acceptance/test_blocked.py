"""A handler that blocks the event loop: its message stays its own, and the probes say that it blocks, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place
from tests.faults.blocking import BLOCKING_LINE, WORKER, watch_blocked


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, WORKER)


def test_a_handler_that_blocks_for_longer_than_its_lease_is_run_once_and_named_by_the_probes(place: Place) -> None:
    """The long form, 45 s under a lease of 30 s, is in tests/faults."""
    seen = watch_blocked(place, sleep=6, lease=2)
    assert seen.ledger == seen.expected
    assert (seen.messages["lost"], seen.messages["residual"]) == (0, 0)
    assert seen.status == dict.fromkeys(("/livez", "/readyz", "/metrics", "/health"), 200)  # a minute makes them red
    where = f"app.py:{BLOCKING_LINE} in process_message"
    assert seen.reason["code"] == "loop_blocked"
    assert where in seen.reason["detail"]
    assert seen.id in seen.reason["detail"]
    assert seen.told[0]["message_id"] == seen.id
    assert seen.told[0]["where"] == where
    assert where in str(seen.told[0]["message"])
