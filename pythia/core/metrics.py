"""The user's own metrics: ``self.metrics.counter("orders_total").inc()``. Values live here; an exporter renders them.

Asking twice for a name gives the same object. The same name may be asked for as another kind (the documentation's first
page does): the second kind is exported with its kind as suffix. A name that is one of Pythia's own without ``pythia_``
reads Pythia's value; writing to it changes nothing. Safe for use from several threads.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, Self, TypeVar

from pythia.core.tally import Histogram as Buckets

MetricKind = Literal["counter", "gauge", "histogram"]
DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")


class Metric:
    """One series, or the parent of labelled ones."""

    kind: ClassVar[MetricKind]

    def __init__(self, name: str, help: str, labels: Sequence[str], labelvalues: tuple[str, ...] = ()) -> None:  # noqa: A002 - the API's word
        self.name = name
        self.help = help
        self.labelnames = tuple(labels)
        self.labelvalues = labelvalues
        self._children: dict[tuple[str, ...], Self] = {}
        self._lock = threading.Lock()

    def labels(self, **values: object) -> Self:
        """The series with these label values; each declared label exactly once.

        Raises:
            ValueError: other labels than those declared.
        """
        if set(values) != set(self.labelnames):
            raise ValueError(f"metric {self.name} has labels {list(self.labelnames)}, not {sorted(values)}")
        key = tuple(str(values[name]) for name in self.labelnames)
        with self._lock:
            child = self._children.get(key)
            if child is None:
                child = self._children[key] = self._child(key)
            return child

    def series(self) -> Iterator[Self]:
        """Every series that has values: itself without labels, its children with them."""
        with self._lock:
            return iter(list(self._children.values()) if self.labelnames else [self])

    def _child(self, values: tuple[str, ...]) -> Self:
        return type(self)(self.name, self.help, self.labelnames, values)

    def _check_unlabelled(self) -> None:
        if self.labelnames and not self.labelvalues:
            raise ValueError(f"metric {self.name} has labels {list(self.labelnames)}: say labels(...) first")


class Counter(Metric):
    """A number that only grows."""

    kind: ClassVar[MetricKind] = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str], labelvalues: tuple[str, ...] = ()) -> None:  # noqa: A002 - the API's word
        super().__init__(name, help, labels, labelvalues)
        self._total = 0.0

    def inc(self, amount: float = 1) -> None:
        if amount < 0:
            raise ValueError(f"counter {self.name} only grows: cannot add {amount}")
        self._check_unlabelled()
        with self._lock:
            self._total += amount

    @property
    def _value(self) -> float:
        """The sum over all its series; an ``int`` when it is whole."""
        total = self._total + sum(child._total for child in self._children.values())  # noqa: SLF001 - its own children
        return int(total) if total == int(total) else total


class Gauge(Metric):
    """A number that goes up and down."""

    kind: ClassVar[MetricKind] = "gauge"

    def __init__(self, name: str, help: str, labels: Sequence[str], labelvalues: tuple[str, ...] = ()) -> None:  # noqa: A002 - the API's word
        super().__init__(name, help, labels, labelvalues)
        self._current = 0.0

    def set(self, value: float) -> None:
        self._check_unlabelled()
        self._current = float(value)

    def inc(self, amount: float = 1) -> None:
        self._check_unlabelled()
        with self._lock:
            self._current += amount

    def dec(self, amount: float = 1) -> None:
        self.inc(-amount)

    @property
    def _value(self) -> float:
        return self._current


class Histogram(Metric):
    """Observations counted in buckets."""

    kind: ClassVar[MetricKind] = "histogram"

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 - the API's word
        labels: Sequence[str],
        labelvalues: tuple[str, ...] = (),
        buckets: Iterable[float] | None = None,
    ) -> None:
        super().__init__(name, help, labels, labelvalues)
        self.bounds = tuple(sorted(DEFAULT_BUCKETS if buckets is None else buckets))
        self.data = Buckets(self.bounds)

    def observe(self, value: float) -> None:
        self._check_unlabelled()
        with self._lock:
            self.data.observe(float(value))

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observe how long the block took, in seconds, however it ends."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - started)

    @property
    def _value(self) -> float:
        return self.data.total

    def _child(self, values: tuple[str, ...]) -> Self:
        return type(self)(self.name, self.help, self.labelnames, values, self.bounds)


class _OurCounter(Counter):
    """One of Pythia's own, read by its short name."""

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        super().__init__(name, "", ())
        self._read = read

    def inc(self, amount: float = 1) -> None:
        """Changes nothing: the number is Pythia's."""

    @property
    def _value(self) -> float:
        return self._read()


class _OurGauge(Gauge):
    """One of Pythia's own, read by its short name."""

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        super().__init__(name, "", ())
        self._read = read

    def set(self, value: float) -> None:
        """Changes nothing: the number is Pythia's."""

    def inc(self, amount: float = 1) -> None:
        """Changes nothing: the number is Pythia's."""

    @property
    def _value(self) -> float:
        return self._read()


M = TypeVar("M", bound=Metric)


class Metrics:
    """Get-or-create for the worker's metrics. ``ours`` maps Pythia's own short names to (kind, reader)."""

    def __init__(self, ours: Mapping[str, tuple[MetricKind, Callable[[], float]]] | None = None) -> None:
        self._ours = dict(ours or {})
        self._metrics: dict[tuple[MetricKind, str], Metric] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Counter:  # noqa: A002 - the API's word
        return self._get(Counter, name, labels, lambda: Counter(name, help, labels))

    def gauge(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Gauge:  # noqa: A002 - the API's word
        return self._get(Gauge, name, labels, lambda: Gauge(name, help, labels))

    def histogram(
        self,
        name: str,
        help: str = "",  # noqa: A002 - the API's word
        labels: Sequence[str] = (),
        buckets: Iterable[float] | None = None,
    ) -> Histogram:
        return self._get(Histogram, name, labels, lambda: Histogram(name, help, labels, buckets=buckets))

    def exported(self) -> list[tuple[str, Metric]]:
        """(exported name, metric) of everything that is the user's own, in the order of asking."""
        with self._lock:
            metrics = list(self._metrics.values())
        names: dict[str, MetricKind] = {}
        rows: list[tuple[str, Metric]] = []
        for metric in metrics:
            if isinstance(metric, _OurCounter | _OurGauge):
                continue
            first = names.setdefault(metric.name, metric.kind)
            rows.append((metric.name if first == metric.kind else f"{metric.name}_{metric.kind}", metric))
        return rows

    def _get(self, cls: type[M], name: str, labels: Sequence[str], make: Callable[[], M]) -> M:
        with self._lock:
            metric = self._metrics.get((cls.kind, name))
            if metric is None:
                metric = self._metrics[cls.kind, name] = self._make(cls, name, labels, make)
        if not isinstance(metric, cls):
            raise TypeError(f"metric {name} is one of Pythia's own and no {cls.kind}")
        if tuple(labels) != metric.labelnames and labels:
            raise ValueError(f"metric {name} was declared with labels {list(metric.labelnames)}, not {list(labels)}")
        return metric

    def _make(self, cls: type[M], name: str, labels: Sequence[str], make: Callable[[], M]) -> Metric:
        if not _NAME.match(name) or not all(_LABEL.match(label) for label in labels):
            raise ValueError(f"not a Prometheus name: {name!r} with labels {list(labels)}")
        kind_and_reader = self._ours.get(name)
        if kind_and_reader is None or kind_and_reader[0] != cls.kind:
            return make()
        read = kind_and_reader[1]
        return _OurCounter(name, read) if cls.kind == "counter" else _OurGauge(name, read)
