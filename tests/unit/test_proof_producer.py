"""The producer of a run ends when it is told to, however slowly it publishes."""

from __future__ import annotations

from pathlib import Path

from pythia.config import WorkerConfig
from pythia.proof.producer import LANES, PUBLISH_SECONDS, Producer, numbered
from tests.acceptance.service_kit import until

RATE = 1.0


def test_a_slow_producer_stops_without_publishing_what_it_had_in_mind(tmp_path: Path) -> None:
    assert LANES / RATE > PUBLISH_SECONDS + 5, "as long as every lane in turn would take, nobody waits"
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    producer = Producer(url, WorkerConfig(), "default", tmp_path, numbered, rate=RATE)
    producer.allow(1000)
    producer.start()
    until(lambda: producer.counts["confirmed"], "something is published")
    producer.stop()
    assert not producer.is_alive()
    assert producer.error is None
    assert producer.counts["confirmed"] < LANES
