"""What commands print: tables, JSON, times, progress, questions.

Ids, headers and error texts were written by whoever can publish: control characters are shown escaped, so that a message
cannot steer the terminal that looks at it. rich is imported only to draw on a terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pythia.cli.failure import CommandError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_WORTH_A_BAR = 500

Row = Sequence[object]


def plain(text: object) -> str:
    """``text`` with its control characters escaped; line breaks and tabs stay."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def line(text: object) -> str:
    """``text`` on one line, control characters escaped."""
    return plain(" ".join(str(text).split()))


def say(text: object = "") -> None:
    """A line for a person, on stdout."""
    print(plain(text))


def warn(text: str) -> None:
    """A warning, on stderr."""
    print(f"pythia: warning: {line(text)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """A value for a script, readable."""
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """A value on one line (NDJSON)."""
    print(json.dumps(value, separators=(",", ":")))


def stamp(moment: float | None) -> str | None:
    """RFC 3339, UTC, milliseconds."""
    if moment is None:
        return None
    from pythia.message import rfc3339

    return rfc3339(moment)


def duration(seconds: float | None) -> str:
    """A length of time for people: ``4.2 s``, ``12 min``, ``3.5 h``, ``2.0 d``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def print_table(args: Namespace, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table: drawn on a terminal, plain aligned columns elsewhere. A column whose values are all numbers is set right."""
    if sys.stdout.isatty():
        console(args).print(drawn(columns, rows))
    else:
        for text in aligned(columns, rows):
            print(text)


def aligned(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a plain table, two spaces between columns."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(column), *(len(row[at]) for row in cells), 0) for at, column in enumerate(columns)]
    right = _numeric(columns, rows)
    for row in [list(columns), *cells]:
        parts = [
            cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(parts).rstrip()


def drawn(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """The same as a rich table; cells are text, never markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for column, right in zip(columns, _numeric(columns, rows), strict=True):
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def console(args: Namespace, *, stderr: bool = False) -> Console:
    """Where rich draws; ``--no-color`` and ``NO_COLOR`` are obeyed."""
    from rich.console import Console

    colourless = True if args.no_color or os.environ.get("NO_COLOR") else None
    return Console(stderr=stderr, no_color=colourless, highlight=False)


@contextmanager
def progress(args: Namespace, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told of each step. A bar on a terminal when there is enough to do, else nothing."""
    if not sys.stderr.isatty() or (total is not None and total < _WORTH_A_BAR):
        yield lambda _steps: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(args, stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)


def ask(args: Namespace, question: str) -> None:
    """Go on when the person at the terminal says yes, or nobody sits there, or ``--yes`` was given.

    Raises:
        CommandError: the answer is no.
    """
    if args.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing done", exit_code=1)


def _cell(value: object) -> str:
    return "-" if value is None else line(value)


def _numeric(columns: Sequence[str], rows: Sequence[Row]) -> list[bool]:
    return [all(row[at] is None or isinstance(row[at], int | float) for row in rows) for at in range(len(columns))]
