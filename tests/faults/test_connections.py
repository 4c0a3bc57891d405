"""Connections that break, brokers that refuse: noticed in time, told truly, healed without a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_kit import assert_one_clear_line, until
from tests.faults import probes
from tests.faults.probes import HEALED_SECONDS, QUEUE, QUICK
from tests.faults.venues import DURABLE, RabbitVenue, RedisVenue, venue_of
from tests.kit.proxy import Proxy
from tests.kit.servers import PrivateRedis, require_private_redis

OUTAGE_SECONDS = 3.0
HEARTBEAT_SECONDS = 2
SCHEDULING_SECONDS = 1.5  # of a busy machine, beyond the promise

FAILS_ONCE = (
    probes.HANDLER
    + """
class App(Worker):
    concurrency = 4
    retry = RetryPolicy(base_seconds=0.2, jitter=0.0)

    async def process_message(self, message):
        note("start", message)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        if message.body == "fail" and message.attempt == 1:
            note("fail", message)
            raise LookupError("not yet")
        note("end", message)
"""
)


@pytest.fixture
def venue(request) -> Iterator[RabbitVenue | RedisVenue]:
    with venue_of(request.param) as venue:
        yield venue


@pytest.fixture
def rabbit() -> Iterator[RabbitVenue]:
    with venue_of("rabbitmq") as venue:
        assert isinstance(venue, RabbitVenue)
        yield venue


each_durable = pytest.mark.parametrize("venue", DURABLE, indirect=True)


# Outages.


@each_durable
def test_a_broker_that_was_away_is_served_within_five_seconds_of_its_return(venue, tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, venue.url)
    with place.running("--port", "0", **QUICK) as service:
        probes.handles(place)
        venue.stop()
        away_since = time.monotonic()
        until(lambda: probes.says(service, "reconnecting"), "readiness tells", deadline=HEALED_SECONDS)
        assert probes.metric(service, "pythia_broker_connected") == 0
        time.sleep(max(0.0, away_since + OUTAGE_SECONDS - time.monotonic()))  # so long it is away, at least
        venue.start()
        probes.handles(place)
        until(lambda: probes.is_ready(service), "ready again")
        assert len(service.events("broker.connected")) == 2, "at the start, and after the outage"
        assert len(service.events("broker.lost")) == 1, "one line for an outage"
        assert service.stop() == 0


# Half-open links.


@each_durable
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "all handlers busy"])
def test_a_link_that_is_dead_and_does_not_say_so_is_noticed_in_two_heartbeats(
    venue, busy: bool, tmp_path: Path
) -> None:
    settings = QUICK | {"PYTHIA_BROKER__HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS)}
    with Proxy("127.0.0.1", venue.port) as proxy:
        place = probes.place_of(tmp_path, venue.url)
        with place.running("--port", "0", "-b", proxy.url(venue.url), **settings) as service:
            probes.handles(place)
            if busy:
                place.publish(QUEUE, ["go"] * 4)
                until(lambda: len(probes.runs(place)) == 5, "all handlers are busy")
            proxy.blackhole()
            service.wait_for("broker.lost", deadline=2 * HEARTBEAT_SECONDS + 1 + SCHEDULING_SECONDS)
            assert probes.says(service, "reconnecting")
            proxy.cut()
            proxy.heal()
            (tmp_path / "go").touch()
            probes.handles(place)
            until(lambda: probes.is_ready(service), "ready again")
            until(lambda: not venue.left(QUEUE), "everything is settled")
            assert service.stop() == 0


# Alarms and full memory.


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_while_rabbitmq_has_an_alarm_acks_go_on_and_a_retry_waits_for_its_end(
    rabbit: RabbitVenue, what: str, tmp_path: Path
) -> None:
    alarm = {"memory": rabbit.rabbit.memory_alarm, "disk": rabbit.rabbit.disk_alarm}[what]
    place = probes.place_of(tmp_path, rabbit.url, FAILS_ONCE)
    with place.running("--port", "0", **QUICK) as service:
        names = place.publish(QUEUE, ["fail", "good", "good", "good", "later", "later"])
        until(lambda: len(probes.runs(place)) == 4, "all handlers run")
        alarm(True)
        try:
            (tmp_path / "go").touch()
            until(lambda: probes.says(service, "broker_blocked"), "readiness tells")
            until(lambda: service.events("settle.failed"), "the retry is refused")
            until(lambda: set(names[1:4]) <= probes.handled(place), "the others are done")
            until(lambda: sum(rabbit.left(QUEUE).values()) <= 3, "their acks went on")
            assert probes.metric(service, "pythia_broker_blocked") == 1
        finally:
            alarm(False)
        until(lambda: probes.handled(place) == set(names), "the retry came, and the rest")
        until(lambda: not rabbit.left(QUEUE), "everything is settled")
        until(lambda: probes.is_ready(service), "ready again")
        assert sorted(probes.runs(place)) == sorted([*names, names[0]]), "nothing is doubled"
        assert probes.events(service, "broker.blocked", "broker.unblocked") == ["broker.blocked", "broker.unblocked"]
        assert service.stop() == 0


@pytest.mark.parametrize("venue", ["redis-stream", "redis-list"], indirect=True)
def test_while_redis_is_out_of_memory_acks_go_on_and_a_retry_waits_for_its_end(
    venue: RedisVenue, tmp_path: Path
) -> None:
    place = probes.place_of(tmp_path, venue.url, FAILS_ONCE)
    with place.running("--port", "0", **QUICK) as service:
        names = place.publish(QUEUE, ["fail", "good", "good", "good", "later", "later"])
        until(lambda: len(probes.runs(place)) == 4, "all handlers run")
        venue.redis.fill_up(True)
        (tmp_path / "go").touch()
        until(lambda: service.events("settle.failed"), "the retry is refused")
        until(lambda: venue.unsettled(QUEUE) == 1, "the acks of the others went on")
        venue.redis.fill_up(False)
        until(lambda: probes.handled(place) == set(names), "the retry came, and the rest")
        until(lambda: not venue.left(QUEUE), "everything is settled")
        assert sorted(probes.runs(place)) == sorted([*names, names[0]]), "nothing is doubled"
        assert service.stop() == 0


BLOCKS = (
    probes.HANDLER
    + """
class App(Worker):
    async def process_message(self, message):
        note("start", message)
        time.sleep(message.body)
        note("end", message)
"""
)


def test_a_handler_that_blocks_the_loop_for_several_heartbeats_keeps_its_connection_and_runs_once(
    rabbit: RabbitVenue, tmp_path: Path
) -> None:
    place = probes.place_of(tmp_path, rabbit.url, BLOCKS)
    with place.running("--port", "0", **QUICK) as service:
        (blocked,) = place.publish(QUEUE, [10.0])  # five of 2 s; the server waits for two
        until(lambda: blocked in probes.handled(place), "it is handled")
        (after,) = place.publish(QUEUE, [0.0])
        until(lambda: after in probes.handled(place), "and the next one")
        until(lambda: not rabbit.left(QUEUE), "everything is settled")
        assert service.events("broker.lost") == []
        assert sorted(probes.runs(place)) == sorted([blocked, after])
        assert service.stop() == 0


# What waiting does not heal.


def check_refused_start(code: int, text: str, *words: str) -> None:
    assert code == 78, text
    errors = [line for line in map(json.loads, filter(_is_json, text.splitlines())) if line["level"] == "error"]
    assert [line["event"] for line in errors] == ["broker.refused", "worker.failed"]
    assert_one_clear_line(errors[1]["message"], *words)
    assert "Traceback" not in text
    assert "s3cret" not in text


def _is_json(line: str) -> bool:
    return line.startswith("{")


def test_rabbitmqs_no_at_the_start_is_a_sentence_and_exit_78(rabbit: RabbitVenue, tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, rabbit.rabbit.url_of("guest", "s3cret", rabbit.vhost))
    check_refused_start(*place.run_to_the_end(), "password of broker.url")
    place.url = rabbit.rabbit.url_of("guest", "guest", "nowhere")
    check_refused_start(*place.run_to_the_end(), "virtual host", "add_vhost")
    place.url = rabbit.url
    rabbit.declare(QUEUE)
    settings = {"PYTHIA_QUEUE": QUEUE, "PYTHIA_RABBITMQ__QUEUE_TYPE": "classic"}
    check_refused_start(*place.run_to_the_end(**settings), "x-queue-type", "rabbitmq.queue_type")


@pytest.mark.parametrize("mode", ["stream", "list", "pubsub"])
def test_redis_no_at_the_start_is_a_sentence_and_exit_78(mode: str, tmp_path: Path) -> None:
    require_private_redis()
    with PrivateRedis() as redis:
        redis.cli("CONFIG", "SET", "requirepass", "right")
        for login in (":s3cret@", ""):
            place = probes.place_of(tmp_path, f"redis://{login}127.0.0.1:{redis.port}/0?mode={mode}")
            check_refused_start(*place.run_to_the_end(), "password")


def change_password(venue: RabbitVenue | RedisVenue, password: str) -> None:
    """At the server, which ends the connections that had the old one."""
    if isinstance(venue, RabbitVenue):
        venue.rabbit.change_password("shop", password)
    else:
        venue.redis.cli("ACL", "SETUSER", "shop", "resetpass", f">{password}")
    venue.cut()


@pytest.mark.timeout(400)  # asked every 30 s in the end, and rabbitmqctl takes its time
@each_durable
def test_a_password_that_is_changed_and_changed_back_is_healed_without_a_restart(venue, tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, venue.url)
    with place.running("--port", "0", "-b", with_login(venue), **QUICK) as service:
        probes.handles(place)
        change_password(venue, "s3cret-other")
        service.wait_for("broker.refused")
        assert probes.says(service, "reconnecting")
        change_password(venue, "s3cret-first")
        probes.handles(place, deadline=60.0)  # asked every 30 s in the end, so that no account is locked
        until(lambda: probes.is_ready(service), "ready again")
        assert len(service.events("worker.starting")) == 1
        assert service.stop() == 0
    assert "s3cret" not in "".join(service.text)
    assert "Traceback" not in "".join(service.text)


def with_login(venue: RabbitVenue | RedisVenue) -> str:
    """The URL of a user of whom the server knows that the password is ``s3cret-first``."""
    if isinstance(venue, RabbitVenue):
        if "shop" not in venue.rabbit.ctl("list_users"):
            venue.rabbit.ctl("add_user", "shop", "s3cret-first")
        venue.rabbit.change_password("shop", "s3cret-first")
        venue.rabbit.set_permissions("shop", (".*",) * 3, venue.vhost)
        return venue.rabbit.url_of("shop", "s3cret-first", venue.vhost)
    venue.redis.cli("ACL", "SETUSER", "shop", "on", ">s3cret-first", "~*", "&*", "+@all")
    return venue.url.replace("redis://", "redis://shop:s3cret-first@")
