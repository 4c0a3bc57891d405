"""What is consumed disappears: noticed, told truly, and consumed again once it is back, by the same process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place, Service, until
from tests.faults import probes
from tests.faults.probes import QUEUE, QUICK
from tests.faults.venues import RabbitVenue, RedisVenue, venue_of

DEAF = (
    probes.WORKER
    + """
import contextlib
from pythia.broker import ConsumerCancelled
from pythia.brokers import open_broker

class Deaf:
    def __init__(self, consumer):
        self.linger, self.settle, self.drain = consumer.linger, consumer.settle, consumer.drain
        self._receive = consumer.receive

    async def receive(self, limit):
        while True:
            try:
                return await self._receive(limit)
            except ConsumerCancelled:
                await asyncio.sleep(0.1)

    async def watch(self):
        await asyncio.Event().wait()

Broker = type(open_broker("SCHEME://localhost"))
consume = Broker.consume

@contextlib.asynccontextmanager
async def deafly(self, queue, options):
    async with consume(self, queue, options) as consumer:
        yield Deaf(consumer)

Broker.consume = deafly
"""
)
"""A worker that does not hear what becomes of its consumer, as a driver's may: the same checks must find it out."""

Vanishing = Callable[[RabbitVenue | RedisVenue], object]

VANISHINGS: dict[str, tuple[str, Vanishing]] = {
    "a queue is deleted": ("rabbitmq", lambda venue: venue.rabbit.delete_queue(QUEUE, venue.vhost)),
    "a consumer group is destroyed": (
        "redis-stream",
        lambda venue: venue.redis.cli("XGROUP", "DESTROY", QUEUE, "pythia"),
    ),
    "a stream's key is deleted": ("redis-stream", lambda venue: venue.redis.cli("DEL", QUEUE)),
    "a stream's server is flushed": ("redis-stream", lambda venue: venue.redis.cli("FLUSHALL")),
    "a list's server is flushed": ("redis-list", lambda venue: venue.redis.cli("FLUSHALL")),
}
STAYING = [what for what in VANISHINGS if "list" not in what]  # a list is there or empty: nothing to miss


@pytest.fixture
def venue(request) -> Iterator[RabbitVenue | RedisVenue]:
    with venue_of(request.param) as venue:
        yield venue


def each(*names: str):
    """``venue`` and ``vanish`` for each of these."""
    rows = [pytest.param(*VANISHINGS[name], id=name) for name in names]
    return pytest.mark.parametrize(("venue", "vanish"), rows, indirect=["venue"])


def check_healed(
    place: Place, service: Service, venue: RabbitVenue | RedisVenue, vanish: Vanishing, within: float
) -> None:
    """Deleted under the consumer, the queue is made again and consumed; the process is the same."""
    probes.handles(place)
    vanish(venue)
    until(lambda: can_publish(place), "its producers find the queue", deadline=within)
    probes.handles(place, deadline=within)
    until(lambda: probes.is_ready(service), "ready again")
    assert probes.consumer_up(service) == 1
    assert probes.events(service, "broker.lost", "worker.starting") == ["worker.starting"], "the connection was there"


def can_publish(place: Place) -> bool:
    """On RabbitMQ not before the worker has made the queue again."""
    return place.command("publish", QUEUE, "2").returncode == 0


@each(*VANISHINGS)
def test_what_disappears_under_a_consumer_is_made_again_and_consumed_within_five_seconds(
    venue, vanish, tmp_path: Path
) -> None:
    place = probes.place_of(tmp_path, venue.url)
    with place.running("--port", "0", **QUICK) as service:
        check_healed(place, service, venue, vanish, probes.HEALED_SECONDS)
        assert service.stop() == 0


@pytest.mark.parametrize("what", ["a queue is deleted", "a consumer group is destroyed"])
def test_a_consumer_that_does_not_hear_that_it_was_cancelled_is_found_out(what: str, tmp_path: Path) -> None:
    name, vanish = VANISHINGS[what]
    with venue_of(name) as venue:
        place = probes.place_of(tmp_path, venue.url, DEAF.replace("SCHEME", venue.url.partition(":")[0]))
        with place.running("--port", "0", **QUICK) as service, pytest.raises(AssertionError, match=r"not within 4 s"):
            check_healed(place, service, venue, vanish, 4.0)


@each(*STAYING)
def test_while_what_is_not_ours_to_make_is_away_readiness_and_metric_say_so(venue, vanish, tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, venue.url)
    with place.running(**QUICK) as first:  # it makes everything
        assert first.stop() == 0
    with place.running("--port", "0", PYTHIA_BROKER__DECLARE="false", **QUICK) as service:
        probes.handles(place)
        vanish(venue)
        until(lambda: probes.says(service, "consumer_missing"), "readiness tells", deadline=probes.HEALED_SECONDS)
        assert probes.consumer_up(service) == 0
        until(lambda: "broker.declare is false" in probes.readiness(service)[1]["consumer_missing"], "it says why")
        assert probes.metric(service, "pythia_broker_connected") == 1
        make_again(venue)
        probes.handles(place)
        until(lambda: probes.is_ready(service), "ready again")
        assert probes.consumer_up(service) == 1
        assert probes.events(service, "broker.lost", "worker.starting") == ["worker.starting"]
        assert service.stop() == 0


def make_again(venue: RabbitVenue | RedisVenue) -> None:
    if isinstance(venue, RedisVenue):
        venue.redis.cli("XGROUP", "CREATE", QUEUE, "pythia", "0", "MKSTREAM")
    else:
        venue.declare(QUEUE)
