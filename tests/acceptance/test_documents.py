"""Every code block of README.md and docs/ does what the page says. How blocks are marked: pages.py."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.acceptance.pages import Reader, blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def dev_commands() -> set[str]:
    """The commands that ``./dev --help`` lists."""
    listed = subprocess.run([ROOT / "dev", "--help"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_does_what_the_page_says(
    page: Path, tmp_path: Path, dev_commands: set[str], project: dict
):
    extras = project["optional-dependencies"]
    with Reader(tmp_path, commands=dev_commands, project=project["name"], extras=extras) as reader:
        for block in blocks(page.read_text(), str(page.relative_to(ROOT))):
            reader.do(block)
