"""Thousands of messages wait at once: each comes on time, and none of them costs its worker anything meanwhile."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pythia import SyncPublisher
from tests.acceptance.service_kit import Service, until
from tests.faults.effects import HANDLER, Counting, Effect, effects_in
from tests.faults.probes import place_of
from tests.faults.venues import RabbitVenue, Venue, venue_of

QUEUE = "delays"
MOST_OBJECTS = 24
MOST_GROWTH_KB = 5 * 1024
LATEST_SECONDS = 1.0
BACKLOG = 50  # what comes back must not wait behind what was never begun

WORKER = (
    HANDLER
    + f"""
from pythia import Retry

class App(Worker):
    queue = "{QUEUE}"
    concurrency = 20

    async def process_message(self, message):
        if message.attempt == 1:
            note("fail", message)
            raise Retry(after=message.body)
        note("end", message)
"""
)


@dataclass(slots=True)
class Seen:
    """Seconds from the moment when each was due until its handler began; what was seen of the worker meanwhile."""

    late: list[float] = field(default_factory=list)
    waiting: int = 0  # when the worker was looked at
    growth_kb: int = 0
    objects: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.late)} messages, {min(self.late):.3f} to {max(self.late):.3f} s after they were due; "
            f"while {self.waiting} waited {self.growth_kb} kB more, none unsettled, {len(self.objects)} objects"
        )


def defer(
    venue: Venue, folder: Path, *, warm_up: int, messages: int, shortest: float, longest: float, seed: int
) -> Seen:
    """Every message fails at once and asks for a delay of its own; until all have come again. ``warm_up`` come before, so that
    the worker has taken of its memory what it needs for work."""
    chance = random.Random(seed)
    delays = [round(chance.uniform(shortest, longest), 3) for _ in range(messages)]
    place, progress, seen = place_of(folder, venue.url, WORKER), Counting(folder), Seen()

    def count(verb: str) -> int:
        return progress.look()[verb]

    with place.running() as service, SyncPublisher(venue.url) as publisher:
        publisher.publish_many(QUEUE, [0.25] * warm_up)
        until(lambda: count("end") == warm_up, "it is warm")
        idle, names = rss_kb(service), list[str]()
        for delay in delays:
            names.append(publisher.publish(QUEUE, delay))
            until(lambda: count("fail") >= warm_up + len(names) - BACKLOG, "the worker keeps up")
        until(lambda: count("fail") == warm_up + messages, "all were asked to wait")
        until(lambda: venue.unsettled(QUEUE) == 0, "none is held")  # one look at RabbitMQ may take seconds
        seen.growth_kb = rss_kb(service) - idle
        seen.objects = venue.objects() if isinstance(venue, RabbitVenue) else []
        seen.waiting = warm_up + messages - count("end")
        until(lambda: count("end") == warm_up + messages, "all have come", deadline=longest + 60)
        until(lambda: not venue.left(QUEUE), "everything is settled")
        assert service.stop() == 0
    seen.late = lateness(effects_in(folder), dict(zip(names, delays, strict=True)))
    return seen


def lateness(effects: list[Effect], delays: dict[str, float]) -> list[float]:
    """How long after it was due each message came."""
    asked = {effect.id: effect.at for effect in effects if effect.verb == "fail"}
    came = {effect.id: effect.at for effect in effects if effect.verb == "end"}
    return [came[name] - asked[name] - delay for name, delay in delays.items()]


def rss_kb(service: Service) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{service.pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("name", ["rabbitmq", "redis-stream", "redis-list"])
def test_what_waits_comes_no_earlier_than_due_and_is_held_by_nobody(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        seen = defer(venue, tmp_path, warm_up=50, messages=300, shortest=1.0, longest=5.0, seed=4)
    print(f"{name}: {seen}")
    assert min(seen.late) >= 0
    assert len(seen.objects) <= MOST_OBJECTS


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["rabbitmq", "redis-stream", "redis-list"])
def test_ten_thousand_delays_up_to_a_minute_are_kept_to_the_second(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        seen = defer(venue, tmp_path, warm_up=1_000, messages=10_000, shortest=1.0, longest=60.0, seed=60)
    print(f"{name}: {seen}")
    assert min(seen.late) >= 0
    assert max(seen.late) <= LATEST_SECONDS
    assert seen.waiting > 0
    assert seen.growth_kb <= MOST_GROWTH_KB
    assert len(seen.objects) <= MOST_OBJECTS
