"""What the pages for operators name is there: a section for each alert, files, anchors, tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.operations.dashboards import alerts

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS, SECURITY = ROOT / "docs" / "operations.md", ROOT / "docs" / "security.md"


def headings(page: Path, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", page.read_text(), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As a forge makes them of headings."""
    every = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in every}


def test_every_alert_has_its_section_and_every_section_its_alert():
    text = OPERATIONS.read_text()
    runbook = text[text.index("## When an alert fires") : text.index("## When the residual is not 0")]
    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == [alert["alert"] for alert in alerts()]


def test_every_section_of_the_runbook_says_what_to_do():
    for section in re.split(r"^### ", OPERATIONS.read_text(), flags=re.MULTILINE):
        name = section.partition("\n")[0]
        if name.startswith("Pythia"):
            assert "*Do:*" in section or "(#" in section or "*Look:*" in section, name


def test_every_runbook_link_of_an_alert_leads_to_its_section():
    for alert in alerts():
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert anchor in anchors(ROOT / page), alert["alert"]


def test_the_chapters_for_the_worst_nights_are_there():
    wanted = {"When the residual is not 0", "A full disk", "Rotating credentials", "100,000 replays"}
    assert wanted <= set(headings(OPERATIONS, 2))
    assert "Upgrading and going back" in headings(OPERATIONS, 2)


@pytest.mark.parametrize("page", [OPERATIONS, SECURITY], ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [OPERATIONS, SECURITY], ids=lambda page: page.stem)
def test_every_file_of_ours_that_is_named_is_there(page: Path):
    named = set(re.findall(r"`((?:config|tests)/[\w./@-]+)`", page.read_text()))
    assert named
    assert [path for path in named if path != "config/pythia.toml" and not (ROOT / path).exists()] == []


def test_every_row_of_what_holds_names_a_test():
    text = SECURITY.read_text()
    table = text[text.index("## What holds") : text.index("## What you have to see to")]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) > 10
    assert all(re.search(r"`tests/[\w/]+\.py`", row.rsplit(" | ", 1)[1]) for row in rows)
