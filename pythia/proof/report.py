"""What a run leaves for people and for scripts: ``report.html``, which needs nothing but itself, and ``report.json``."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from pythia import __version__
from pythia.proof.chart import timeline
from pythia.proof.checker import Fault, History, Verdict, read
from pythia.proof.run import Plan, Result

_MOST_LISTED = 50
_FLAWS = {
    "lost": "confirmed to the producer, and neither handled nor among the dead letters",
    "invented": "handled, and published by nobody",
    "corrupt": "handled with another body than it was published with",
    "ghosts": "refused by the broker, and handled all the same",
    "unexplained": "handled again without a fault that explains it",
    "disordered": "out of order within an ordering key",
    "not dead": "rejected by its handler, and not among the dead letters",
    "wrongly dead": "among the dead letters, though it never failed",
    "late": "workers that did not work again in time",
    "died": "workers that ended by themselves",
    "left": "still in the broker at the end",
}
_CAUSES = {
    "kill": "its worker was killed before the broker knew that it was done",
    "lease": "its worker stood still, or could not write, for longer than its lease",
    "connection": "the connection of its worker was broken",
    "broker": "the broker was broken",
    "stop": "its handler was interrupted by a stop, and it was handed back",
    "producer": "its producer was in doubt, and published it again",
}
_CAPTION = "Messages a second: confirmed to the producer, and handled. Below, what was broken and when."
_STYLE = """
:root{--ink:#1c1e21;--soft:#6b7076;--line:#dcdfe3;--good:#1a7f4b;--bad:#b3261e;--paper:#fff;--shade:#f6f7f8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9aa0a6;--line:#3a3f45;--paper:#17191b;--shade:#202326;--good:#4cc38a;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0 auto;padding:2rem 1.5rem 4rem;max-width:62rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}h1{font-size:1.1rem;font-weight:600;margin:0 0 1.2rem}
h2{font-size:1.05rem;margin:2.4rem 0 .6rem}.verdict{font-size:2.4rem;font-weight:700;line-height:1.1;margin:0}
.PASS{color:var(--good)}.FAIL,.INVALID{color:var(--bad)}.soft,figcaption{color:var(--soft)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.8rem;margin:1.4rem 0 0;padding:0}
.figures div{background:var(--shade);border-radius:.5rem;padding:.7rem .9rem}.figures dt{color:var(--soft);font-size:.82rem}
.figures dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}th{text-align:left;color:var(--soft);font-weight:500}
th,td{padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}code{font:.86em ui-monospace,monospace;background:var(--shade);
padding:.1em .3em;border-radius:.25em;overflow-wrap:anywhere}figure{margin:0}svg{width:100%;height:auto;display:block}
"""


def write_reports(plan: Plan, result: Result) -> dict[str, Any]:
    """Write both files; what ``report.json`` says."""
    history = read(plan.history)
    document = summary(result)
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / "report.json").write_text(json.dumps(document, indent=2) + "\n")
    (plan.folder / "report.html").write_text(page(result.verdict, history, document, plan.folder))
    return document


def summary(result: Result) -> dict[str, Any]:
    """The run as JSON: the verdict and what it rests on."""
    verdict, (p50, p99, most) = result.verdict, result.verdict.recovery
    return {
        "verdict": verdict.word,
        "line": f"{verdict} · seed {result.facts['seed']} · {verdict.word}",
        **{name.replace(" ", "_"): count for name, count in verdict.counts.items()},
        "faults": dict(sorted(verdict.faults.items())),
        "faults_without_evidence": dict(sorted(verdict.without_evidence.items())),
        "duplicated": dict(sorted(verdict.duplicated.items())),
        "flaws": {flaw: found for flaw, found in verdict.flaws.items() if found},
        "invalid": verdict.invalid,
        "recovery_seconds": {"p50": _finite(p50), "p99": _finite(p99), "max": _finite(most)},
        "seconds": round(result.seconds, 1),
        "messages_per_second": round(verdict.counts["confirmed"] / result.seconds, 1),
        "faults_per_minute": round(60 * sum(verdict.faults.values()) / result.seconds, 1),
        "run": dict(result.facts),
        "machine": _machine(),
    }


def _finite(seconds: float) -> float | None:
    """None: never."""
    return None if math.isinf(seconds) else round(seconds, 3)


def _machine() -> dict[str, str]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"python": python, "system": f"{sys.platform} {platform.release()}", "pythia": __version__, "at": when}


def page(verdict: Verdict, history: History, document: Mapping[str, Any], folder: Path) -> str:
    """The whole page."""
    run = document["run"]
    parts = [
        f"<h1>pythia verify · {_e(run['target'])} · {_e(run['broker'])} {_e(run['server_version'] or '')}</h1>",
        f'<p class="verdict {verdict.word}">{verdict.word}</p>',
        f"<p>{_e(_sentence(verdict))}</p>",
        _figures(verdict, document),
        *_invalid(verdict),
        *_flaws(verdict),
        "<h2>What happened when</h2>",
        f"<figure>{timeline(history)}<figcaption>{_CAPTION}</figcaption></figure>",
        "<h2>Handled more than once</h2>",
        _table(
            ("times", "because"), [(count, _CAUSES.get(c, c)) for c, count in sorted(verdict.duplicated.items())], {0}
        ),
        "<h2>Faults</h2>",
        _faults(verdict, history, run["kinds"]),
        "<h2>What this says, and what it does not</h2>",
        *_caveats(verdict, document, folder),
    ]
    title = f"{verdict.word}: pythia verify, {run['broker']}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_e(title)}</title>'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _sentence(verdict: Verdict) -> str:
    match verdict.word:
        case "PASS":
            return (
                f"Every one of {verdict.counts['confirmed']:,} messages that the broker had confirmed was handled or dead-lettered, "
                f"while {sum(verdict.faults.values())} faults of {len(verdict.faults)} kinds struck."
            )
        case "INVALID":
            return "The run proves nothing: it was not carried out as planned."
        case _:
            return (
                "A promise was broken: " + ", ".join(f"{len(f)} {flaw}" for flaw, f in verdict.flaws.items() if f) + "."
            )


def _figures(verdict: Verdict, document: Mapping[str, Any]) -> str:
    unexplained = len(verdict.flaws["unexplained"])
    figures = {
        "confirmed": f"{verdict.counts['confirmed']:,}",
        "lost": len(verdict.flaws["lost"]),
        "unexplained repeats": unexplained,
        "explained repeats": f"{sum(verdict.duplicated.values()):,}",
        "order violations": len(verdict.flaws["disordered"]),
        "dead-lettered": f"{verdict.counts['dead']:,}",
        "faults": sum(verdict.faults.values()),
        "slowest recovery": _seconds(verdict.recovery[2]),
        "messages a second": f"{document['messages_per_second']:,.0f}",
    }
    return (
        '<dl class="figures">'
        + "".join(f"<div><dt>{_e(n)}</dt><dd>{_e(v)}</dd></div>" for n, v in figures.items())
        + "</dl>"
    )


def _invalid(verdict: Verdict) -> Iterator[str]:
    if verdict.invalid:
        yield "<h2>Why it proves nothing</h2>" + _list(verdict.invalid)


def _flaws(verdict: Verdict) -> Iterator[str]:
    for flaw, found in verdict.flaws.items():
        if found:
            yield f"<h2>{_e(flaw.capitalize())}: {len(found)}</h2><p>{_e(_FLAWS.get(flaw, ''))}</p>" + _list(found)


def _list(lines: Sequence[str]) -> str:
    more = [] if len(lines) <= _MOST_LISTED else [f"… and {len(lines) - _MOST_LISTED} more, in report.json"]
    return "<ul>" + "".join(f"<li><code>{_e(line)}</code></li>" for line in [*lines[:_MOST_LISTED], *more]) + "</ul>"


def _faults(verdict: Verdict, history: History, kinds: Mapping[str, str]) -> str:
    recoveries: dict[int, float] = {}
    for number, _, seconds in verdict.recoveries:
        recoveries[number] = max(seconds, recoveries.get(number, 0.0))
    start = min((fault.began for fault in history.faults.values()), default=0.0)
    rows = [
        (
            f"{fault.began - start:.1f} s",
            fault.kind,
            kinds.get(fault.kind, ""),
            _length(fault),
            fault.evidence or "none: not counted",
            _seconds(recoveries[number]) if number in recoveries else "–",
        )
        for number, fault in sorted(history.faults.items())
    ]
    note = '<p class="soft">Working again: from the fault\'s end until each worker that it hit, or its successor, began a message; '
    note += "–: another fault struck first, which then has to answer for both.</p>"
    return note + _table(("at", "kind", "what", "lasted", "evidence", "working again"), rows, {0, 3, 5})


def _length(fault: Fault) -> str:
    return _seconds(fault.healed - fault.began)


def _seconds(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.1f} s"


def _caveats(verdict: Verdict, document: Mapping[str, Any], folder: Path) -> Iterator[str]:
    run, machine = document["run"], document["machine"]
    count = max(1, sum(verdict.faults.values()))
    yield (
        f"<p>None lost in {count} faults means, with 95 % confidence, fewer than {min(1.0, 3 / count):.1%} of such faults lose a message, "
        "for these kinds of faults, on this machine.</p><p>Not tried: loss of power, disks that lie, partitions of a cluster, "
        "failover, machines that differ in their clocks, code that never gives up the interpreter's lock.</p>"
    )
    rows = [
        ("schedule", f"{run['schedule']}, seed {run['seed']}: the same seed gives the same schedule.json"),
        (
            "workers",
            f"{run['workers']}, lease {run['lease_seconds']:g} s, recovery expected within {run['recovery_seconds']:g} s",
        ),
        ("ordering keys", _KEYS[run["keys"]]),
        ("in doubt, refused", f"{document['in_doubt']:,} in doubt, {document['refused']:,} refused: counted apart"),
        ("machine", f"{machine['python']}, {machine['system']}, Pythia {machine['pythia']}, {machine['at']}"),
    ]
    yield _table(("", ""), rows, set())
    yield (
        f"<p>Judge it again, from what the processes wrote down: <code>python -m pythia.proof.checker {_e(folder / 'history')}</code></p>"
    )


_KEYS = {
    "queue": "in order over all workers",
    "process": "one message at a time within a worker",
    "none": "not looked at",
}


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], right: set[int]) -> str:
    if not rows:
        return '<p class="soft">None.</p>'

    def cells(tag: str, row: Sequence[object]) -> str:
        numbers = [' class="n"' if at in right else "" for at in range(len(row))]
        return "".join(f"<{tag}{kind}>{_e(cell)}</{tag}>" for cell, kind in zip(row, numbers, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def _e(value: object) -> str:
    return escape(str(value))
