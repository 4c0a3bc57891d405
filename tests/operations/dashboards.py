"""What the dashboard and the alert rules ask of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CONFIG = Path(__file__).resolve().parents[2] / "config"
DASHBOARD = CONFIG / "grafana" / "dashboards" / "pythia.json"
ALERTS = CONFIG / "prometheus" / "alerts.yml"
CHOSEN = {"$__rate_interval": "1m", "$worker": ".*", "$queue": ".*"}  # as Grafana fills them in

_FUNCTIONS = {"histogram_quantile", "label_values"}
_SELECTOR = re.compile(r"(?P<name>\b[a-z_][a-z0-9_:]*)\s*(?P<matchers>\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Every question of the dashboard, its variables filled in."""
    return [filled(target["expr"]) for panel in panels() for target in panel.get("targets", ())]


def filled(text: str) -> str:
    for name, value in CHOSEN.items():
        text = text.replace(name, value)
    return text


def series(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Each metric that the expression names, with what it demands of its labels: label → (operator, value)."""
    for found in _SELECTOR.finditer(_GROUPED.sub("", expression)):
        name = found["name"]
        if name == "up" or ("_" in name and name not in _FUNCTIONS):
            yield (
                name,
                {label: (operator, value) for label, operator, value in _MATCHER.findall(found["matchers"] or "")},
            )


def grouped(expression: str) -> set[str]:
    """The labels that it groups or joins by."""
    return {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",") if label.strip()}
