"""Writes docs/crash-points.md from the table: ``python -m tests.crashes.document [--check | --kill]``.

``--kill`` makes the table first: it finds every point, kills a process at each, and writes down what was found. That takes
some minutes, a RabbitMQ and a Redis.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crashes import table
from tests.crashes.cases import OUTCOMES, Result
from tests.crashes.run import played
from tests.crashes.table import Row, Table
from tests.kit import servers

PAGE = Path("docs/crash-points.md")
LOOKS = 2
TRIES = 6  # at a point that was not reached
TITLES = {"sqlite": "SQLite", "rabbitmq": "RabbitMQ", "redis-stream": "Redis streams", "redis-list": "Redis lists"}
OPENING = """\
# Crash points

Written by `python -m tests.crashes.document` from `tests/crashes/crash-points.json`.

Every boundary at which bytes that concern one message leave or enter the process is a point here, found by watching the
drivers (AMQP frames, Redis commands and their answers, SQLite's COMMITs) while one message comes to each of its outcomes;
between them stand those of the handler, of the settler and of the journal of what is in hand. For each point a worker gets one
message and is killed with SIGKILL when it is exactly there. Then a fresh worker runs until there is nothing left to do, and
clients that are not Pythia look at the broker, an append-only file at what the handler did.

A number is how many **duplicates** that kill made: how often the outcome came about, less one. `·` is a point that this
outcome does not pass. A message that was lost, or that lay about afterwards, would stand here as **LOST** or **LEFT**. A kill never
counts as an attempt; that is checked, too.

What a new version of the code passes and this table does not have fails the tests. `./dev test` kills at a sample of the points,
`./dev soak` at all of them.

One message, one handler at a time (`prefetch` 1), a lease of 1 s, quorum queues. What comes by the clock (a renewal, the mover
of what is due, another look at an empty queue) counts the first time that it concerns the message, a renewal in its own column.

What is not here: several messages whose settlements travel together, which the endurance tests kill at random moments; connecting and declaring, which no message takes part in; the inside of a COMMIT, of a script of Redis and of
RabbitMQ, where a kill of the worker does not reach; a loss of power.
"""
COLUMNS = {
    "ack": "ack",
    "slow ack": "ack after a renewal",
    "ack with output": "ack with output",
    "retry": "retry, then ack",
    "defer": "defer, then ack",
    "dead letter": "dead letter",
    "drop": "drop",
    "release": "release (drain)",
    "undecodable": "undecodable",
    "ack after a kill": "ack after a kill",
    "publish": "publish",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` only compare: 1 when it is stale."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes.document", description="Write what the table says.")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    how.add_argument("--kill", action="store_true", help="make the table first")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's directory (default: the current one)")
    options = parser.parse_args(argv)
    if options.kill:
        table.write(_killed())
    path, text = options.root / PAGE, page(table.read())
    stale = not path.exists() or path.read_text("utf-8") != text
    if stale and not options.check:
        path.write_text(text, "utf-8")
    if stale:
        sys.stdout.write(f"{path}: {'stale: run python -m tests.crashes.document' if options.check else 'written'}\n")
    return 1 if options.check and stale else 0


def _killed() -> Table:
    """Every point, and a kill at each."""
    urls = {
        "PYTHIA_TEST_RABBITMQ_URL": servers.find_rabbitmq() or "",
        "PYTHIA_TEST_REDIS_URL": servers.find_redis() or "",
    }
    began = time.monotonic()
    cases = table.to_kill_at([result for _ in range(LOOKS) for result in played(table.enumerating(), urls)])
    results = {result.case: result for result in played(cases, urls)}
    for _ in range(TRIES - 1):
        missed = [case for case in cases if not results[case].reached]
        results |= {result.case: result for result in played(missed, urls) if result.reached or not result.sound}
    _tell(list(results.values()), time.monotonic() - began)
    return table.made_of(cases, results.values())


def _tell(results: Sequence[Result], seconds: float) -> None:
    for result in results:
        if not (result.sound and result.reached):
            sys.stdout.write(f"{result}\n{result.log}\n")
    sys.stdout.write(f"{len(results)} cases in {seconds:.0f} s\n")


def page(rows: Table) -> str:
    """The text of docs/crash-points.md."""
    return OPENING + "".join(_summary(rows)) + "".join(_broker(TITLES[broker], rows[broker]) for broker in rows)


def _summary(rows: Table) -> Iterator[str]:
    yield "\n| | points | killed | lost | left over | one duplicate | more |\n|---|---|---|---|---|---|---|\n"
    everything = []
    for broker, outcomes in rows.items():
        of_broker = [row for of_outcome in outcomes.values() for row in of_outcome]
        everything += of_broker
        yield _sum(TITLES[broker], of_broker)
    yield _sum("**all**", everything)


def _sum(title: str, rows: Sequence[Row]) -> str:
    killed = [row for row in rows if row.reached]
    counts = (
        len(rows),
        len(killed),
        sum(row.lost for row in rows),
        sum(row.left for row in rows),
        sum(row.duplicates == 1 for row in rows),
        sum(row.duplicates > 1 for row in rows),
    )
    return f"| {title} | {' | '.join(map(str, counts))} |\n"


def _broker(title: str, outcomes: dict[str, Sequence[Row]]) -> str:
    columns = [name for name in OUTCOMES if name in outcomes]
    found = {name: {row.point: row for row in outcomes[name]} for name in columns}
    lines = [f"| killed at | {' | '.join(COLUMNS[name] for name in columns)} |", f"|---|{'---|' * len(columns)}"]
    for point in table.in_order([[row.point for row in outcomes[name]] for name in columns]):
        lines.append(f"| {point} | {' | '.join(_cell(found[name].get(point)) for name in columns)} |")
    return f"\n## {title}\n\n" + "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return "·"
    if row.lost or row.left:
        return "**LOST**" if row.lost else "**LEFT**"
    return str(row.duplicates) if row.reached else "not reached"


if __name__ == "__main__":
    sys.exit(main())
