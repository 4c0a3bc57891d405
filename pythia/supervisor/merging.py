"""The metrics of many processes as one: pure.

What only grows (counters, histograms) is summed, and the last totals of a process that is gone stay in the sum, so that
nothing goes backwards when it is replaced. Gauges are summed over the processes that are there, but where a sum would say
nothing: what every process reports alike, or about itself, is taken from the one that says the most, and a yes or no from the
one that is worse off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.metrics_core import Metric

Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and its labels, in order

GROWING = frozenset(
    {"counter", "histogram", "summary", "unknown"}
)  # unknown: a user's counter under a counter's wrong name
MOST = frozenset(
    {
        "pythia_queue_depth",
        "pythia_queue_oldest_age_seconds",
        "pythia_event_loop_lag_seconds",
        "pythia_worker_state",
        "pythia_paused",
        "pythia_broker_blocked",
        "pythia_config_generation",
        "process_max_fds",
    }
)
LEAST = frozenset(
    {
        "pythia_broker_connected",
        "pythia_consumer_up",
        "pythia_health_check_up",
        "pythia_config_last_reload_successful",
        "pythia_config_last_reload_success_timestamp_seconds",
        "process_start_time_seconds",
    }
)


@dataclass(slots=True)
class Family:
    """One metric: what it is, and its samples."""

    name: str
    kind: str
    text: str
    samples: dict[Key, float] = field(default_factory=dict)


Snapshot = Mapping[str, Family]  # what one process said of itself at one moment
NOTHING: Snapshot = {}


def read(said: Any) -> Snapshot:
    """The families as a process sends them.

    Raises:
        ValueError: they are not what a process of ours sends.
    """
    try:
        return {name: Family(name, kind, text, _samples(rows)) for name, kind, text, rows in said}
    except (TypeError, AttributeError) as error:
        raise ValueError("no metrics of ours") from error


def _samples(rows: Iterable[Any]) -> dict[Key, float]:
    return {(str(name), _labels(labels)): float(value) for name, labels, value in rows}


def _labels(labels: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(value)) for name, value in labels.items())


def kept(before: Snapshot, last: Snapshot) -> Snapshot:
    """``before``, the totals of the processes that are gone, with one more: of what only grows, the last it said."""
    return _merged([before, {name: family for name, family in last.items() if family.kind in GROWING}])


def merged(gone: Snapshot, living: Sequence[Snapshot]) -> Iterator[Metric]:
    """Everything, as families that prometheus_client renders."""
    for family in _merged([gone, *living]).values():
        metric = Metric(family.name, family.text, family.kind)
        for (name, labels), value in _in_order(family):
            metric.add_sample(name, dict(labels), value)
        yield metric


def _merged(snapshots: Iterable[Snapshot]) -> dict[str, Family]:
    """Of a name that two mean differently, the first one's."""
    result: dict[str, Family] = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            into = result.setdefault(name, Family(name, family.kind, family.text))
            if into.kind == family.kind:
                _take_in(into, family)
    return result


def _take_in(into: Family, family: Family) -> None:
    for key, value in family.samples.items():
        there = into.samples.get(key)
        into.samples[key] = value if there is None else _both(family, there, value)


def _both(family: Family, one: float, other: float) -> float:
    if family.name in LEAST:
        return min(one, other)
    if family.name in MOST or family.kind == "info" or family.name == "python_info":
        return max(one, other)
    return one + other


def _in_order(family: Family) -> list[tuple[Key, float]]:
    """A histogram's samples by series, its buckets ascending, then count and sum: processes may have begun at different ones."""
    rows = list(family.samples.items())
    if family.kind != "histogram":
        return rows
    rank = {f"{family.name}_bucket": 0, f"{family.name}_count": 1, f"{family.name}_sum": 2}

    def place(row: tuple[Key, float]) -> tuple[Any, ...]:
        (name, labels), _value = row
        series = tuple(pair for pair in labels if pair[0] != "le")
        bound = next((_bound(value) for label, value in labels if label == "le"), math.inf)
        return series, rank.get(name, 3), bound

    return sorted(rows, key=place)


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
