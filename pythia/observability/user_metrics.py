"""The user's own metrics as families: their names as written, one label more."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.metrics_core import Metric as Family

from pythia.core.metrics import Counter, Gauge, Histogram, Metric, Metrics
from pythia.observability.families import (
    Exposition,
    Labels,
    counter,
    gauge,
    histogram,
    put,
    put_histogram,
    unknown,
)


class UserMetrics:
    """Exports a worker's facade. What collides with another name is left out, and ``notice`` hears of it once."""

    def __init__(self, metrics: Metrics, notice: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._notice = notice
        self._noticed: set[str] = set()

    def add_to(self, exposition: Exposition, worker: str, *, counters: bool) -> None:
        """Add the counters, or all the others, as far as their names are free. The counters' names can give way."""
        for name, metric in self._metrics.exported():
            if isinstance(metric, Counter) is counters:
                family = _family(name, metric, exposition)
                _fill(family, metric, worker)
                if not exposition.add(family, "user"):
                    self._left_out(name)

    def _left_out(self, name: str) -> None:
        if name not in self._noticed:
            self._noticed.add(name)
            self._notice(
                f"metric {name} is not exported: its name, or one made from it, is another metric's; rename it"
            )


def _family(name: str, metric: Metric, exposition: Exposition) -> Family:
    text = metric.help.strip() or f"{name}, counted by the worker itself."
    match metric:
        case Counter():
            return _counter(name, text, exposition)
        case Gauge():
            return gauge(name, text)
        case Histogram():
            return histogram(name, text)
    raise TypeError(f"metric {name} is of no kind that can be exported")


def _counter(name: str, text: str, exposition: Exposition) -> Family:
    """A counter; of unknown kind where a counter could not be called so: its name must end in ``_total``, and in
    OpenMetrics nothing else may be called what stands before that (a gauge ``orders`` beside ``orders_total``)."""
    family = counter(name, text)
    if not name.endswith("_total") or exposition.refuses(family, "user"):
        return unknown(name, text)
    return family


def _fill(family: Family, metric: Metric, worker: str) -> None:
    for series in metric.series():
        labels = _labels(series, worker)
        match series:
            case Histogram():
                put_histogram(family, labels, series.data)
            case Counter() | Gauge():
                put(family, labels, series._value)  # noqa: SLF001 - part of the public API, by the first page's tests


def _labels(series: Metric, worker: str) -> Labels:
    """The user's labels beside ours; one called like ours becomes ``exported_…``, as Prometheus itself would have it."""
    reserved = {"worker", "le"} if isinstance(series, Histogram) else {"worker"}
    labels = {"worker": worker}
    for name, value in zip(series.labelnames, series.labelvalues, strict=True):
        labels[_free(name, {*reserved, *labels})] = value
    return labels


def _free(name: str, taken: set[str]) -> str:
    return _free(f"exported_{name}", taken) if name in taken else name
