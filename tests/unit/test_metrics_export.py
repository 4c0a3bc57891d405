"""The exposition: every documented metric, valid in both formats, and nothing that is not known."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pythia.broker import QueueDepth
from pythia.config import WorkerConfig
from pythia.core.metrics import Metrics
from pythia.core.status import Check, Connection, Status
from pythia.core.tally import Tally
from pythia.observability.metrics import WorkerCollector, render

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

# Type and labels of every metric, as the documentation lists them. `process_restarts_total` is the supervisor's.
DOCUMENTED = {
    "messages_received_total": ("counter", "worker queue"),
    "messages_processed_total": ("counter", "worker queue outcome"),
    "message_processing_seconds": ("histogram", "worker queue"),
    "message_queue_wait_seconds": ("histogram", "worker queue"),
    "messages_in_flight": ("gauge", "worker queue"),
    "messages_buffered": ("gauge", "worker queue"),
    "retries_total": ("counter", "worker queue"),
    "dead_letters_total": ("counter", "worker queue reason"),
    "messages_published_total": ("counter", "worker destination result"),
    "queue_depth": ("gauge", "worker queue state"),
    "queue_oldest_age_seconds": ("gauge", "worker queue"),
    "consumer_up": ("gauge", "worker queue"),
    "broker_connected": ("gauge", "worker"),
    "broker_blocked": ("gauge", "worker"),
    "reconnects_total": ("counter", "worker"),
    "stale_settlements_total": ("counter", "worker queue"),
    "lease_renewals_total": ("counter", "worker"),
    "leases_lost_total": ("counter", "worker queue"),
    "event_loop_lag_seconds": ("gauge", "worker"),
    "worker_state": ("gauge", "worker"),
    "paused": ("gauge", "worker"),
    "health_check_up": ("gauge", "worker"),
    "config_generation": ("gauge", "worker"),
    "config_reloads_total": ("counter", "worker result"),
    "config_last_reload_successful": ("gauge", "worker"),
    "config_last_reload_success_timestamp_seconds": ("gauge", "worker"),
    "conservation_residual": ("gauge", "worker queue"),
    "drain_messages": ("gauge", "worker outcome"),
    "build_info": ("gauge", "version python broker"),
}


def make_status(tmp_path, name="orders", queue="orders"):
    path = tmp_path / "q.db"
    config = WorkerConfig(worker_name=name, worker_id=f"{name}-1", broker={"url": f"sqlite:///{path}"})
    status = Status(config, Tally(), Metrics())
    status.tally.queue(queue)
    return status


@pytest.fixture
def status(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_status(tmp_path)


@pytest.fixture
def full(status):
    """A worker of which everything is known."""
    queue = status.tally.queue("orders")
    queue.received, queue.in_flight = 12, 2
    queue.outcomes["ack"] = 10
    queue.dead_reasons["poison"] = 3
    for seconds in (0.001, 0.3, 100.0):
        queue.processing.observe(seconds)
        queue.wait.observe(seconds)
    queue.depth = QueueDepth(queue="orders", ready=1, in_flight=2, delayed=3, dead=4, oldest_age_seconds=5.5)
    status.tally.count_published("receipts", "confirmed", 7)
    status.broker_stats = lambda: {"lease_renewals": 9}
    status.check = Check("health_check", ok=True, at=0.0, seconds=0.0, error=None)
    status.connection = Connection(connected=True, since=0.0)
    return status


def families(*statuses, accept=""):
    body, content_type = render([WorkerCollector(status) for status in statuses], accept)
    text = body.decode()
    if accept:
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        return {family.name: family for family in parse_openmetrics(text)}
    assert content_type.startswith("text/plain; version=0.0.4")
    found = list(parse_text(text))
    assert len({family.name for family in found}) == len(found), "a family came twice"
    return {family.name: family for family in found}


def value(status, name, **labels):
    """The value of one sample, by its full name; None when there is none."""
    for family in families(status).values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def test_a_broker_that_takes_nothing_from_us_is_a_one(status):
    assert value(status, "pythia_broker_blocked", worker="orders") == 0
    status.broker_blocked = "memory alarm"
    assert value(status, "pythia_broker_blocked", worker="orders") == 1


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_every_documented_metric_is_there_with_its_type_and_labels(full, name):
    kind, labels = DOCUMENTED[name]
    family = families(full)[f"pythia_{name}".removesuffix("_total")]
    assert family.type == kind
    assert family.samples
    for sample in family.samples:
        assert set(sample.labels) - {"le"} == set(labels.split())


def test_nothing_of_ours_is_exported_that_is_not_documented(full):
    ours = {name for name in families(full) if name.startswith("pythia_")}
    assert ours == {f"pythia_{name}".removesuffix("_total") for name in DOCUMENTED}


def test_both_formats_say_the_same(full):
    full.metrics.counter("a_total").inc(3)
    full.metrics.histogram("h", labels=("x",)).labels(x="1").observe(1)
    full.metrics.gauge("g").set(2)
    full.metrics.counter("odd").inc()

    def samples(found):
        moving = ("process_", "python_gc", "pythia_event_loop_lag")
        return {
            (sample.name, *sorted(sample.labels.items()), sample.value)
            for family in found.values()
            for sample in family.samples
            if not sample.name.startswith(moving)
        }

    assert samples(families(full)) == samples(families(full, accept=OPENMETRICS))


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (OPENMETRICS, True),
        (PROMETHEUS, True),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
        (";;,,q=", False),
    ],
)  # fmt: skip
def test_the_format_is_what_the_scraper_accepts(status, accept, openmetrics):
    body, content_type = render([WorkerCollector(status)], accept)
    assert content_type.startswith("application/openmetrics-text") is openmetrics
    assert body.endswith(b"# EOF\n") is openmetrics


def test_closed_sets_are_there_at_nought_before_anything_happened(status):
    for kind in ("ack", "retry", "defer", "release", "dead_letter", "drop"):
        assert value(status, "pythia_messages_processed_total", outcome=kind) == 0
    for reason in (
        "rejected", "gave_up", "attempts_exhausted", "expired", "undecodable", "invalid", "too_large", "poison"
    ):  # fmt: skip
        assert value(status, "pythia_dead_letters_total", reason=reason) == 0
    for outcome in ("finished", "released", "abandoned"):
        assert value(status, "pythia_drain_messages", outcome=outcome) == 0
    for result in ("applied", "refused", "rolled_back"):
        assert value(status, "pythia_config_reloads_total", result=result) == 0
    assert value(status, "pythia_messages_received_total", queue="orders") == 0
    assert value(status, "pythia_message_processing_seconds_count", queue="orders") == 0


def test_what_a_broker_cannot_tell_is_absent_and_not_nought(status):
    assert value(status, "pythia_queue_depth") is None
    status.tally.queue("orders").depth = QueueDepth(queue="orders", ready=0, dead=2)
    assert value(status, "pythia_queue_depth", state="ready") == 0
    assert value(status, "pythia_queue_depth", state="dead") == 2
    assert value(status, "pythia_queue_depth", state="in_flight") is None
    assert value(status, "pythia_queue_oldest_age_seconds") is None
    assert value(status, "pythia_lease_renewals_total") is None
    assert value(status, "pythia_health_check_up") is None


def test_the_numbers_are_those_of_the_tally(full):
    assert value(full, "pythia_messages_received_total", queue="orders") == 12
    assert value(full, "pythia_messages_processed_total", outcome="ack") == 10
    assert value(full, "pythia_dead_letters_total", reason="poison") == 3
    assert value(full, "pythia_messages_published_total", destination="receipts", result="confirmed") == 7
    assert value(full, "pythia_messages_published_total", destination="receipts", result="refused") == 0
    assert value(full, "pythia_lease_renewals_total") == 9
    assert value(full, "pythia_conservation_residual", queue="orders") == 0
    assert value(full, "pythia_build_info", broker="sqlite") == 1
    assert value(full, "pythia_message_processing_seconds_bucket", le="0.5") == 2
    assert value(full, "pythia_message_processing_seconds_bucket", le="60.0") == 2
    assert value(full, "pythia_message_processing_seconds_bucket", le="+Inf") == 3
    assert value(full, "pythia_message_processing_seconds_count") == 3
    assert value(full, "pythia_message_processing_seconds_sum") == pytest.approx(100.301)


def test_a_loss_shows(status):
    status.tally.queue("orders").received = 1
    assert value(status, "pythia_conservation_residual", queue="orders") == 1


def test_a_loop_that_stands_still_shows_as_lag_while_it_does(status):
    assert value(status, "pythia_event_loop_lag_seconds") < 1
    status.heartbeat = time.monotonic() - 45
    assert value(status, "pythia_event_loop_lag_seconds") >= 45


def test_two_workers_share_each_family(tmp_path, full):
    other = make_status(tmp_path, "mail", "mail")
    full.metrics.counter("sent_total").inc()
    other.metrics.counter("sent_total").inc(2)
    found = families(full, other)
    assert {sample.labels["worker"]: sample.value for sample in found["sent"].samples} == {"orders": 1, "mail": 2}
    assert {sample.labels["worker"] for sample in found["pythia_worker_state"].samples} == {"orders", "mail"}
    assert len(found["pythia_build_info"].samples) == 1
    assert families(full, other, accept=OPENMETRICS)


def test_the_process_shows_itself_and_no_created_series_are_added(full):
    full.metrics.counter("a_total").inc()
    found = families(full)
    assert {"process_cpu_seconds", "python_info", "python_gc_collections"} <= set(found)
    assert not [name for name in found if name.endswith("_created")]


def test_what_the_user_registered_with_prometheus_client_comes_along(status):
    his = prometheus_client.Counter("his_own_total", "His own.")
    try:
        his.inc(4)
        assert value(status, "his_own_total") == 4
        assert "his_own_created" not in {
            sample.name for family in families(status).values() for sample in family.samples
        }
    finally:
        prometheus_client.REGISTRY.unregister(his)


# The user's own


def test_a_users_metrics_have_their_names_as_written_and_one_label_more(status):
    status.metrics.counter("orders_placed_total", "Orders.", labels=("shop",)).labels(shop="a").inc(3)
    status.metrics.counter("custom_count").inc(2)
    status.metrics.gauge("queue_size", "Size.").set(-1.5)
    status.metrics.histogram("work_seconds", "Work.", buckets=(1, 2, float("inf"))).observe(1.5)
    assert value(status, "orders_placed_total", worker="orders", shop="a") == 3
    assert value(status, "custom_count", worker="orders") == 2
    assert value(status, "queue_size", worker="orders") == -1.5
    assert value(status, "work_seconds_bucket", le="2.0") == 1
    assert value(status, "work_seconds_bucket", le="1.0") == 0
    assert value(status, "work_seconds_sum", worker="orders") == 1.5
    assert families(status)["custom_count"].type == "unknown"
    assert families(status, accept=OPENMETRICS)["custom_count"].type == "unknown"


def test_one_name_as_gauge_and_as_histogram_is_exported_as_two(status):
    status.metrics.gauge("worker_uptime_seconds").set(5)
    status.metrics.histogram("worker_uptime_seconds").observe(1)
    assert value(status, "worker_uptime_seconds") == 5
    assert value(status, "worker_uptime_seconds_histogram_count") == 1


def test_a_counter_beside_a_gauge_of_its_stem_is_exported_in_both_formats(status):
    status.metrics.counter("orders_total").inc(2)
    status.metrics.gauge("orders").set(1)
    for accept in ("", OPENMETRICS):
        found = families(status, accept=accept)
        assert {sample.name for name in ("orders", "orders_total") for sample in found[name].samples} == {
            "orders", "orders_total"
        }  # fmt: skip


@pytest.mark.parametrize("name", ["pythia_paused", "process_open_fds", "pythia_message_processing_seconds_sum"])
def test_a_users_metric_that_would_be_taken_for_another_is_left_out_with_one_notice(status, name):
    notices = []
    status.metrics.gauge(name).set(123454321)
    collector = WorkerCollector(status, notices.append)
    for _ in range(2):
        found = parse_text(render([collector])[0].decode())
        assert 123454321 not in {sample.value for family in found for sample in family.samples}
    assert len(notices) == 1
    assert name in notices[0]


def test_a_users_label_called_like_ours_is_kept_under_another_name(status):
    status.metrics.gauge("g", labels=("worker",)).labels(worker="his").set(1)
    status.metrics.histogram("h", labels=("le",)).labels(le="his").observe(1)
    assert value(status, "g", worker="orders", exported_worker="his") == 1
    assert value(status, "h_count", exported_le="his") == 1
    assert families(status, accept=OPENMETRICS)


@pytest.mark.parametrize("evil", ['a"b', "a\\b", "a\nb", "a\ud800b", "ü", "}"])
def test_no_label_or_help_can_break_the_exposition(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    status = make_status(tmp_path, queue=evil)
    status.tally.count_published(evil, "confirmed")
    status.metrics.gauge("g", help=evil.replace("\ud800", ""), labels=("x",)).labels(x=evil).set(1)
    assert value(status, "g", x=evil.encode("utf-8", "replace").decode()) == 1
    assert families(status, accept=OPENMETRICS)


# Lints


def lint(text):
    """What is wrong with the names and helps of an exposition."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    problems = [f"{name}: no help" for name in kinds if not helps.get(name, "").strip()]
    problems += [
        f"{name}: counter without _total"
        for name, kind in kinds.items()
        if kind == "counter" and not name.endswith("_total")
    ]
    problems += [
        f"{name}: _total, but a {kind}" for name, kind in kinds.items() if kind == "gauge" and name.endswith("_total")
    ]
    problems += [f"{name}: unit" for name in kinds if re.search(r"_(ms|millis\w*|sec|secs|mb|kb|minutes)(_|$)", name)]
    problems += [f"{name}: upper case" for name in kinds if name != name.lower()]
    return problems


@pytest.fixture
def everything(full):
    full.metrics.counter("a_total").inc()
    full.metrics.counter("odd").inc()
    full.metrics.gauge("g").set(1)
    full.metrics.histogram("h_seconds", "Help.", labels=("x",)).labels(x="1").observe(1)
    return render([WorkerCollector(full)])[0]


def test_the_lint_itself_finds_what_is_wrong():
    bad = "# TYPE a counter\n# HELP a \n# TYPE b_ms gauge\n# HELP b_ms B.\n# TYPE c_total gauge\n# HELP c_total C.\n"
    assert lint(bad) == ["a: no help", "a: counter without _total", "c_total: _total, but a gauge", "b_ms: unit"]


def test_the_exposition_is_clean_by_our_own_lint(everything):
    assert lint(everything.decode()) == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (Debian: package prometheus)")
def test_the_exposition_is_clean_by_promtool(everything):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=everything, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")
