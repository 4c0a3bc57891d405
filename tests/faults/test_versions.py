"""Workers of two versions share a queue: what an earlier one wrote, fresh, waiting or dead, this one reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.acceptance.service_kit import Place, until
from tests.faults import golden
from tests.faults.golden import QUEUE
from tests.faults.raw_amqp import raw_producer
from tests.faults.venues import RabbitVenue, RedisVenue, venue_of

WORKER = """
import json, os
from pythia import Worker

SEEN = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

class App(Worker):
    queue = "golden"
    max_age_seconds = 0

    async def process_message(self, message):
        headers = {name: value.hex() if isinstance(value, bytes) else value for name, value in message.headers.items()}
        said = {
            "id": message.id, "body": message.body, "headers": headers, "content_type": message.content_type,
            "priority": message.priority, "published": message.timestamp.timestamp(),
            "correlation_id": message.correlation_id, "reply_to": message.reply_to,
            "idempotency_key": message.idempotency_key, "ordering_key": message.ordering_key,
        }
        os.write(SEEN, (json.dumps([message.attempt, said]) + "\\n").encode())
"""
OLD = {"PYTHIA_MAX_AGE_SECONDS": "0"}  # they were published long ago


def write_rabbit(venue: RabbitVenue) -> None:
    with raw_producer(venue.port, venue.vhost) as producer:
        producer.send(b"", QUEUE.encode(), golden.RABBIT_FRESH, golden.BODY)
        producer.send(golden.DELAY_EXCHANGE, golden.DELAY_KEY, golden.RABBIT_RETRY, golden.BODY)
        producer.send(b"", f"{QUEUE}.dead".encode(), golden.RABBIT_DEAD, golden.BODY)


def write_redis(venue: RedisVenue) -> None:
    with redis.Redis(port=venue.port) as client:
        if venue.name == "redis-stream":
            client.execute_command("XADD", QUEUE, "*", *golden.STREAM_FRESH)
            content = golden.packed(golden.STREAM_RETRY)
        else:
            client.lpush(QUEUE, golden.payload(golden.STREAM_FRESH))
            content = golden.payload(golden.LIST_RETRY)
        client.zadd(f"{{{QUEUE}}}:delayed", {golden.waiting(content): 1795640000250})
        client.execute_command("XADD", f"{{{QUEUE}}}:dead", "*", *golden.DEAD)


def seen(place: Place) -> list[tuple[int, dict[str, Any]]]:
    return sorted((tuple(json.loads(line)) for line in place.ledger()), key=lambda row: row[0])


@pytest.mark.parametrize("name", ["rabbitmq", "redis-stream", "redis-list"])
def test_what_an_earlier_version_wrote_is_handled_retried_and_replayed(name: str, tmp_path: Path) -> None:
    with venue_of(name) as venue:
        place = Place(tmp_path, WORKER)
        place.url = venue.url
        with place.running(**OLD) as service:
            write_rabbit(venue) if isinstance(venue, RabbitVenue) else write_redis(venue)
            until(lambda: len(seen(place)) == 2, "the fresh one and the one that waited")
            assert seen(place) == [(1, golden.PROPERTIES), (2, golden.PROPERTIES)]
            (letter,) = place.dead(QUEUE)
            assert (letter["id"], letter["reason"], letter["attempts"]) == ("golden-1", "gave_up", 2)
            assert letter["error"] == {"type": "builtins.LookupError", "message": "no such sku"}
            assert (letter["worker"], letter["worker_id"], letter["origin_queue"]) == ("orders", "orders-a-1", QUEUE)
            assert place.command("dead", "replay", QUEUE, "golden-1").returncode == 0
            until(lambda: len(seen(place)) == 3, "the dead one, again")
            assert seen(place)[1] == (1, golden.PROPERTIES | {"published": seen(place)[1][1]["published"]})
            until(lambda: not venue.left(QUEUE), "everything is settled")
            assert service.stop() == 0
