"""The dashboard and the alert rules against the metrics of a worker that runs: each asks only for what there is, and what there
is can be seen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.service_kit import Place, until
from tests.operations import dashboards
from tests.operations.dashboards import ALERTS, CONFIG, alerts, expressions, filled, grouped, panels, series

PROMETHEUS = CONFIG / "prometheus"
SCRAPED = {"job", "instance"}  # what Prometheus adds to every series
PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")

Exported = dict[str, dict[str, set[str]]]  # sample name → label → its values


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a worker answers that has packed an order, has one waiting, and knows how old that is."""
    place = Place(tmp_path_factory.mktemp("monitoring"))
    settings = {
        "PYTHIA_SINK": "receipts",
        "PYTHIA_METRICS__QUEUE_DEPTH_INTERVAL_SECONDS": "0.2",
        "PYTHIA_HEALTH_CHECK_INTERVAL": "0.2",
    }
    with place.running("--port", "0", target="pythia.examples.orders:OrderWorker", **settings) as service:
        place.publish("orders", [{"id": 1, "sku": "b-7"}, {"id": 2, "sku": "nothing"}])
        until(lambda: service.health()["messages"]["ack"] == 1, "an order is packed")
        place.command("pause", service.url)
        place.publish("orders", [{"id": 3, "sku": "b-7"}])
        for late in ("queue_oldest_age_seconds", "health_check_up"):
            until(lambda late=late: f"pythia_{late}{{" in service.ask("/metrics")[1], late)
        yield service.ask("/metrics")[1]


@pytest.fixture(scope="module")
def of_several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a service of two processes answers when one was killed and replaced."""
    place = Place(tmp_path_factory.mktemp("several"))
    with place.running("--port", "0", "--processes", "2", target="pythia.examples.orders:OrderWorker") as service:
        service.wait_for("process.started", count=2)
        os.kill(service.events("process.started")[0]["pid"], signal.SIGKILL)
        service.wait_for("process.started", count=3)
        yield service.ask("/metrics")[1]


@pytest.fixture(scope="module")
def exported(scraped: str, of_several: str) -> Exported:
    found: Exported = defaultdict(lambda: defaultdict(set))
    for family in [*text_string_to_metric_families(scraped), *text_string_to_metric_families(of_several)]:
        for sample in family.samples:
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
            found[sample.name]["instance"].add("")
    return dict(found)


def asked() -> list[tuple[str, str]]:
    """Who asks, and what."""
    shown = [(panel["title"], filled(target["expr"])) for panel in panels() for target in panel.get("targets", ())]
    return [*shown, *((alert["alert"], alert["expr"]) for alert in alerts())]


@pytest.mark.parametrize(("who", "expression"), asked())
def test_what_is_asked_for_is_exported_with_the_labels_that_are_meant(who: str, expression: str, exported: Exported):
    named = list(series(expression))
    assert named, f"{who} asks for nothing"
    labels: set[str] = set()
    for name, matchers in named:
        if name != "up":  # Prometheus' own
            assert name in exported, f"{who}: no worker exports {name}"
        has = exported.get(name, {})
        labels |= set(has) | SCRAPED
        for label, (operator, value) in matchers.items():
            assert label in has or label in SCRAPED, f"{who}: {name} has no label {label}"
            if operator in ("=", "!=") and label not in SCRAPED:
                assert value in has[label], f"{who}: {label} of {name} is never {value}"
    assert grouped(expression) <= labels, who


def test_everything_that_is_exported_can_be_seen(exported: Exported):
    seen = {name for expression in expressions() for name, _ in series(expression)}
    ours = {name for name in exported if name.startswith("pythia_")}
    assert ours - seen == set()


def test_a_metric_that_is_misspelt_would_be_found(exported: Exported):
    with pytest.raises(AssertionError, match="no worker exports pythia_retry_total"):
        test_what_is_asked_for_is_exported_with_the_labels_that_are_meant("X", "rate(pythia_retry_total[5m])", exported)
    with pytest.raises(AssertionError, match="is never red"):
        expression = 'pythia_queue_depth{state="red"}'
        test_what_is_asked_for_is_exported_with_the_labels_that_are_meant("X", expression, exported)


def test_the_dashboard_is_one_that_grafana_draws():
    board = json.loads(dashboards.DASHBOARD.read_text())
    identities = [panel["id"] for panel in board["panels"]]
    assert len(identities) == len(set(identities))
    drawn = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] and panel["fieldConfig"]["defaults"]["unit"] for panel in drawn)
    taken: dict[tuple[int, int], int] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["id"]) == panel["id"], "two panels lie on each other"
    variables = {f"${variable['name']}" for variable in board["templating"]["list"]}
    assert variables == {"$datasource", "$worker", "$queue"}
    assert not [text for text in expressions() if "$" in text]


def test_the_provisioning_leads_to_the_dashboard_and_to_prometheus():
    provisioning = CONFIG / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "pythia.yml").read_text())["providers"]
    compose = yaml.safe_load((CONFIG.parent / "docker-compose.yml").read_text())["services"]
    assert f"./config/grafana/dashboards:{provider['options']['path']}:ro" in compose["grafana"]["volumes"]


def test_the_rules_are_the_ones_that_are_loaded_and_workers_are_what_is_scraped():
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert config["rule_files"] == [ALERTS.name]
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "pythia"
    (found,) = job["dns_sd_configs"]
    compose = yaml.safe_load((CONFIG.parent / "docker-compose.yml").read_text())["services"]
    assert set(found["names"]) == {name for name in compose if name.startswith("worker")}
    assert found["port"] == 8080


def test_every_alert_says_what_it_is_how_bad_and_where_to_read_on():
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names))
    for alert in alerts():
        assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"].keys() == {"severity"}
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"].keys() == {"summary", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_every_alert_is_tried_both_firing_and_quiet():
    fired, quiet = set[str](), set[str]()
    for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            (fired if case.get("exp_alerts") else quiet).add(case["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert fired == quiet == names


@PROMTOOL
@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_promtool_agrees(command: tuple[str, ...]):
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
