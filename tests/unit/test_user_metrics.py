"""The user's own metrics: kinds, labels, names that are taken."""

from __future__ import annotations

import threading

import pytest

from pythia.core.metrics import Metrics
from pythia.core.worker import Worker
from tests.unit.core_kit import running


def test_asking_twice_gives_the_same_object():
    metrics = Metrics()
    assert metrics.counter("a_total") is metrics.counter("a_total", "help")
    assert metrics.gauge("g", labels=["x"]) is metrics.gauge("g")


def test_a_counter_counts_in_whole_numbers_and_only_grows():
    counter = Metrics().counter("a_total")
    counter.inc()
    counter.inc(2)
    assert counter._value == 3
    assert isinstance(counter._value, int)
    counter.inc(0.5)
    assert counter._value == 3.5
    with pytest.raises(ValueError, match="only grows"):
        counter.inc(-1)


def test_a_gauge_goes_up_and_down():
    gauge = Metrics().gauge("g")
    gauge.set(5)
    gauge.inc()
    gauge.dec(3)
    assert gauge._value == 3


def test_a_histogram_counts_in_buckets_and_times_blocks():
    histogram = Metrics().histogram("h", buckets=[2, 1])
    for value in (0.5, 1, 1.5, 99):
        histogram.observe(value)
    assert histogram.bounds == (1, 2)
    assert histogram.data.counts == [2, 1, 1]
    assert histogram._value == 102
    with pytest.raises(KeyError), histogram.time():
        raise KeyError
    assert sum(histogram.data.counts) == 5


def test_labels_are_all_named_and_each_set_of_values_is_a_series():
    counter = Metrics().counter("a_total", labels=("kind", "size"))
    counter.labels(kind="x", size=1).inc()
    counter.labels(size="1", kind="x").inc()
    counter.labels(kind="y", size=2).inc()
    assert [(child.labelvalues, child._value) for child in counter.series()] == [(("x", "1"), 2), (("y", "2"), 1)]
    assert counter._value == 3
    for wrong in ({"kind": "x"}, {"kind": "x", "size": 1, "more": 2}, {}):
        with pytest.raises(ValueError, match="has labels"):
            counter.labels(**wrong)
    with pytest.raises(ValueError, match="say labels"):
        counter.inc()


def test_other_labels_for_the_same_name_are_refused():
    metrics = Metrics()
    metrics.gauge("g", labels=("a",))
    with pytest.raises(ValueError, match="was declared with labels"):
        metrics.gauge("g", labels=("b",))


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "é", "a\n"])
def test_a_name_that_prometheus_would_refuse_is_refused_here(name):
    with pytest.raises(ValueError, match="not a Prometheus name"):
        Metrics().counter(name)


@pytest.mark.parametrize("label", ["__x", "1", "a-b", ""])
def test_a_label_that_prometheus_would_refuse_is_refused_here(label):
    with pytest.raises(ValueError, match="not a Prometheus name"):
        Metrics().counter("a", labels=[label])


def test_the_second_kind_of_a_name_is_exported_with_its_kind():
    metrics = Metrics()
    metrics.gauge("worker_uptime_seconds")
    metrics.histogram("worker_uptime_seconds")
    metrics.counter("other")
    assert [name for name, _ in metrics.exported()] == [
        "worker_uptime_seconds", "worker_uptime_seconds_histogram", "other",
    ]  # fmt: skip


def test_no_increment_is_lost_between_threads():
    counter = Metrics().counter("a_total", labels=["n"])

    def work():
        for n in range(2000):
            counter.labels(n=n % 3).inc()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter._value == 8000


async def test_pythias_own_numbers_are_read_by_their_short_names_and_cannot_be_written():
    class Counts(Worker):
        async def process_message(self, message):
            self.metrics.counter("orders_total", labels=["queue"]).labels(queue=message.queue).inc()
            self.metrics.counter("messages_processed_total").inc(1000)
            self.metrics.gauge("worker_state").set(99)

    async with running(Counts) as kit:
        for _ in range(3):
            await kit.settled(await kit.publish())
        metrics = kit.worker.metrics
        assert metrics.counter("messages_processed_total")._value == 3
        assert metrics.counter("messages_received_total")._value == 3
        assert metrics.gauge("worker_state")._value == 2
        assert metrics.gauge("conservation_residual")._value == 0
        assert metrics.gauge("messages_in_flight")._value == 0
        assert metrics.counter("orders_total")._value == 3
        metrics.gauge("paused").inc()
        metrics.gauge("paused").dec()
        assert metrics.gauge("paused")._value == 0
        assert [name for name, _ in metrics.exported()] == ["orders_total"]
