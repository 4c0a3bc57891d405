"""Metrics: what the workers of this process count, rendered when somebody scrapes.

Nothing is kept here and nothing is added to the hot path: a scrape reads the plain numbers of ``Status`` and ``Tally``, from
the scraper's thread. What a broker cannot tell is absent, never 0; what belongs to a closed set is there at 0, so that a
first increase is seen.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import get_args

from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from pythia.core.status import Status
from pythia.core.tally import KINDS, QueueTally
from pythia.errors import DeadReason
from pythia.observability import facts
from pythia.observability.families import Exposition, counter, gauge, histogram, info, put, put_histogram
from pythia.observability.user_metrics import UserMetrics

PUBLISH_RESULTS = ("confirmed", "refused", "unknown")
DEPTH_STATES = ("ready", "in_flight", "delayed", "dead")


class WorkerCollector:
    """The metrics of one worker. ``notice`` hears, once for each, of metrics of the user's that cannot be exported."""

    def __init__(self, status: Status, notice: Callable[[str], None] = lambda _text: None) -> None:
        self._status = status
        self._users = UserMetrics(status.metrics, notice)

    @property
    def worker(self) -> str:
        return self._status.config.worker_name

    def ours(self) -> Iterator[Metric]:
        """Pythia's own families."""
        status, labels = self._status, {"worker": self.worker}
        queues = [({**labels, "queue": queue.queue}, queue) for queue in list(status.tally.queues.values())]
        yield from _messages(queues)
        yield from _depths(queues)
        yield from _published(status, labels)
        yield from _state(status, labels)
        yield from _configuration(status, labels)
        yield _build(status)

    def users(self, exposition: Exposition, *, counters: bool) -> None:
        """Add the user's own families to Pythia's: his counters, or all the others."""
        self._users.add_to(exposition, self.worker, counters=counters)


def render(collectors: Sequence[WorkerCollector], accept: str = "") -> tuple[bytes, str]:
    """Everything as (body, content type): OpenMetrics if ``accept`` asks for it, else Prometheus' text format.

    With it come the process's own metrics, and whatever the user registered with prometheus_client itself.
    """
    exposition = gathered(collectors)
    if wants_openmetrics(accept):
        body: bytes = openmetrics.generate_latest(exposition)  # type: ignore[no-untyped-call]  # it is not annotated
        return body, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(exposition), CONTENT_TYPE_PLAIN_0_0_4


def gathered(collectors: Sequence[WorkerCollector]) -> Exposition:
    """Every family, once: Pythia's, the process's, the users'."""
    exposition = Exposition()
    for family in chain.from_iterable(collector.ours() for collector in collectors):
        exposition.add(family, "pythia")
    for family in REGISTRY.collect():
        exposition.add(family, "process")
    for counters in (False, True):  # a counter can give way to a gauge of another worker, not the other way round
        for collector in collectors:
            collector.users(exposition, counters=counters)
    return exposition


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics is accepted, and no less than plain text."""
    weights = dict(map(_weight, accept.lower().split(",")))
    wanted = weights.get("application/openmetrics-text", 0.0)
    return wanted > 0 and wanted >= weights.get("text/plain", 0.0)


def _weight(accepted: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in accepted.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0


_Row = tuple[dict[str, str], QueueTally]


def _messages(rows: Sequence[_Row]) -> Iterator[Metric]:
    """What happened to messages, by queue."""
    for name, text, read in (
        ("messages_received_total", "Messages handed to this worker.", lambda queue: queue.received),
        ("retries_total", "Counted failures: messages that come again later.", lambda queue: queue.outcomes["retry"]),
        ("stale_settlements_total", "Settlements that came too late: nothing was written.", lambda queue: queue.stale),
        (
            "leases_lost_total",
            "Deliveries that stopped being ours before they were settled.",
            lambda queue: queue.leases_lost,
        ),
    ):
        yield _each(counter, name, text, rows, read)
    yield from _outcomes(rows)
    yield from _times(rows)
    for name, text, read in (
        ("messages_in_flight", "Messages handed to us and not settled.", lambda queue: queue.in_flight),
        ("messages_buffered", "Of those in flight, how many wait for a handler.", lambda queue: queue.buffered),
        (
            "conservation_residual",
            "Received less everything that became of it; other than 0 is a defect.",
            facts.residual,
        ),
    ):
        yield _each(gauge, name, text, rows, read)
    consumed = [(labels, queue) for labels, queue in rows if queue.consumed]
    text = "1 while the queue's consumer is registered with the broker."
    yield _each(gauge, "consumer_up", text, consumed, lambda queue: queue.registered)


def _each(
    kind: Callable[[str, str], Metric], name: str, text: str, rows: Sequence[_Row], read: Callable[[QueueTally], float]
) -> Metric:
    family = kind(f"pythia_{name}", text)
    for labels, queue in rows:
        put(family, labels, read(queue))
    return family


def _outcomes(rows: Sequence[_Row]) -> Iterator[Metric]:
    processed = counter("pythia_messages_processed_total", "Messages settled, by what became of them.")
    dead = counter("pythia_dead_letters_total", "Messages dead-lettered, by the reason.")
    for labels, queue in rows:
        for kind in KINDS:
            put(processed, {**labels, "outcome": kind}, queue.outcomes[kind])
        for reason in get_args(DeadReason):
            put(dead, {**labels, "reason": reason}, queue.dead_reasons.get(reason, 0))
    yield processed
    yield dead


def _times(rows: Sequence[_Row]) -> Iterator[Metric]:
    processing = histogram("pythia_message_processing_seconds", "How long handlers ran.")
    wait = histogram("pythia_message_queue_wait_seconds", "From publishing to the start of the handler.")
    for labels, queue in rows:
        put_histogram(processing, labels, queue.processing)
        put_histogram(wait, labels, queue.wait)
    yield processing
    yield wait


def _depths(rows: Sequence[_Row]) -> Iterator[Metric]:
    """What the broker holds; every replica reports it, so take the maximum."""
    depth = gauge("pythia_queue_depth", "Messages that the broker holds, by state; take the maximum over replicas.")
    age = gauge("pythia_queue_oldest_age_seconds", "Age of the oldest ready message; take the maximum over replicas.")
    for labels, queue in rows:
        held = queue.depth
        if held is None:
            continue
        for state in DEPTH_STATES:
            if (count := getattr(held, state)) is not None:
                put(depth, {**labels, "state": state}, count)
        if held.oldest_age_seconds is not None:
            put(age, labels, held.oldest_age_seconds)
    yield depth
    yield age


def _published(status: Status, labels: dict[str, str]) -> Iterator[Metric]:
    family = counter("pythia_messages_published_total", "Messages published, by destination and the broker's answer.")
    published = dict(status.tally.published)
    for destination in dict.fromkeys(destination for destination, _result in published):
        for result in PUBLISH_RESULTS:
            count = published.get((destination, result), 0)
            put(family, {**labels, "destination": destination, "result": result}, count)
    yield family


def _state(status: Status, labels: dict[str, str]) -> Iterator[Metric]:
    """How the worker is, and how it stands with the broker."""
    tally, check = status.tally, status.check
    lag = max(status.loop_lag, facts.standstill(status, time.monotonic()) or 0.0)
    renewals = facts.broker_stats(status).get("lease_renewals")
    for kind, name, text, value in (
        (
            gauge,
            "worker_state",
            "0 initializing, 1 starting, 2 running, 3 stopping, 4 stopped, 5 error.",
            int(status.state),
        ),
        (gauge, "paused", "1 while intake is paused.", status.paused),
        (gauge, "broker_connected", "1 while connected to the broker.", status.connection.connected),
        (gauge, "broker_blocked", "1 while the broker takes nothing from us.", status.broker_blocked is not None),
        (counter, "reconnects_total", "Connections to the broker after the first.", tally.reconnects),
        (counter, "lease_renewals_total", "Leases renewed.", renewals),
        (gauge, "event_loop_lag_seconds", "How late the event loop's last turn was, or is.", lag),
        (gauge, "health_check_up", "1 if the last health_check() said yes.", None if check is None else check.ok),
    ):
        if value is not None:
            yield _one(kind, name, text, labels, value)
    drained = gauge("pythia_drain_messages", "What became of the messages in hand at the last drain.")
    for outcome, count in tally.drained.items():
        put(drained, {**labels, "outcome": outcome}, count)
    yield drained


def _configuration(status: Status, labels: dict[str, str]) -> Iterator[Metric]:
    tally = status.tally
    applied = tally.last_reload is None or tally.last_reload[1] == "applied"
    yield _one(gauge, "config_generation", "Configurations applied, the first included.", labels, tally.generation)
    reloads = counter("pythia_config_reloads_total", "Reloads of the configuration, by result.")
    for result, count in tally.reloads.items():
        put(reloads, {**labels, "result": result}, count)
    yield reloads
    yield _one(
        gauge, "config_last_reload_successful", "1 if the last reload was applied, or none was tried.", labels, applied
    )
    yield _one(
        gauge,
        "config_last_reload_success_timestamp_seconds",
        "When a configuration was last applied.",
        labels,
        tally.last_reload_ok_at,
    )


def _one(kind: Callable[[str, str], Metric], name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = kind(f"pythia_{name}", text)
    put(family, labels, value)
    return family


def _build(status: Status) -> Metric:
    family = info("pythia_build", "Versions, as labels.")
    build = {"version": facts.version(), "python": platform.python_version(), "broker": facts.broker_kind(status)}
    put(family, build, 1)
    return family
