"""The timeline of a run as SVG: messages a second above, what was broken below."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from pythia.proof.checker import Fault, History

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 110, 12, 12
_HEIGHT, _ROW, _GAP = 210, 18, 34  # of the curves, of a kind of fault, and between the two
_COLOURS = {"kill": "#c2410c", "stop": "#7c3aed", "lease": "#b45309", "connection": "#0369a1", "broker": "#9f1239"}
_PLAIN = "#64748b"
_CURVES = {"confirmed": "#94a3b8", "handled": "#16a34a"}


def timeline(history: History) -> str:
    """The whole picture; it scales to the width that it is given."""
    start, end = _span(history)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(end - start, 1.0)
    series = {
        "confirmed": _a_second(history.confirmed.values(), start),
        "handled": _a_second((run.ended for run in history.runs.values() if run.ending == "finished"), start),
    }
    most = max((max(counts.values(), default=0) for counts in series.values()), default=0) or 1
    kinds = sorted({fault.kind for fault in history.faults.values()})
    height = _TOP + _HEIGHT + _GAP + _ROW * len(kinds) + 8
    parts = [*_axes(end - start, scale, most), *_legend()]
    parts += [_curve(counts, int(end - start), scale, most, _CURVES[name]) for name, counts in series.items()]
    for row, kind in enumerate(kinds):
        faults = [fault for fault in history.faults.values() if fault.kind == kind]
        parts += _row(kind, faults, _TOP + _HEIGHT + _GAP + _ROW * row, start, scale)
    label = "Messages a second over time, with the faults below"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}" font-family="inherit" font-size="11" '
        f'fill="currentColor">{"".join(parts)}</svg>'
    )


def _span(history: History) -> tuple[float, float]:
    moments = [*history.confirmed.values(), *(fault.began for fault in history.faults.values())]
    ends = [run.ended for run in history.runs.values() if run.ended < math.inf]
    start = min(moments, default=0.0)
    return start, max([*moments, *ends], default=start + 1.0)


def _a_second(moments: Iterable[float], start: float) -> Counter[int]:
    return Counter(int(at - start) for at in moments if start <= at < math.inf)


def _axes(seconds: float, scale: float, most: int) -> Iterator[str]:
    floor = _TOP + _HEIGHT
    for share in (0.0, 0.5, 1.0):
        y = floor - share * (_HEIGHT - 16)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".15"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" opacity=".6">{most * share:,.0f}</text>'
    step = next((step for step in (5, 10, 30, 60, 300, 600) if seconds / step <= 12), 1800)
    for at in range(0, int(seconds) + 1, step):
        yield f'<text x="{_LEFT + at * scale:.1f}" y="{floor + 16}" text-anchor="middle" opacity=".6">{at} s</text>'


def _legend() -> Iterator[str]:
    for at, (name, colour) in enumerate(_CURVES.items()):
        x = _LEFT + 8 + at * 90
        yield f'<rect x="{x}" y="2" width="10" height="10" rx="2" fill="{colour}"/><text x="{x + 15}" y="11">{name}</text>'


def _curve(counts: Counter[int], seconds: int, scale: float, most: int, colour: str) -> str:
    floor = _TOP + _HEIGHT
    points = " ".join(
        f"{_LEFT + (at + 0.5) * scale:.1f},{floor - counts[at] / most * (_HEIGHT - 16):.1f}"
        for at in range(seconds + 1)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>'


def _row(kind: str, faults: Iterable[Fault], y: float, start: float, scale: float) -> Iterator[str]:
    yield f'<text x="{_LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(kind)}</text>'
    yield f'<path d="M{_LEFT} {y + 7.5}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".1"/>'
    for fault in faults:
        x = _LEFT + (fault.began - start) * scale
        width = max(4.0, min((fault.healed - fault.began) * scale, _WIDTH - _RIGHT - x))
        faint = "" if fault.evidence else ' fill-opacity=".3"'
        title = escape(f"{fault.began - start:.1f} s: {kind}: {fault.evidence or 'no evidence'}")
        box = (
            f'x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="11" rx="2" fill="{_COLOURS.get(fault.cause, _PLAIN)}"'
        )
        yield f"<rect {box}{faint}><title>{title}</title></rect>"
