"""Writes docs/states.md from the tables of ``state``: ``python -m pythia.core.states_page [--check]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pythia.core.state import DELIVERY, FINAL, WORKER, Move, Place, WorkerState

_OPENING = """\
# States

Written by `python -m pythia.core.states_page` from the tables in `pythia/core/state.py`, which a running worker obeys: a move
that is not here raises `LifecycleError`. The tests play the real engine against the same tables, and search a model of two
workers and three messages, with crashes, expiring leases, cancelled consumers, lost replies and refusals, for a way to lose a
message, to give it two owners, or to count an attempt wrongly (`tests/unit/test_state_machine.py`).

## A worker
"""
_WORKER_NOTE = """
A lost connection is no state: the worker is `running` and not ready, and connects again. A stop may be asked for in any of them;
twice, before the start, after the end, it is as good as once.

## A message
"""
_DELIVERY_NOTE = """
Only `retry` changes the attempt. A worker that died, lost its connection or its lease, or handed a message back leaves it
with the attempt that it had. What is marked *fence* is taken only from whoever was handed the message last: of anybody else
the broker writes nothing, and the settlement is counted as stale.
"""


def main(argv: list[str] | None = None) -> int:
    """Write the page, or with ``--check`` only compare: 1 when it is stale."""
    parser = argparse.ArgumentParser(prog="python -m pythia.core.states_page", description="Draw the states.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's directory (default: the current one)")
    options = parser.parse_args(argv)
    path, text = options.root / "docs/states.md", page()
    if path.exists() and path.read_text("utf-8") == text:
        return 0
    if not options.check:
        path.write_text(text, "utf-8")
    sys.stdout.write(f"{path}: {'stale: run python -m pythia.core.states_page' if options.check else 'written'}\n")
    return 1 if options.check else 0


def page() -> str:
    """The text of docs/states.md."""
    worker = _diagram(WORKER, str(WorkerState.INITIALIZING), [str(WorkerState.STOPPED)]) + _rows(
        WORKER, ("event", "when"), marks=False
    )
    ends = sorted(str(place) for place in FINAL)
    delivery = _diagram(DELIVERY, str(Place.READY), ends) + _rows(DELIVERY, ("event", "when", "attempt"), marks=True)
    return _OPENING + worker + _WORKER_NOTE + delivery + _DELIVERY_NOTE


def _diagram(table: Iterable[Move[WorkerState]] | Iterable[Move[Place]], first: str, ends: Sequence[str]) -> str:
    lines = [f"    [*] --> {first}"]
    lines += [f"    {move.here} --> {move.there}: {move.event}" for move in table]
    lines += [f"    {end} --> [*]" for end in ends]
    return "\n".join(["", "```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _rows(table: Iterable[Move[WorkerState]] | Iterable[Move[Place]], titles: Sequence[str], *, marks: bool) -> str:
    lines = ["", f"| from | to | {' | '.join(titles)} |", f"|{'---|' * (len(titles) + 2)}"]
    for move in table:
        cells = [str(move.here), str(move.there), f"`{move.event}`", move.cause]
        cells += [_mark(counts=move.counts, fenced=move.fenced)] if marks else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _mark(*, counts: bool, fenced: bool) -> str:
    words = ["+ 1"] if counts else ["the same"] if fenced else []
    return ", ".join([*words, "*fence*"] if fenced else words)


if __name__ == "__main__":
    sys.exit(main())
