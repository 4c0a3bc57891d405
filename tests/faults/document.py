"""Writes docs/faults.md from the catalogue: ``python -m tests.faults.document [--check]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tests.faults import catalogue
from tests.faults.catalogue import Fault, Shown

PAGE = Path("docs/faults.md")
TITLES = {
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "sqlite": "SQLite",
    "process": "Processes and handlers",
    "payload": "Messages",
    "configuration": "Configuration",
    "clock": "Clocks",
    "http": "HTTP",
}
OPENING = """\
# Faults

Written by `./dev docs` from `tests/faults/catalogue.toml`.

Everything that is broken on purpose: what, by what means, and what must come of it. Each row names the tests that break it, which
`./dev test` runs (those marked *soak*: `./dev soak`), and the kinds of [`pythia verify`](proof.md) that do it to your worker. A name
of a test that is not there fails the tests. What is known and **not** shown stands in the same tables, with the reason.

Brokers are real: RabbitMQ and Redis of the tests' own are stopped, killed, frozen and starved. A link is broken by a proxy that
can hold back, cut, delay and slice each direction.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` only compare: 1 when it is stale."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.document", description="Write what the catalogue says."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's directory (default: the current one)")
    options = parser.parse_args(argv)
    path, text = options.root / PAGE, page(catalogue.read())
    stale = not path.exists() or path.read_text("utf-8") != text
    if stale and not options.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    if stale:
        sys.stdout.write(f"{path}: {'stale: run ./dev docs' if options.check else 'written'}\n")
    return 1 if options.check and stale else 0


def page(faults: Sequence[Fault]) -> str:
    """The text of docs/faults.md."""
    return "".join((OPENING, *_summary(faults), *(part for area in _areas(faults) for part in _area(area))))


def _areas(faults: Sequence[Fault]) -> list[list[Fault]]:
    return [list(rows) for _, rows in groupby(faults, key=lambda fault: fault.area)]


def _summary(faults: Sequence[Fault]) -> Iterator[str]:
    yield "\n| | faults | shown | of these in part | not shown |\n|---|---|---|---|---|\n"
    for rows in _areas(faults):
        yield _counts(f"[{TITLES[rows[0].area]}](#{_anchor(rows[0].area)})", rows)
    yield _counts("**all**", faults)


def _counts(title: str, rows: Sequence[Fault]) -> str:
    shown = [fault for fault in rows if fault.shown]
    in_part = sum(bool(fault.partly) for fault in shown)
    return f"| {title} | {len(rows)} | {len(shown)} | {in_part} | {len(rows) - len(shown)} |\n"


def _anchor(area: str) -> str:
    return TITLES[area].lower().replace(" ", "-")


def _area(rows: Sequence[Fault]) -> Iterator[str]:
    yield f"\n## {TITLES[rows[0].area]}\n\n| fault | how | what must come of it | shown by |\n|---|---|---|---|\n"
    for fault in rows:
        must = f"{fault.must}. *Not shown:* {fault.partly}" if fault.partly else fault.must
        cells = (f"`{fault.id}`: {fault.broken}", fault.how, must, _by(fault))
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _by(fault: Fault) -> str:
    if fault.missing:
        return f"**not shown**: {fault.missing}"
    verify = [f"`pythia verify`: {', '.join(fault.verify)}"] if fault.verify else []
    return "; ".join([*(_link(one) for one in fault.shown), *verify])


def _link(one: Shown) -> str:
    return f"[{one.sentence}](../tests/{one.file}){' *(soak)*' if one.is_soak else ''}"


if __name__ == "__main__":
    sys.exit(main())
