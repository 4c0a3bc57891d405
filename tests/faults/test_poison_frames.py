"""Frames that no client library would send: the connection survives them, and each message reaches its handler."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tests.acceptance.service_kit import until
from tests.faults import probes
from tests.faults.probes import QUEUE, QUICK
from tests.faults.raw_amqp import long, raw_producer, short
from tests.faults.venues import RabbitVenue, venue_of

WORKER = (
    probes.HANDLER
    + """
class Named:
    def __init__(self, message):
        self.id, self.attempt = message.body, message.attempt

class App(Worker):
    retry = RetryPolicy(base_seconds=0.2, jitter=0.0, max_attempts=2)

    async def process_message(self, message):
        note("start", Named(message))
        if message.body.endswith("-fails"):
            raise LookupError("never")
        note("end", Named(message))
"""
)
"""Messages are known by their bodies: an id may be among what cannot be read."""

NOT_UTF8 = b"\xff\xfe\xe9"
POISON: dict[str, dict[str, bytes | int]] = {
    "plain": {},
    "name": {"table": short(NOT_UTF8) + b"S" + long(b"v")},
    "value": {"table": short(b"n") + b"S" + long(NOT_UTF8)},
    "binary": {"table": short(b"n") + b"x" + long(NOT_UTF8)},
    "twice": {"table": short(b"n") + b"S" + long(b"1") + short(b"n") + b"S" + long(b"2")},
    "late-header": {"table": short(b"n") + b"T" + struct.pack(">Q", 1 << 62)},
    "late": {"timestamp": 1 << 62},
    "latest": {"timestamp": (1 << 64) - 1},
    "nested": {"table": short(b"n") + (b"F" + long(short(NOT_UTF8) + b"V"))},
    "marks": {
        "table": b"".join(short(name) + b"S" + long(NOT_UTF8) for name in (b"pythia-attempt", b"pythia-first-seen"))
    },
}
EXCHANGE = "faults.topic"


def test_a_poison_frame_ends_no_connection_and_its_message_is_handled(tmp_path: Path) -> None:
    place = probes.place_of(tmp_path, "", WORKER)
    bound = {
        "PYTHIA_RABBITMQ__EXCHANGE": EXCHANGE,
        "PYTHIA_RABBITMQ__EXCHANGE_TYPE": "topic",
        "PYTHIA_RABBITMQ__ROUTING_KEYS": "#",
    }
    with venue_of("rabbitmq") as venue:
        assert isinstance(venue, RabbitVenue)
        place.url = venue.url
        with place.running("--port", "0", **QUICK, **bound) as service:
            with raw_producer(venue.port, venue.vhost) as producer:
                for name, how in POISON.items():
                    for body in (name, f"{name}-fails"):
                        producer.publish(QUEUE.encode(), body, json.dumps(body).encode(), **how)
                for body in ("key", "key-fails"):
                    producer.publish(NOT_UTF8, body, json.dumps(body).encode(), exchange=EXCHANGE.encode())
            names = {*POISON, "key"}
            until(lambda: probes.handled(place) == names, "all are handled")
            until(lambda: len(place.dead(QUEUE)) == len(names), "those that fail are dead letters")
            until(lambda: not venue.left(QUEUE), "everything is settled")
            assert sorted(probes.runs(place)) == sorted(
                [*names, *(f"{name}-fails" for name in names for _ in range(2))]
            )
            assert service.events("broker.lost") == service.events("consumer.lost") == []
            assert service.stop() == 0
