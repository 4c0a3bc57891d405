"""Everything works for a user who may do what the documentation says, and nothing beyond it."""

from __future__ import annotations

import re
import secrets
import shlex
from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place, until
from tests.faults import probes
from tests.faults.effects import HANDLER
from tests.faults.venues import RabbitVenue, RedisVenue, venue_of

DOCS = Path(__file__).parents[2] / "docs" / "brokers"
QUEUE = "orders"
FORBIDDEN = re.compile("NOPERM|ACCESS_REFUSED|refused|forbid", re.IGNORECASE)

WORKER = (
    HANDLER
    + """
class App(Worker):
    queue = "orders"
    retry = RetryPolicy(base_seconds=0.3, jitter=0.0)

    async def process_message(self, message):
        note("start", message)
        if message.body == "retry" and message.attempt == 1:
            raise LookupError("not yet")
        if message.body == "reject":
            raise Reject("never")
        note("end", message)
"""
)


def documented_rabbitmq() -> tuple[str, str, str]:
    """The patterns for configure, write and read."""
    found = re.search(
        r"^rabbitmqctl set_permissions -p \S+ \S+ (.+)$", (DOCS / "rabbitmq.md").read_text(), re.MULTILINE
    )
    assert found is not None, "docs/brokers/rabbitmq.md names no permissions"
    configure, write, read = shlex.split(found[1])
    return configure, write, read


def documented_redis() -> list[str]:
    """What follows ``ACL SETUSER worker``."""
    found = re.search(r"^ACL SETUSER worker (.+)$", (DOCS / "redis.md").read_text(), re.MULTILINE)
    assert found is not None, "docs/brokers/redis.md names no ACL"
    return shlex.split(found[1].replace("PASSWORD", "secret"))


def as_documented(venue: RabbitVenue | RedisVenue) -> str:
    """Make such a user; the URL with which it connects."""
    if isinstance(venue, RedisVenue):
        venue.redis.cli("ACL", "SETUSER", "worker", *documented_redis())
        return venue.url.replace("redis://", "redis://worker:secret@")
    user = f"u{secrets.token_hex(4)}"
    venue.rabbit.add_user(user, "secret", documented_rabbitmq(), venue.vhost)
    return venue.rabbit.url_of(user, "secret", venue.vhost)


def check_everything_works(place: Place) -> None:
    """Publish, consume, retry with a delay, dead-letter; count, list, show, replay, purge."""
    (place.directory / "app.py").write_text(WORKER)
    with place.running("--port", "0") as service:
        names = place.publish(QUEUE, ["good", "retry", "reject", "reject"])
        until(lambda: probes.handled(place) == set(names[:2]), "the good one, and the retried one")
        until(lambda: len(place.dead(QUEUE)) == 2, "the others are dead")
        assert place.depth(QUEUE)["dead"] == 2
        run(place, "dead", "show", QUEUE, names[2])
        run(place, "dead", "replay", QUEUE, names[2])
        until(lambda: probes.runs(place).count(names[2]) == 2, "it was replayed")
        until(lambda: len(place.dead(QUEUE)) == 2, "and died again")
        run(place, "dead", "purge", QUEUE, "--all", "--yes")
        assert place.dead(QUEUE) == []
        run(place, "check", "app:App")
        assert probes.is_ready(service)
        assert service.stop() == 0
    told = [line for line in service.lines if line["level"] != "info" and line["event"] != "worker.notice"]
    assert [line for line in told if FORBIDDEN.search(str(line))] == []


def run(place: Place, *arguments: str) -> None:
    done = place.command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["rabbitmq", "redis-stream", "redis-list"])
def test_everything_works_for_a_user_with_the_documented_permissions(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = Place(tmp_path)
        place.url = as_documented(venue)
        check_everything_works(place)


@pytest.mark.parametrize("name", ["rabbitmq", "redis-stream", "redis-list"])
def test_the_documented_permissions_open_no_other_queue(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = Place(tmp_path, WORKER)
        place.url = as_documented(venue)
        code, text = place.run_to_the_end(PYTHIA_QUEUE="payroll")
        assert code == 78, text
        assert "Traceback" not in text
