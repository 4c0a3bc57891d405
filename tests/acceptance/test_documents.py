"""Every code block of README.md and docs/ does what the page says. How blocks are marked: pages.py."""

from __future__ import annotations

import contextlib
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pages import SERVERS, Reader, blocks
from tests.kit import servers

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


@pytest.fixture
def found() -> Iterator[dict[str, str]]:
    """The URL of each server that there is; where none may be missing, a missing one fails. Redis is the page's own."""
    with contextlib.ExitStack() as stack:
        here: dict[str, str] = {}
        if servers.must_have() or servers.find_rabbitmq():
            here["rabbitmq"] = servers.require_rabbitmq()
        if servers.redis_binary():
            here["redis"] = stack.enter_context(servers.PrivateRedis()).url
        elif servers.must_have() or servers.find_redis():
            here["redis"] = servers.require_redis()
        yield here


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_does_what_the_page_says(
    page: Path, tmp_path: Path, dev_commands: set[str], project: dict, request: pytest.FixtureRequest
):
    text, extras = page.read_text(), project["optional-dependencies"]
    found = request.getfixturevalue("found") if any(url in text for url in SERVERS) else {}
    with Reader(tmp_path, commands=dev_commands, project=project["name"], extras=extras, servers=found) as reader:
        for block in blocks(text, str(page.relative_to(ROOT))):
            reader.do(block)
