"""A queue is shared: with slow colleagues, with foreign groups, with whoever looks at its dead letters."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from pythia import SyncPublisher
from pythia.brokers import open_broker
from tests.acceptance.service_kit import until
from tests.faults import probes
from tests.faults.effects import HANDLER, effects_in
from tests.faults.probes import QUEUE, QUICK
from tests.faults.venues import DURABLE, RedisVenue, venue_of

PUBLISHED, EVERY_SECONDS = 80, 0.05
LATEST_SECONDS = 1.0

AS_LONG_AS_SAID = (
    HANDLER
    + """
class App(Worker):
    concurrency = 2

    async def process_message(self, message):
        note("start", message)
        await asyncio.sleep(float(os.environ["TAKES"]))
        note("end", message)
"""
)
FAILS_OFTEN = (
    HANDLER
    + """
class App(Worker):
    retry = RetryPolicy(base_seconds=0.2, jitter=0.0)

    async def process_message(self, message):
        note("start", message)
        if message.body % 10 == 0 and message.attempt == 1:
            raise LookupError("not yet")
        if message.body % 10 == 5:
            raise Reject("never")
        note("end", message)
"""
)


@pytest.mark.parametrize("name", DURABLE)
def test_no_message_waits_behind_a_slow_worker_while_another_is_free(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = probes.place_of(tmp_path, venue.url, AS_LONG_AS_SAID)
        with place.running(TAKES="10", **QUICK) as slow, place.running(TAKES="0", **QUICK) as fast:
            published = publish_steadily(venue.url)
            until(lambda: set(probes.runs(place)) >= published.keys(), "all have begun")
            began = {effect.id: effect for effect in reversed(effects_in(tmp_path)) if effect.verb == "start"}
            waits = [began[message].at - at for message, at in published.items()]
            print(f"{name}: the longest wait was {max(waits):.3f} s")
            assert max(waits) <= LATEST_SECONDS
            by = [effect.pid for effect in began.values()]
            assert by.count(slow.pid) == 2, "the slow one takes what it can begin, and no more"
            assert by.count(fast.pid) == PUBLISHED - 2


def publish_steadily(url: str) -> dict[str, float]:
    """When each message was published, by its id."""
    published: dict[str, float] = {}
    with SyncPublisher(url) as publisher:
        for number in range(PUBLISHED):
            at = time.monotonic()
            published[publisher.publish(QUEUE, number)] = at
            time.sleep(EVERY_SECONDS)  # a producer's pace; nothing is waited for
    return published


def test_a_foreign_group_reads_every_message_of_a_stream_that_we_consume(tmp_path: Path) -> None:
    with venue_of("redis-stream") as venue:
        assert isinstance(venue, RedisVenue)
        venue.redis.cli("XGROUP", "CREATE", QUEUE, "foreign", "0", "MKSTREAM")
        place = probes.place_of(tmp_path, venue.url, FAILS_OFTEN)
        with place.running(**QUICK) as service:
            names = set(place.publish(QUEUE, list(range(100))))
            until(lambda: len(probes.handled(place)) == 90, "all that can be are handled")
            until(lambda: venue.unsettled(QUEUE) == 0, "all are settled by us")
            assert service.stop() == 0
        assert len(place.dead(QUEUE)) == 10
        read = json.loads(venue.redis.cli("--json", "XREADGROUP", "GROUP", "foreign", "f", "STREAMS", QUEUE, ">"))
        fields = [dict(zip(row[1][::2], row[1][1::2], strict=True)) for row in read[QUEUE]]
        assert {entry["pythia-id"] for entry in fields} == names


@pytest.mark.parametrize("name", DURABLE)
def test_a_hundred_looks_at_dead_letters_change_none(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = probes.place_of(tmp_path, venue.url, FAILS_OFTEN)
        with place.running(**QUICK) as service:
            place.publish(QUEUE, [5] * 5)
            until(lambda: len(place.dead(QUEUE)) == 5, "they are dead")
            assert service.stop() == 0
        before = place.command("dead", "export", QUEUE).stdout
        asyncio.run(look_a_hundred_times(venue.url))
        assert place.command("dead", "export", QUEUE).stdout == before
        assert before.count("\n") == 5


async def look_a_hundred_times(url: str) -> None:
    broker = open_broker(url)
    await broker.connect()
    letters = broker.dead_letters(QUEUE)
    for _ in range(100):
        assert len(await letters.list(3)) == 3
        assert await letters.count() == 5
    await broker.close()
