"""Metric families as an exposition wants them: each name once, the series of several workers under it.

What is valid here is valid in Prometheus' text format and in OpenMetrics, which is the stricter about names. ``_created``
series are left out: they double what is stored, and the process's own start time says as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Literal

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from pythia.core.tally import Histogram

Labels = Mapping[str, str]

# The names of the samples that a family of each kind may have; in OpenMetrics no other family may be called like one.
_SUFFIXES: Mapping[str, Sequence[str]] = {
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
    "gaugehistogram": ("", "_bucket", "_gsum", "_gcount"),
    "summary": ("", "_sum", "_count", "_created"),
    "info": ("", "_info"),
}


def counter(name: str, text: str) -> Metric:
    """A number that only grows; its samples are called ``…_total``."""
    return CounterMetricFamily(name, text)


def gauge(name: str, text: str) -> Metric:
    """A number that goes up and down."""
    return GaugeMetricFamily(name, text)


def histogram(name: str, text: str) -> Metric:
    """Observations counted in buckets; see ``put_histogram``."""
    return HistogramMetricFamily(name, text)


def info(name: str, text: str) -> Metric:
    """A 1 whose labels are what it says; its sample is called ``…_info``."""
    return InfoMetricFamily(name, text)


def unknown(name: str, text: str) -> Metric:
    """A number whose kind is not said: how a counter is exported whose name does not end in ``_total``."""
    return UnknownMetricFamily(name, text)


def put(family: Metric, labels: Labels, value: float) -> None:
    """One more sample of a family whose samples are single numbers."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    family.add_sample(family.name + suffix, _shown(labels), value)


def put_histogram(family: Metric, labels: Labels, data: Histogram) -> None:
    """The buckets, count and sum of one series. The copy of the counts is what all three are made from."""
    counts, total, labels = list(data.counts), data.total, _shown(labels)
    reached = 0
    bounds = [bound for bound in data.bounds if bound != inf]
    for bound, count in zip(bounds, counts, strict=False):
        reached += count
        le = floatToGoString(bound)  # type: ignore[no-untyped-call]  # prometheus_client annotates it in part
        family.add_sample(f"{family.name}_bucket", {**labels, "le": le}, reached)
    everything = sum(counts)
    family.add_sample(f"{family.name}_bucket", {**labels, "le": "+Inf"}, everything)
    family.add_sample(f"{family.name}_count", labels, everything)
    family.add_sample(f"{family.name}_sum", labels, total)


Origin = Literal["pythia", "process", "user"]


class Exposition:
    """Families gathered for one answer, in the order of their coming; what a renderer of prometheus_client takes."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._origins: dict[str, Origin] = {}  # of each name that is taken

    def collect(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def add(self, family: Metric, origin: Origin) -> bool:
        """Take the family in, or its samples into the like of it that is there (another worker's); False, and it is left
        out, if a name that it needs is something else's."""
        if self.refuses(family, origin):
            return False
        family.samples = [sample for sample in family.samples if sample.name != f"{family.name}_created"]
        there = self._families.setdefault(family.name, family)
        if there is not family:
            there.samples.extend(_new(there, family))
        self._origins.update(dict.fromkeys(names_of(family), origin))
        return True

    def refuses(self, family: Metric, origin: Origin) -> bool:
        there = self._families.get(family.name)
        if there is not None:
            return there.type != family.type or self._origins[family.name] != origin
        return not self._origins.keys().isdisjoint(names_of(family))


def names_of(family: Metric) -> list[str]:
    """Every name that the family claims."""
    return [family.name + suffix for suffix in _SUFFIXES.get(family.type, ("",))]


def _new(there: Metric, family: Metric) -> list[Sample]:
    seen = {_series(sample) for sample in there.samples}
    return [sample for sample in family.samples if _series(sample) not in seen]


def _series(sample: Sample) -> tuple[object, ...]:
    return sample.name, *sorted(sample.labels.items())


def _shown(labels: Labels) -> dict[str, str]:
    """Label values that every scraper can read: a lone surrogate would make the whole answer impossible to encode."""
    return {name: value.encode("utf-8", "replace").decode() for name, value in labels.items()}
