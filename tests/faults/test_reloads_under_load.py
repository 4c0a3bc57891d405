"""Reloads under load, on every broker: valid and not, to another server, during an outage; nothing is lost and nothing is done twice."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Self

import pytest

from pythia import SyncPublisher
from tests.acceptance.reload_kit import Reloadable, outcomes, reload
from tests.acceptance.service_kit import NOTE, Service, until
from tests.faults.venues import DURABLE, RabbitVenue, venue_of

EVERYWHERE = ("sqlite", *DURABLE)
FEW, MANY = 40, 1000
LONG = 3600
NOWHERE = {"sqlite": "sqlite:////proc/nowhere/queue.db", "rabbitmq": "amqp://127.0.0.1:1/"}

HOLDING = (
    NOTE
    + """
class App(Worker):
    async def process_message(self, message):
        note("began", message.body)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        note("ended", message.body)
"""
)


@contextmanager
def url_of(name: str, tmp_path: Path) -> Iterator[str]:
    if name == "sqlite":
        tmp_path.mkdir(exist_ok=True)
        yield f"sqlite:///{tmp_path / 'queue.db'}"
    else:
        with venue_of(name) as venue:
            if isinstance(venue, RabbitVenue):
                venue.declare("default")
            yield venue.url


class Traffic:
    """Publishes numbers while entered, as fast as the broker confirms but no faster than they are done with."""

    def __init__(self, place: Reloadable, behind: int = 200) -> None:
        self._place = place
        self._behind = behind
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self.said = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _publish(self) -> None:
        with SyncPublisher(self._place.url) as publisher:
            while not self._over.is_set():
                if self.said - len(self._place.ledger()) < self._behind:
                    publisher.publish_many("default", range(self.said, self.said + 20))
                    self.said += 20
                else:
                    self._over.wait(0.005)


def drawn(random: Random, name: str) -> tuple[str, str, str | None, str]:
    """A configuration to reload to: its keys, those of ``[broker]``, its URL if it is another, and what comes of it."""
    keys = [f"concurrency = {random.randint(1, 30)}"]
    broker, url, result = "", None, "config.applied"
    match random.choice(("hot", "resubscribe", "reconnect", "invalid", "broken", "restart", "nowhere")):
        case "resubscribe":
            keys.append(f"lease_seconds = {random.randint(20, 90)}")
            keys.append(
                random.choice(("prefetch = 40", "queues = ['default', 'other']", "handler_timeout_seconds = 60"))
            )
        case "reconnect":
            broker = f"heartbeat_seconds = {random.randint(10, 60)}"
        case "invalid":
            keys.append("max_age_seconds = 'long'")
            result = "config.refused"
        case "broken":
            keys.append("max_age_seconds = = 5")
            result = "config.refused"
        case "restart":
            keys.append("worker_name = 'other'")
            result = "config.refused"
        case "nowhere":
            url, result = NOWHERE.get(name, "redis://127.0.0.1:1/"), "config.refused"
    return "\n".join(keys), broker, url, result


def hold(name: str, tmp_path: Path, reloads: int) -> None:
    random = Random(f"{name} {reloads}")
    with url_of(name, tmp_path) as url:
        place = Reloadable(tmp_path, seconds=0.002, url=url)
        place.write()
        with place.served() as service, Traffic(place) as traffic:
            until(place.ledger, "messages are done")
            for _ in range(reloads):
                keys, broker, elsewhere, result = drawn(random, name)
                place.write(keys, elsewhere, broker)
                line = reload(service)
                assert line["event"] == result, f"{keys} {broker} {elsewhere}: {line}"
            before = len(place.ledger())
            until(lambda: len(place.ledger()) > before, "messages are done after the last reload, too")
            traffic.__exit__()
            settle(service, place, traffic.said)


def settle(service: Service, place: Reloadable, said: int) -> None:
    """All that was said was done, once each, and the service's accounts say so."""
    until(lambda: len(place.ledger()) >= said, "all are done")
    until(lambda: service.health()["messages"]["in_flight"] == 0, "nothing is in flight")
    counts = Counter(line.split()[0] for line in place.ledger())
    assert counts == Counter(map(str, range(said)))
    assert {line.split()[1] for line in place.ledger()} == {"1"}
    messages = service.health()["messages"]
    assert (messages["ack"], messages["lost"], messages["residual"]) == (said, 0, 0)
    assert service.stop() == 0


@pytest.mark.parametrize("name", EVERYWHERE)
def test_reloads_under_load_valid_and_not_lose_and_repeat_nothing(name, tmp_path):
    hold(name, tmp_path, FEW)


@pytest.mark.soak
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_thousand_of_them_do_not_either(name, tmp_path):
    hold(name, tmp_path, MANY)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_another_server_is_gone_to_and_what_is_in_hand_is_settled_where_it_came_from(name, tmp_path):
    with url_of(name, tmp_path / "a") as old, url_of(name, tmp_path / "b") as new:
        place = Reloadable(tmp_path, url=old, module=HOLDING)
        place.write("concurrency = 3")
        with place.served() as service:
            for url, bodies in ((old, range(10)), (new, range(100, 110))):
                with SyncPublisher(url) as publisher:
                    publisher.publish_many("default", bodies)
            until(lambda: len(place.ledger()) == 3, "three are in hand")
            place.write("concurrency = 6", url=new)
            line = reload(service)
            assert (line["event"], line["changed"]) == ("config.applied", ["concurrency", "broker.url"])
            until(lambda: len(place.ledger()) == 6, "three of the other server are in hand, too")
            assert service.ask("/readyz")[0] == 200
            (tmp_path / "go").touch()
            until(lambda: sum("ended" in line for line in place.ledger()) == 13, "what was in hand, and the others")
            until(lambda: service.health()["messages"]["in_flight"] == 0, "nothing is in flight")
            ended = sorted(int(line.split()[1]) for line in place.ledger() if line.startswith("ended"))
            assert ended[3:] == list(range(100, 110))
            assert service.health()["messages"]["lost"] == 0
            assert service.stop() == 0
        left = place.command("queues", "default", "--json", PYTHIA_BROKER__URL=old)
        assert '"ready": 7' in left.stdout, left.stdout + left.stderr


def test_credentials_that_are_rotated_are_tried_before_the_former_connection_is_left(tmp_path):
    with venue_of("rabbitmq") as venue:
        assert isinstance(venue, RabbitVenue)
        rabbit, user = venue.rabbit, f"u{venue.vhost}"
        rabbit.add_user(user, "first", vhost=venue.vhost)
        url: Callable[[str], str] = lambda password: rabbit.url_of(user, password, venue.vhost)
        place = Reloadable(tmp_path, url=url("first"))
        place.write()
        with place.served() as service:
            rabbit.change_password(user, "second")
            place.write(url=url("wrong"))
            line = reload(service)
            assert line["event"] == "config.refused"
            assert "wrong" not in "".join(service.text)
            place.url = url("second")
            place.write()
            assert reload(service)["event"] == "config.applied"
            with SyncPublisher(place.url) as publisher:
                publisher.publish_many("default", range(10))
            settle(service, place, 10)


@pytest.mark.parametrize("name", ["redis-stream", "rabbitmq"])
def test_a_reload_during_an_outage_is_applied_or_refused_at_once_and_the_worker_comes_back(name, tmp_path):
    with venue_of(name) as venue:
        place = Reloadable(tmp_path, url=venue.url)
        place.write()
        with place.served() as service:
            with SyncPublisher(venue.url) as publisher:
                publisher.publish_many("default", range(10))
            until(lambda: len(place.ledger()) == 10, "the first ten")
            until(lambda: not venue.left("default"), "and their settlements")
            venue.stop()
            service.wait_for("broker.lost")
            place.write("concurrency = 4")
            assert reload(service)["event"] == "config.applied"
            place.write("concurrency = 5", broker="heartbeat_seconds = 20")
            assert reload(service)["event"] == "config.refused"
            place.write("concurrency = 5\nqueues = ['default', 'more']")
            assert reload(service)["event"] == "config.refused"
            place.write("concurrency = 5\nlease_seconds = 50")
            assert reload(service)["event"] == "config.applied"
            venue.start()
            with SyncPublisher(venue.url) as publisher:
                publisher.publish_many("default", range(10, 20))
            settle(service, place, 20)
        assert len(outcomes(service)) == 4
