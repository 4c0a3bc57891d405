"""Results for people and machines: a table for the terminal and the documentation, a page with bars, JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.consume.ratios import Verdict
from benchmarks.consume.rounds import Result

_FIGURES = {
    "cpu": "µs of CPU a message",
    "rate": "messages a second",
    "rss": "MB",
    "p50": "ms, p50",
    "p99": "ms, p99",
    "start": "ms to the first",
}
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1e;background:#fff}
h2{margin-top:2.5rem}table{border-collapse:collapse}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.bar{fill:#8a8f98}.ours{fill:#0a6e5c}text{font-size:13px;fill:currentColor}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161618}td,th{border-color:#333}}"""


def text(results: Sequence[Result], verdicts: Sequence[Verdict]) -> str:
    """The tables, in Markdown, which is read well as it is."""
    return "\n".join([*_tables(results), *_bounds(verdicts)])


def plain(results: Sequence[Result], verdicts: Sequence[Verdict], versions: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured, for machines."""
    return {
        "machine": _machine(),
        "versions": list(versions),
        "contests": [
            {"broker": result.broker, "workload": result.workload, "rounds": dict(result.rounds)} for result in results
        ],
        "bounds": [
            {
                "broker": v.wanted.broker,
                "workload": v.wanted.workload,
                "peer": v.wanted.peer,
                "figure": v.wanted.figure,
                "bound": v.wanted.bound,
                "found": v.found,
                "holds": v.holds,
            }
            for v in verdicts
        ],
    }


def html(results: Sequence[Result], verdicts: Sequence[Verdict], versions: Sequence[str]) -> str:
    """One page that needs nothing else."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Pythia, measured</title><style>{_STYLE}</style><h1>What a message costs</h1>",
        f"<p>{escape(_machine())}; {escape('; '.join(versions))}. Medians of interleaved rounds.</p>",
    ]
    for result in results:
        parts.append(f"<h2>{escape(result.broker)}, {escape(result.workload)}</h2>")
        for figure in ("p50", "cpu") if result.workload == "steady" else ("cpu", "rate"):
            parts += _bars(result, figure)
    parts.append("<h2>Bounds</h2><table><tr><th>contest<th>beside<th>figure<th>bound<th>measured<th></tr>")
    for verdict in verdicts:
        cells = (
            f"{verdict.wanted.broker}, {verdict.wanted.workload}",
            verdict.wanted.peer,
            verdict.wanted.figure,
            verdict.wanted.bound,
            _number(verdict.found),
            "holds" if verdict.holds else "missed",
        )
        parts.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>")
    return "\n".join([*parts, "</table></html>"])


def write_into(file: Path, results: Sequence[Result], verdicts: Sequence[Verdict], versions: Sequence[str]) -> None:
    """Replace what stands between the two marks in ``file``.

    Raises:
        ValueError: it has no such marks.
    """
    write_between(file, "measured", f"{'; '.join(versions)}.\n\n{text(results, verdicts)}")


def write_between(file: Path, mark: str, said: str) -> None:
    """Replace what stands in ``file`` between the comments of that name; the machine and the day go first.

    Raises:
        ValueError: it has no such comments.
    """
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = file.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{file} has no {begin} … {end}")
    said = f"{_machine()}; {datetime.now(UTC):%Y-%m-%d}.\n\n{said}"
    file.write_text(f"{before}{begin}\n{said}\n{end}{after}")


def _tables(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        shown = [
            figure for figure in _FIGURES if any(result.median(name, figure) is not None for name in result.rounds)
        ]
        yield f"**{result.broker}, {result.workload}**\n"
        yield f"| | {' | '.join(_FIGURES[figure] for figure in shown)} |\n|---|{'--:|' * len(shown)}"
        for name in result.rounds:
            cells = [_number(result.median(name, figure)) for figure in shown]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""


def _bounds(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "| Pythia beside | figure | bound | measured | |\n|---|---|--:|--:|---|"
    for verdict in verdicts:
        wanted = verdict.wanted
        place = f"{wanted.peer} ({wanted.broker}, {wanted.workload})"
        yield f"| {place} | {wanted.figure} | {wanted.bound} | {_number(verdict.found)} | {'holds' if verdict.holds else 'missed'} |"


def _bars(result: Result, figure: str) -> Iterator[str]:
    rows = [(name, value) for name in result.rounds if (value := result.median(name, figure)) is not None]
    longest = max((value for _, value in rows), default=0.0) or 1.0
    height = 26 * len(rows)
    yield f"<p>{_FIGURES[figure]}</p><svg width=100% height={height} role=img aria-label='{_FIGURES[figure]}'>"
    for place, (name, value) in enumerate(rows):
        kind = "bar ours" if name.startswith("Pythia") else "bar"
        yield f"<text x=0 y={26 * place + 17}>{escape(name)}</text>"
        yield f"<rect class='{kind}' x=180 y={26 * place + 4} height=18 width='{55 * value / longest:.1f}%'/>"
        yield f"<text x='{55 * value / longest:.1f}%' dx=190 y={26 * place + 17}>{_number(value)}</text>"
    yield "</svg>"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _machine() -> str:
    return f"{platform.machine()}, Python {platform.python_version()}"
