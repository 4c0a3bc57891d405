"""What /metrics of a worker says that has seen every outcome: well-formed, complete, and it adds up."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.service_kit import NOTE, Place, Service, until

APP = (
    NOTE
    + """
ODD = 'naïve "queue"\\\\n'

class App(Worker):
    queues = ("orders", ODD)
    sink = "receipts"
    concurrency = 4
    handler_timeout_seconds = 1
    retry = RetryPolicy(max_attempts=2, delays_seconds=(0.1,))

    async def on_startup(self):
        self.metrics.gauge("shop_carts_open", "Carts").set(1)
        self.metrics.histogram("shop_order_euros", "Worth", buckets=(1, 10, 100)).observe(12.5)
        self.metrics.counter("shop_orders", "Orders", labels=("kind",)).labels(kind='new "big"\\n\\\\').inc()

    async def health_check(self):
        return True

    async def process_message(self, message):
        match message.body:
            case "ack":
                return {"done": True}
            case "fail":
                raise LookupError("no such order")
            case "slow":
                await asyncio.sleep(3600)
            case "nap":
                await asyncio.sleep(0.05)
            case "defer" if not message.redelivered and not os.path.exists("deferred"):
                open("deferred", "w").close()
                raise Defer(0.1)
            case "reject":
                raise Reject("unknown sku")
            case "drop":
                raise Drop("a test order")
            case "publish":
                await self.publish("letters", {"to": "somebody"})
"""
)
ODD = 'naïve "queue"\\n'
SETTINGS = {
    "PYTHIA_METRICS__QUEUE_DEPTH_INTERVAL_SECONDS": "0.2",
    "PYTHIA_PREFETCH": "150",
    "PYTHIA_HEALTH_CHECK_INTERVAL": "1",
}

# Section 8 of the API, without process_restarts_total, which is the supervisor's.
PROMISED = {
    "counter": (
        "messages_received_total messages_processed_total retries_total dead_letters_total messages_published_total "
        "reconnects_total stale_settlements_total lease_renewals_total leases_lost_total config_reloads_total"
    ),
    "histogram": "message_processing_seconds message_queue_wait_seconds",
    "gauge": (
        "messages_in_flight messages_buffered queue_depth queue_oldest_age_seconds consumer_up broker_connected "
        "event_loop_lag_seconds worker_state paused health_check_up config_generation config_last_reload_successful "
        "config_last_reload_success_timestamp_seconds conservation_residual drain_messages build_info"
    ),
}
OURS = {kind: names.split() for kind, names in PROMISED.items()}
LABELS = {
    "messages_received_total": {"worker", "queue"},
    "messages_processed_total": {"worker", "queue", "outcome"},
    "dead_letters_total": {"worker", "queue", "reason"},
    "messages_published_total": {"worker", "destination", "result"},
    "queue_depth": {"worker", "queue", "state"},
    "broker_connected": {"worker"},
    "worker_state": {"worker"},
    "build_info": {"version", "python", "broker"},
}


@pytest.fixture(scope="module")
def rested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker that has seen every outcome and is at rest."""
    place = Place(tmp_path_factory.mktemp("metrics"), APP)
    place.publish("orders", ["ack"] * 20 + ["fail", "slow", "defer", "reject", "drop", "publish"])
    place.publish(ODD, ["ack"])
    place.publish_bytes("orders", b"{", content_type="application/json")
    with place.running("--port", "0", **SETTINGS) as service:
        _wait_for_rest(place)
        place.publish("orders", ["nap"] * 200)
        until(lambda: service.health()["messages"]["release"] > 0, "what waits too long for a slot is released")
        _wait_for_rest(place)
        until(lambda: service.health()["messages"]["in_flight"] == 0, "it is at rest")
        until(
            lambda: 'queue_depth{queue="orders",state="dead",worker="app"} 4.0' in service.ask("/metrics")[1], "counted"
        )
        yield service


def _wait_for_rest(place: Place) -> None:
    until(
        lambda: place.rows("SELECT count(*) FROM messages WHERE queue NOT IN ('receipts', 'letters')") == [(0,)], "rest"
    )


def test_the_exposition_is_well_formed(rested: Service) -> None:
    text = rested.ask("/metrics")[1]
    assert list(complaints(text)) == []
    list(text_string_to_metric_families(text))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say_about_it(rested: Service) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=rested.ask("/metrics")[1], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_metric_of_the_api_is_there_with_its_kind_and_labels(rested: Service) -> None:
    text = rested.ask("/metrics")[1]
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert {name: kinds.get(f"pythia_{name}") for names in OURS.values() for name in names} == {
        name: kind for kind, names in OURS.items() for name in names
    }
    for name, expected in LABELS.items():
        labels = re.findall(rf"^pythia_{name}\{{(.*)\}} ", text, re.MULTILINE)
        assert labels, name
        for row in labels:
            assert set(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', row)) == expected


def test_nothing_is_missing_when_everything_is_added_up(rested: Service) -> None:
    samples = defaultdict[str, list[tuple[dict[str, str], float]]](list)
    for family in text_string_to_metric_families(rested.ask("/metrics")[1]):
        for sample in family.samples:
            samples[sample.name].append((sample.labels, sample.value))
    residuals = {labels["queue"]: value for labels, value in samples["pythia_conservation_residual"]}
    assert residuals == {"orders": 0, ODD: 0}
    for queue in residuals:
        received = sum(v for labels, v in samples["pythia_messages_received_total"] if labels["queue"] == queue)
        processed = sum(v for labels, v in samples["pythia_messages_processed_total"] if labels["queue"] == queue)
        assert received == processed > 0  # nothing is lost and nothing in flight
    outcomes = Counter[str]()
    for labels, value in samples["pythia_messages_processed_total"]:
        outcomes[labels["outcome"]] += int(value)
    assert outcomes.pop("release") > 0
    assert outcomes == {"ack": 20 + 1 + 1 + 1 + 200, "retry": 2, "defer": 1, "dead_letter": 4, "drop": 1}
    reasons = {labels["reason"]: value for labels, value in samples["pythia_dead_letters_total"] if value}
    assert reasons == {"attempts_exhausted": 2, "rejected": 1, "undecodable": 1}
    published = {labels["destination"]: v for labels, v in samples["pythia_messages_published_total"] if v}
    assert published == {"receipts": 21, "letters": 1}


NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SAMPLE = re.compile(rf"({NAME.pattern})(?:\{{(.*)\}})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def complaints(text: str) -> Iterator[str]:
    """What a strict reader of Prometheus' text format would say, promtool's lints included."""
    if not text.endswith("\n"):
        yield "the last line does not end"
    kinds: dict[str, str] = {}
    helps: set[str] = set()
    seen: set[str] = set()
    family, closed = "", set[str]()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            if name in helps or name in closed:
                yield f"{name}: a second HELP"
            if len(line.split(" ", 3)) < 4:
                yield f"{name}: no help text"
            helps.add(name)
            closed.add(family)
            family = name
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name != family:
                yield f"{name}: TYPE does not follow its HELP"
            kinds[name] = kind
            yield from _naming(name, kind)
        else:
            yield from _sample(line, family, kinds.get(family, "untyped"), seen)
    yield from _buckets(text, [name for name, kind in kinds.items() if kind == "histogram"])


def _naming(name: str, kind: str) -> Iterator[str]:
    if not NAME.fullmatch(name):
        yield f"{name}: not a name"
    if kind == "counter" and not name.endswith("_total"):
        yield f"{name}: a counter that does not end in _total"
    if kind != "counter" and name.endswith("_total"):
        yield f"{name}: not a counter, but it ends in _total"
    if re.search(r"_(milliseconds|ms|minutes|hours|kilobytes|percent)\b", name):
        yield f"{name}: not in base units"


def _sample(line: str, family: str, kind: str, seen: set[str]) -> Iterator[str]:
    match = SAMPLE.match(line)
    if match is None:
        yield f"not a sample: {line!r}"
        return
    name, labels, value = match.groups()
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}.get(kind, ("",))
    if name not in {family + suffix for suffix in suffixes}:
        yield f"{name}: not of the family {family} that it stands under"
    if labels and LABEL.sub("", labels):
        yield f"{name}: labels that cannot be read: {labels}"
    float(value)
    series = name + (labels or "")
    if series in seen:
        yield f"{series}: a second time"
    seen.add(series)


def _buckets(text: str, histograms: list[str]) -> Iterator[str]:
    for family in text_string_to_metric_families(text):
        if family.name not in histograms:
            continue
        rows = defaultdict[tuple[tuple[str, str], ...], dict[float, float]](dict)
        counts: dict[tuple[tuple[str, str], ...], float] = {}
        for sample in family.samples:
            key = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
            if sample.name.endswith("_bucket"):
                rows[key][float(sample.labels["le"])] = sample.value
            elif sample.name.endswith("_count"):
                counts[key] = sample.value
        for key, buckets in rows.items():
            values = [buckets[bound] for bound in sorted(buckets)]
            if values != sorted(values):
                yield f"{family.name}: buckets that fall"
            if buckets.get(float("inf")) != counts.get(key):
                yield f"{family.name}: its +Inf bucket is not its count"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n", "not a counter"),
        ("# HELP a A.\n# TYPE a counter\na 1\n", "does not end in _total"),
        ("# HELP a A.\n# TYPE a gauge\na 1\na 1\n", "a second time"),
        ("# HELP a A.\n# TYPE a gauge\nb 1\n", "not of the family"),
        ('# HELP a A.\n# TYPE a gauge\na{b="c"d"} 1\n', "cannot be read"),
        ("# HELP a A.\n# TYPE a gauge\na 1\n# HELP b B.\n# TYPE b gauge\nb 1\n# HELP a A.\n", "second HELP"),
        ('# HELP a A.\n# TYPE a histogram\na_bucket{le="1.0"} 2\na_bucket{le="+Inf"} 1\na_count 1\n', "fall"),
    ],
)
def test_the_strict_reader_is_strict(text: str, complaint: str) -> None:
    assert any(complaint in said for said in complaints(text))
