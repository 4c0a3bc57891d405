"""What ``pythia demo`` says at its end: the table, the conservation check, and the commands that lead on."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pythia.cli.demo_display import Snapshot
from pythia.cli.output import print_json, print_table, say

_OUTCOMES = {
    "ack": "acked",
    "retry": "retried",
    "defer": "deferred",
    "dead_letter": "dead-lettered",
    "drop": "dropped",
    "release": "released",
    "lost": "lost",
    "in_flight": "in flight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A file that was dead-lettered in this run."""

    id: str
    reason: str
    attempts: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. ``dead_left`` counts what earlier runs left too; ``queue`` and ``broker`` say where all that lies."""

    site: str
    broker: str
    queue: str
    work: Snapshot
    messages: Mapping[str, int]  # as in /health
    dead_reasons: Mapping[str, int]
    dead_left: int
    problems: tuple[Problem, ...]
    resumed: int  # of the files: were left by an earlier run
    without_digest: int | None  # None: nothing was published in this run
    without_record: int | None
    interrupted: bool

    @property
    def ok(self) -> bool:
        """Everything was verified, by this run or one before it, and nothing vanished on the way."""
        return not (self.interrupted or self.work.left or self.dead_left or self.messages["residual"])


def print_report(args: Namespace, report: Report, *, kept: bool) -> None:
    """Print it: as JSON with ``--json``, else for a person."""
    if args.json:
        print_json(_document(report))
        return
    say()
    print_table(args, ("VERIFIED" if report.ok else "NOT VERIFIED", report.site), [*_rows(report)])
    say()
    say(conservation(report.messages))
    for text in _ending(args, report, kept=kept):
        say(text)


def conservation(messages: Mapping[str, int]) -> str:
    """What was received and what became of it, as a sum whose residual must be 0."""
    terms = [f"{messages[name]:,} {word}" for name, word in _OUTCOMES.items() if messages[name] or name == "ack"]
    return f"conservation: {messages['received']:,} received = {' + '.join(terms)}; residual {messages['residual']:,}"


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    work, dead = report.work, sum(report.dead_reasons.values())
    yield "files", f"{work.total:,}" + (f" ({report.resumed:,} left by an earlier run)" if report.resumed else "")
    yield "bytes", f"{work.bytes:,}"
    yield "verified", f"{report.messages['ack']:,}"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.dead_reasons.items()))
    yield "dead-lettered", f"{dead:,}" + (f" ({reasons})" if reasons else "")
    if report.dead_left > dead:
        yield "dead before", f"{report.dead_left - dead:,}"
    if work.left:
        yield "left", f"{work.left:,}"
    if report.without_digest:
        yield "not verifiable", f"{report.without_digest:,} files recorded without a digest"
    if report.without_record:
        yield "no record", f"{report.without_record:,} distributions"
    yield "attempts", f"{work.attempts:,}"
    yield "messages/s", f"{work.rate:,.0f}"
    yield "seconds", f"{work.seconds:.1f}"


def _ending(args: Namespace, report: Report, *, kept: bool) -> Iterator[str]:
    queue, at = shlex.quote(report.queue), f"-b {shlex.quote(report.broker)}"  # absolute, and without a password
    if report.interrupted:
        yield f"interrupted; to go on with what is left: {again(args)}"
    if report.dead_left and kept:
        yield f"to see why:                pythia dead show {queue} {at}"
        yield f"to verify what was mended: pythia dead replay {queue} --all {at} && {again(args)}"
        yield f"to begin afresh:           pythia dead purge {queue} --all {at} && {again(args)}"
    elif report.dead_left:
        yield "the dead letters were in memory and end with this process"
    elif report.ok and kept:
        yield f"kept: {report.broker}"


def again(args: Namespace) -> str:
    """The command that was given, for another run."""
    words = ["pythia", "demo"]
    for flag, value in (("-b", args.broker_url), ("--path", args.path), ("-c", args.concurrency)):
        if value is not None:
            words += [flag, str(value)]
    if args.keep:
        words.append("--keep")
    return shlex.join(words)


def _document(report: Report) -> dict[str, Any]:
    work = report.work
    return {
        "ok": report.ok,
        "interrupted": report.interrupted,
        "site": report.site,
        "broker": report.broker,
        "queue": report.queue,
        "files": work.total,
        "resumed": report.resumed,
        "bytes": work.bytes,
        "verified": report.messages["ack"],
        "dead_lettered": dict(sorted(report.dead_reasons.items())),
        "dead": report.dead_left,
        "left": work.left,
        "without_digest": report.without_digest,
        "without_record": report.without_record,
        "attempts": work.attempts,
        "seconds": round(work.seconds, 3),
        "messages_per_second": round(work.rate, 1),
        "messages": dict(report.messages),
        "problems": [asdict(problem) for problem in report.problems],
    }
