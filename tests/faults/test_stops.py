"""Stopped while it holds what it has not begun, stopped twice, frozen for longer than its lease: nothing is lost or doubled."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.service_kit import until
from tests.faults import probes
from tests.faults.effects import HANDLER
from tests.faults.probes import QUEUE, QUICK
from tests.faults.venues import DURABLE, venue_of

FIRST_IS_FAST = (
    HANDLER
    + """
class App(Worker):
    concurrency = 2

    async def process_message(self, message):
        note("start", message)
        while message.body == "wait" and not os.path.exists("go"):
            await asyncio.sleep(0.01)
        note("end", message)
"""
)
STOPS_ITSELF = (
    HANDLER
    + """
import signal

class App(Worker):
    concurrency = 1

    async def process_message(self, message):
        note("start", message)
        if not os.path.exists("once"):
            open("once", "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        note("end", message)
"""
)


@pytest.mark.parametrize("name", DURABLE)
def test_what_a_stopped_worker_had_fetched_and_not_begun_is_the_others_at_once(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = probes.place_of(tmp_path, venue.url, FIRST_IS_FAST)
        with place.running("--port", "0", PYTHIA_PREFETCH="60", **QUICK) as first:
            warm_up = place.publish(QUEUE, ["quick"] * 400)  # so fast that it fetches ahead
            until(lambda: len(probes.handled(place)) == len(warm_up), "it is warm")
            names = place.publish(QUEUE, ["wait"] * 40)
            until(lambda: len(probes.runs(place)) == len(warm_up) + 2, "both its handlers wait")
            until(lambda: venue.unsettled(QUEUE) >= 2, "what it holds is seen")
            with place.running("--port", "0", PYTHIA_PREFETCH="60", **QUICK) as second:
                first.signal(signal.SIGTERM)
                first.wait_for("worker.stopping")
                until(lambda: len(probes.runs(place)) == len(warm_up) + 4, "the second begins two", deadline=5.0)
                (tmp_path / "go").touch()
                assert first.ended() == 0
                until(lambda: set(names) <= probes.handled(place), "all are handled")
                until(lambda: not venue.left(QUEUE), "everything is settled")
                assert second.stop() == 0
        assert sorted(probes.runs(place)) == sorted([*warm_up, *names]), "nothing is doubled"


@pytest.mark.parametrize("name", DURABLE)
def test_a_worker_that_is_stopped_twice_hands_back_what_it_had_begun(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = probes.place_of(tmp_path, venue.url, FIRST_IS_FAST)
        with place.running("--port", "0", PYTHIA_DRAIN_TIMEOUT_SECONDS="60", **QUICK) as first:
            names = place.publish(QUEUE, ["wait"] * 2)
            until(lambda: len(probes.runs(place)) == 2, "both its handlers wait")
            first.signal(signal.SIGTERM)
            first.wait_for("worker.stopping")
            first.signal(signal.SIGTERM)
            assert first.ended(20.0) in {0, 75}
        until(lambda: venue.unsettled(QUEUE) == 0, "both are back")
        assert set(probes.handled(place)) == set()
        (tmp_path / "go").touch()
        with place.running(**QUICK) as second:
            until(lambda: probes.handled(place) == set(names), "the second handles both")
            until(lambda: not venue.left(QUEUE), "everything is settled")
            assert second.stop() == 0
        assert len(probes.runs(place)) == 4


@pytest.mark.parametrize("name", ["redis-stream", "redis-list"])
def test_a_worker_frozen_for_longer_than_its_lease_settles_too_late_and_changes_nothing(
    name: str, tmp_path: Path
) -> None:
    with venue_of(name) as venue:
        place = probes.place_of(tmp_path, venue.url, STOPS_ITSELF)
        with place.running("--port", "0", **QUICK) as first:
            (message,) = place.publish(QUEUE, ["m"])
            until((tmp_path / "once").exists, "its handler has frozen it")
            with place.running("--port", "0", **QUICK) as second:
                until(lambda: len(probes.runs(place)) == 2, "the second has taken it over")
                first.signal(signal.SIGCONT)
                until(lambda: first.health()["messages"]["in_flight"] == 0, "the first holds nothing")
                messages = first.health()["messages"]
                assert (messages["lost"], messages["ack"], messages["residual"]) == (1, 0, 0)
                assert venue.unsettled(QUEUE) == 1, "it is the second's"
                (tmp_path / "go").touch()
                until(lambda: second.health()["messages"]["ack"] == 1, "the second has settled it")
                until(lambda: not venue.left(QUEUE), "everything is settled")
                probes.handles(place)
                assert [first.stop(), second.stop()] == [0, 0]
        assert probes.runs(place).count(message) == 2


def test_a_worker_frozen_for_longer_than_rabbitmqs_heartbeat_settles_too_late_and_changes_nothing(
    tmp_path: Path,
) -> None:
    settings = QUICK | {"PYTHIA_BROKER__HEARTBEAT_SECONDS": "1"}
    with venue_of("rabbitmq") as venue:
        place = probes.place_of(tmp_path, venue.url, STOPS_ITSELF)
        with place.running("--port", "0", **settings) as first:
            (message,) = place.publish(QUEUE, ["m"])
            until((tmp_path / "once").exists, "its handler has frozen it")
            with place.running("--port", "0", **settings) as second:
                until(lambda: len(probes.runs(place)) == 2, "the server has given it to the second")
                first.signal(signal.SIGCONT)
                until(lambda: first.events("broker.lost"), "the first has noticed")
                (tmp_path / "go").touch()
                until(lambda: second.health()["messages"]["ack"] == 1, "the second has settled it")
                until(lambda: not venue.left(QUEUE), "everything is settled")
                until(lambda: probes.is_ready(first), "the first consumes again")
                assert first.health()["messages"]["lost"] == 1
                assert [first.stop(), second.stop()] == [0, 0]
        assert probes.runs(place).count(message) == 2
