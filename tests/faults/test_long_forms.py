"""The long forms of what tests/acceptance shows in short: as many messages and as much time as the promise names."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.acceptance.service_kit import Place
from tests.faults import blocking, poison

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def test_a_handler_that_sleeps_forty_five_seconds_under_a_lease_of_thirty_is_run_once(tmp_path: Path) -> None:
    seen = blocking.watch_blocked(Place(tmp_path, blocking.WORKER), sleep=45, lease=30)
    print(f"probes answered within {seen.slowest_seconds:.3f} s: {seen.reason}")
    assert seen.ledger == seen.expected
    assert (seen.messages["ack"], seen.messages["lost"], seen.messages["residual"]) == (1, 0, 0)
    assert seen.id in seen.reason["detail"]


def test_what_a_hundred_poison_messages_cost_nineteen_hundred_good_ones(tmp_path: Path) -> None:
    """Medians of three interleaved runs under the default delays; printed, since a busy machine is no failure."""
    seconds: dict[int, list[float]] = {0: [], 100: []}
    for round_number in range(3):
        for bad, measured in seconds.items():
            directory = tmp_path / f"{round_number}-{bad}"
            directory.mkdir()
            handled = poison.handle(Place(directory, poison.WORKER), 1900, bad, all_dead=False, BASE="1.0")
            assert len(handled.ended) == 1900
            assert set(handled.ended.values()) == {1}
            measured.append(handled.seconds)
    clean, poisoned = median(seconds[0]), median(seconds[100])
    print(
        f"1,900 good ones: {clean:.2f} s alone, {poisoned:.2f} s among 100 that always fail: × {poisoned / clean:.2f}"
    )
