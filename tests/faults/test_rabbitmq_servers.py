"""A RabbitMQ that stands still or dies, closes a channel, takes no dead letters: nothing is lost, and one process lives through it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pythia import Publisher
from pythia.errors import BrokerRefused, BrokerUnavailable, PublishError
from tests.acceptance.service_kit import until
from tests.faults import probes
from tests.faults.effects import HANDLER
from tests.faults.probes import QUEUE, QUICK
from tests.faults.standing import HEALED_SECONDS, Standing, standing
from tests.faults.venues import RabbitVenue, venue_of

Worker = Standing[RabbitVenue]

REJECTS = (
    HANDLER
    + """
class App(Worker):
    async def process_message(self, message):
        note("start", message)
        if message.body == "bad":
            raise Reject("never")
        note("end", message)
"""
)
SLOW_SECONDS = 1  # which the server lets a delivery be unacknowledged


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with standing("rabbitmq", tmp_path_factory.mktemp("rabbitmq"), RabbitVenue) as worker:
        yield worker


@contextmanager
def suspended(worker: Worker) -> Iterator[None]:
    worker.venue.rabbit.suspend()
    try:
        worker.until_noticed("reconnecting")
        yield
    finally:
        worker.venue.rabbit.resume()


@contextmanager
def killed(worker: Worker) -> Iterator[None]:
    worker.venue.rabbit.kill()
    worker.until_noticed("reconnecting")
    yield
    worker.venue.start()


def test_a_server_that_stands_still_loses_nothing_and_is_used_again(worker: Worker) -> None:
    worker.survives(suspended)


@pytest.mark.soak
def test_a_server_that_is_killed_loses_nothing_and_is_used_again(worker: Worker) -> None:
    worker.survives(killed)


def test_a_dead_letter_that_nobody_takes_leaves_its_message_where_it_was(tmp_path: Path) -> None:
    """The queue of dead letters is full and refuses: no source is acknowledged before its copy is safe."""
    with venue_of("rabbitmq") as venue:
        assert isinstance(venue, RabbitVenue)
        place = probes.place_of(tmp_path, venue.url, REJECTS)
        with place.running("--port", "0", **QUICK) as service:
            limit_dead_letters(venue, 1)
            bad = place.publish(QUEUE, ["bad"] * 20)  # a quorum queue takes some more than it may
            service.wait_for("settle.failed")
            assert service.health()["messages"]["in_flight"] > 0
            gone = place.dead(QUEUE)[0]["id"]
            limit_dead_letters(venue, 1000)
            assert (
                place.command("dead", "purge", QUEUE, gone, "--yes").returncode == 0
            )  # until then it goes on refusing
            until(lambda: not venue.left(QUEUE), "everything is settled")
            assert sorted([gone, *(letter["id"] for letter in place.dead(QUEUE))]) == sorted(bad)
            probes.handles(place)
            assert service.stop() == 0
        assert sorted(name for name in probes.runs(place) if name in bad) == sorted(bad), "each ran once"


def limit_dead_letters(venue: RabbitVenue, most: int) -> None:
    policy = json.dumps({"max-length": most, "overflow": "reject-publish"})
    venue.rabbit.ctl("set_policy", "-p", venue.vhost, "limit", r"\.dead$", policy, "--apply-to", "queues")


def test_a_channel_that_the_server_closes_over_a_slow_handler_is_made_again(tmp_path: Path) -> None:
    """Its time for an acknowledgement is over: the message is handed out anew, and nothing else is lost."""
    with venue_of("rabbitmq") as venue:
        assert isinstance(venue, RabbitVenue)
        set_delivery_timeout(venue, SLOW_SECONDS * 1000, tick=200)
        try:
            place = probes.place_of(tmp_path, venue.url)
            with place.running("--port", "0", **QUICK) as service:
                (slow,) = place.publish(QUEUE, ["go"])
                until(lambda: slow in probes.runs(place), "its handler runs")
                until(
                    lambda: probes.runs(place).count(slow) == 2, "it was handed out anew", deadline=HEALED_SECONDS * 3
                )
                (tmp_path / "go").touch()
                until(lambda: slow in probes.handled(place), "it is done")
                probes.handles(place)
                until(lambda: not venue.left(QUEUE), "everything is settled")
                assert service.health()["messages"]["residual"] == 0
                assert service.stop() == 0
        finally:
            set_delivery_timeout(venue, 1_800_000, tick=60_000)


def set_delivery_timeout(venue: RabbitVenue, milliseconds: int, *, tick: int) -> None:
    """Of channels that are opened from now on."""
    wanted = {"consumer_timeout": milliseconds, "channel_tick_interval": tick}
    said = ", ".join(f"application:set_env(rabbit, {name}, {value})" for name, value in wanted.items())
    venue.rabbit.ctl("eval", f"{said}.")


async def test_a_message_larger_than_the_server_takes_is_refused_and_speaks_for_no_other() -> None:
    with venue_of("rabbitmq") as venue:
        assert isinstance(venue, RabbitVenue)
        await asyncio.to_thread(venue.declare, QUEUE)
        venue.rabbit.ctl("eval", "application:set_env(rabbit, max_message_size, 1000000).")
        try:
            async with Publisher(venue.url) as publisher:
                large, *small = await asyncio.gather(
                    *(publisher.publish(QUEUE, body) for body in (bytes(1_000_001), *[b"small"] * 20)),
                    return_exceptions=True,
                )
                assert isinstance(large, BrokerRefused)
                assert "1000001" in str(large)
                kinds = {type(one) for one in small}
                assert kinds <= {str, PublishError, BrokerUnavailable}, "refused was one alone"
                assert all(one.in_doubt for one in small if isinstance(one, PublishError))
                assert await publisher.publish(QUEUE, b"after")
        finally:
            venue.rabbit.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")
