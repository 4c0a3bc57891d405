"""The long forms of what tests/acceptance shows in short: as many messages and as much time as the promise names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place
from tests.faults import blocking, kills

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", [20, 21])
def test_twenty_thousand_messages_survive_twenty_kills(tmp_path: Path, seed: int) -> None:
    place = Place(tmp_path, kills.WORKER)
    verdict = kills.kill_at_random(place, messages=20_000, kills=20, seed=seed, PYTHIA_LEASE_SECONDS="2")
    print(verdict)
    assert (verdict.lost, verdict.unexplained) == ([], [])
    assert verdict.repeated > 0
    assert place.rows("SELECT count(*) FROM messages") == place.rows("SELECT count(*) FROM dead_letters") == [(0,)]


def test_a_handler_that_sleeps_forty_five_seconds_under_a_lease_of_thirty_is_run_once(tmp_path: Path) -> None:
    seen = blocking.watch_blocked(Place(tmp_path, blocking.WORKER), sleep=45, lease=30)
    print(f"probes answered within {seen.slowest_seconds:.3f} s: {seen.reason}")
    assert seen.ledger == seen.expected
    assert (seen.messages["ack"], seen.messages["lost"], seen.messages["residual"]) == (1, 0, 0)
    assert seen.id in seen.reason["detail"]
