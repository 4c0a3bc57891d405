"""SIGTERM under load: the worker ends with 0 within its deadline, and what the ledger says is once each, and all of it."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place, until
from tests.faults import probes
from tests.faults.effects import HANDLER
from tests.faults.probes import QUEUE, QUICK
from tests.faults.venues import venue_of

DEADLINE_SECONDS = 8.0
MESSAGES = 60  # a stop
WORKER = (
    HANDLER
    + """
import random

class App(Worker):
    concurrency = 8
    retry = RetryPolicy(base_seconds=0.2, jitter=0.0)

    async def process_message(self, message):
        note("start", message)
        await asyncio.sleep(random.Random(message.id).uniform(0.0, 0.05))
        if message.body % 20 == 7 and message.attempt == 1:
            note("fail", message)
            raise LookupError("not yet")
        note("end", message)
"""
)


def stopped_again_and_again(place: Place, times: int, seed: int) -> list[float]:
    """Stop a worker under load so often, each at another moment; the seconds that each stop took."""
    chance = random.Random(seed)
    settings = QUICK | {"PYTHIA_DRAIN_TIMEOUT_SECONDS": f"{DEADLINE_SECONDS:g}", "PYTHIA_PREFETCH": "40"}
    names: list[str] = []
    took = []
    for at in range(times):
        names += place.publish(QUEUE, list(range(MESSAGES)))
        before = len(probes.runs(place))
        with place.running(**settings) as service:
            begun = before + chance.randrange(MESSAGES // 2)
            until(lambda begun=begun: len(probes.runs(place)) > begun, f"stop {at} comes under load")
            service.signal(signal.SIGTERM)
            since = time.monotonic()
            assert service.ended(DEADLINE_SECONDS + 5.0) == 0, "".join(service.text[-20:])
            took.append(time.monotonic() - since)
    with place.running(**settings) as service:
        until(lambda: probes.handled(place) == set(names), "all are handled")
        assert service.stop() == 0
    check(place, names)
    return took


def check(place: Place, names: list[str]) -> None:
    """From the ledger alone: each message came to its end once, and was begun once more for each failure that was counted."""
    verbs: dict[str, Counter[str]] = {verb: Counter() for verb in ("start", "fail", "end")}
    for line in place.ledger():
        verb, name = line.split()[:2]
        verbs[verb][name] += 1
    assert verbs["end"] == Counter(names)
    assert verbs["start"] == Counter(names) + verbs["fail"]
    assert set(verbs["fail"].values()) == {1}


def test_five_stops_under_load_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, WORKER)
    took = stopped_again_and_again(place, 5, seed=1)
    assert max(took) <= DEADLINE_SECONDS + 1.0


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["sqlite", "rabbitmq", "redis-stream", "redis-list"])
def test_a_hundred_stops_under_load_lose_nothing_and_double_nothing(name: str, tmp_path: Path) -> None:
    place = Place(tmp_path, WORKER)
    if name == "sqlite":
        took = stopped_again_and_again(place, 100, seed=2)
    else:
        with venue_of(name) as venue:
            place.url = venue.url
            took = stopped_again_and_again(place, 100, seed=3)
            until(lambda: not venue.left(QUEUE), "everything is settled")
    assert max(took) <= DEADLINE_SECONDS + 1.0


def test_a_message_that_is_lost_or_doubled_is_found(tmp_path: Path) -> None:
    place = Place(tmp_path, "")
    whole = [
        "start a 1 7 1.0",
        "end a 1 7 1.1",
        "start b 1 7 1.0",
        "fail b 1 7 1.1",
        "start b 2 7 1.2",
        "end b 2 7 1.3",
    ]
    (tmp_path / "effects").write_text("\n".join(whole))
    check(place, ["a", "b"])
    for wrong in (whole[:-1], [*whole, whole[1]], [*whole, whole[0]], whole[2:], [*whole, "end c 1 7 2.0"]):
        (tmp_path / "effects").write_text("\n".join(wrong))
        with pytest.raises(AssertionError):
            check(place, ["a", "b"])
