"""Reads what the processes of a run wrote down, and nothing else, and says what became of every message.

It imports the standard library alone: nothing of the code that it judges. ``python -m pythia.proof.checker FOLDER`` judges a
saved run again. Times are of the machine's monotonic clock. A line is a fact; one that its writer did not live to end is none:

    run.json            what was promised: recovery_seconds, keys ("queue": in order over all workers, "process": one at a time
                        within a worker, "none"), slack_seconds (from a settlement's being sent until it has taken effect)
    producer-*.log      intent ID KEY PLACE DIGEST T · confirmed ID T · doubt ID T · refused ID T
    handler-PID.log     up T (the process and its worker are there, nothing is connected) · started RUN ID ATTEMPT DIGEST T ·
                        finished|failed|deferred|rejected|dropped|interrupted RUN T · settled RUN KIND T (the broker has carried it out)
    nemesis-*.jsonl     what: began (fault, kind, cause, pids, destroys) · evidence (cause) · healed (heirs, pids) · error · born · gone (pid, alone) ·
                        running (all work; faults may come) · quiet (nothing is published from now on) · over
    broker-*.log        dead ID REASON ATTEMPTS · left WHERE COUNT
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

NOTICING_SECONDS = (
    1.0  # how long a worker may go on with what a fault took away, or a producer before it hears of a yes
)
OVER = {"finished", "rejected", "dropped"}  # endings after which nothing comes any more
AGAIN = {"failed", "deferred", "interrupted"}  # after which it is to come again


@dataclass(slots=True)
class Run:
    """One begun handler. ``retried``, ``repeated``: the run that its failure, or a fault before its settlement, caused was seen."""

    id: str
    attempt: int
    digest: str
    pid: int
    began: float
    ending: str = ""  # "": its process ended first
    ended: float = math.inf
    settled: float = math.inf
    retried: bool = False
    repeated: bool = False


@dataclass(slots=True)
class Fault:
    """Something was broken under the workers ``pids``; ``heirs`` are to work again afterwards. ``cause``: "kill", "connection",
    "lease" and "broker" explain repeats, "stop" only of what it interrupted, "none" none."""

    number: int
    kind: str
    cause: str
    began: float
    pids: frozenset[int]
    destroys: bool = False  # the broker was made to forget what it held
    evidence: str = ""
    healed: float = math.inf
    heirs: tuple[int, ...] = ()


@dataclass(slots=True)
class History:
    """All that was written down."""

    promised: dict[str, Any] = field(default_factory=dict)
    intents: dict[str, tuple[str, int, str, float]] = field(default_factory=dict)  # id: key, place in it, digest, when
    confirmed: dict[str, float] = field(default_factory=dict)
    doubts: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)  # by file and number
    faults: dict[int, Fault] = field(default_factory=dict)
    lives: dict[int, list[float]] = field(default_factory=dict)  # pid: born, gone
    up: dict[int, float] = field(default_factory=dict)  # of each process, when its code began to run
    dead: set[str] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)  # quiet, over
    deaths: list[str] = field(default_factory=list)  # of workers that nobody had killed
    invalid: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """``flaws`` names the offenders; a run passes without any."""

    counts: dict[str, int]
    faults: Counter[str]  # with evidence, by kind
    without_evidence: Counter[str]
    invalid: list[str]
    duplicated: Counter[str] = field(default_factory=Counter)  # by cause
    recoveries: list[tuple[int, int, float]] = field(default_factory=list)  # fault, pid, seconds
    flaws: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def word(self) -> str:
        return "INVALID" if self.invalid else "FAIL" if any(self.flaws.values()) else "PASS"

    @property
    def recovery(self) -> tuple[float, float, float]:
        """Median, 99th percentile and maximum of the seconds from a fault's end until a worker works again."""
        times = sorted(seconds for _, _, seconds in self.recoveries) or [0.0]
        return times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))], times[-1]

    def __str__(self) -> str:
        unexplained, repeats = len(self.flaws["unexplained"]), sum(self.duplicated.values())
        whence = f"{unexplained} UNEXPLAINED" if unexplained else "all explained"
        told = {"lost": "lost", "invented": "invented", "disordered": "order violations"}
        more = {flaw: flaw for flaw, found in self.flaws.items() if found and flaw not in (*told, "unexplained")}
        parts = [f"{name} {self.counts[name]:,}" for name in ("messages", "confirmed", "in doubt")]
        parts.append(f"faults {sum(self.faults.values())} ({len(self.faults)} kinds)")
        parts += [f"{name} {len(self.flaws[flaw])}" for flaw, name in (told | more).items()]
        parts.append(f"duplicated {repeats + unexplained} ({whence})")
        return " · ".join([*parts, "recovery p50/p99/max {:.1f}/{:.1f}/{:.1f} s".format(*self.recovery)])


def read(folder: Path) -> History:
    """Every file of a run."""
    history = History()
    try:
        history.promised = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        history.invalid.append(f"run.json: {error}")
    for path in sorted([*folder.glob("*-*.log"), *folder.glob("nemesis-*.jsonl")]):
        for line in path.read_text().split("\n")[:-1]:
            try:
                _told(history, json.loads(line)) if path.suffix == ".jsonl" else _said(
                    history, path.stem, line.split(" ")
                )
            except (KeyError, ValueError) as error:
                history.invalid.append(f"{path.name}: {line[:80]!r}: {error}")
    return history


def _said(history: History, file: str, words: list[str]) -> None:
    match words:
        case "up", at:
            history.up[int(file.rpartition("-")[2])] = float(at)
        case "started", number, name, attempt, digest, at:
            pid = int(file.rpartition("-")[2])
            history.runs[file, number] = Run(name, int(attempt), digest, pid, float(at))
        case "settled", number, _, at:
            history.runs[file, number].settled = float(at)
        case ("finished" | "failed" | "deferred" | "rejected" | "dropped" | "interrupted") as ending, number, at:
            history.runs[file, number].ending, history.runs[file, number].ended = ending, float(at)
        case "intent", name, key, place, digest, at:
            history.intents[name] = (key, int(place), digest, float(at))
        case "confirmed", name, at:
            history.confirmed.setdefault(name, float(at))
        case "doubt", name, _:
            history.doubts[name] += 1
        case ("refused" | "dead") as fate, name, *_:
            (history.refused if fate == "refused" else history.dead).add(name)
        case "left", where, count:
            history.left[where] = int(count)
        case _:
            raise ValueError("not a line")


def _told(history: History, row: dict[str, Any]) -> None:
    match row["what"]:
        case "began":
            pids, destroys = frozenset(row["pids"]), bool(row.get("destroys"))
            history.faults[row["fault"]] = Fault(row["fault"], row["kind"], row["cause"], row["t"], pids, destroys)
        case "evidence":
            fault = history.faults[row["fault"]]
            fault.evidence, fault.cause = row["text"], row.get("cause", fault.cause)
        case "healed":
            fault = history.faults[row["fault"]]
            fault.healed, fault.heirs, fault.pids = row["t"], tuple(row["heirs"]), fault.pids | {*row.get("pids", ())}
        case "error":
            history.invalid.append(f"fault {row['fault']}: {row['text']}")
        case "born":
            history.lives[row["pid"]] = [row["t"], math.inf]
        case "gone":
            history.lives[row["pid"]][1] = row["t"]
            history.deaths += [f"process {row['pid']}: {row['alone']}"] if row.get("alone") else []
        case moment:
            history.moments[moment] = row["t"]


def judge(history: History) -> Verdict:
    """The verdict on a history."""
    faults = [fault for fault in history.faults.values() if fault.evidence]
    counts = {"messages": len(history.intents), "confirmed": len(history.confirmed), "in doubt": len(history.doubts)}
    counts |= {"refused": len(history.refused), "dead": len(history.dead), "runs": len(history.runs)}
    idle = Counter(fault.kind for fault in history.faults.values() if not fault.evidence)
    verdict = Verdict(counts, Counter(fault.kind for fault in faults), idle, list(history.invalid))
    verdict.invalid += ["the run was broken off"] if "over" not in history.moments else []
    verdict.invalid += ["no message was confirmed"] if not history.confirmed else []
    verdict.invalid += ["no fault has evidence"] if history.faults and not faults else []
    verdict.flaws["left"] = [f"{where}: {count}" for where, count in history.left.items() if count]
    verdict.flaws["died"] = list(history.deaths)
    by_id: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(history.runs.values(), key=lambda run: run.began):
        by_id[run.id].append(run)
    _fates(history, by_id, faults, verdict)
    for name, runs in by_id.items():
        _repeats(runs, history.doubts[name], history.promised.get("slack_seconds", 1.0), faults, verdict)
    _order(history, by_id, verdict)
    _recovery(history, faults, verdict)
    return verdict


def _fates(history: History, by_id: dict[str, list[Run]], faults: list[Fault], verdict: Verdict) -> None:
    """What became of each message: handled, dead, destroyed with the queue, or lost."""
    endings = {name: {run.ending for run in runs} for name, runs in by_id.items()}
    done = {name for name, seen in endings.items() if seen & OVER} | history.dead
    emptied = max((fault.healed for fault in faults if fault.destroys), default=-math.inf)
    missing, handled, flaws = (
        [name for name in history.confirmed if name not in done],
        by_id.keys() | history.dead,
        verdict.flaws,
    )
    at = {name: history.confirmed[name] - NOTICING_SECONDS for name in missing}
    said = {name: history.intents[name][3] for name in missing if name in history.intents}
    flaws["lost"] = [name for name in missing if max(at[name], said.get(name, at[name])) > emptied]
    verdict.counts["destroyed"] = len(missing) - len(flaws["lost"])
    flaws["invented"] = sorted(handled - history.intents.keys())
    flaws["ghosts"] = sorted(history.refused & handled)  # the broker had said no
    known = by_id.keys() & history.intents.keys()
    flaws["corrupt"] = [name for name in known if any(run.digest != history.intents[name][2] for run in by_id[name])]
    if emptied == -math.inf:
        flaws["not dead"] = [name for name, seen in endings.items() if "rejected" in seen and name not in history.dead]
    innocent = {"finished", "dropped", ""}  # a process's end is no message's failure
    flaws["wrongly dead"] = [name for name in sorted(history.dead & endings.keys()) if endings[name] <= innocent]


def _repeats(runs: list[Run], copies: int, slack: float, faults: Sequence[Fault], verdict: Verdict) -> None:
    """A run is in order if it is the first, or follows from one that failed. Every other one is a repeat and needs a cause.
    ``copies``: how often a publish was in doubt, each of which may have left one."""
    used: set[int] = set()  # faults of the broker that have explained one already
    for at, run in enumerate(runs):
        earlier = runs[:at]
        if not earlier and run.attempt == 1:
            continue
        if (parent := _parent(run, earlier)) is not None:
            parent.retried = True
        elif (fault := _cause(run, earlier, slack, faults, used)) is not None:
            verdict.duplicated[fault.cause] += 1
        elif run.attempt == 1 and copies:
            copies -= 1
            verdict.duplicated["producer"] += 1
        else:
            verdict.flaws["unexplained"].append(
                f"{run.id} (attempt {run.attempt}, process {run.pid}, at {run.began:.3f})"
            )


def _parent(run: Run, earlier: Sequence[Run]) -> Run | None:
    """The run whose failure caused ``run``: each causes one. A deferral counts no attempt; a timeout looks like an interruption."""
    for former in earlier:
        counted = former.ending in ("failed", "interrupted") and former.attempt == run.attempt - 1
        if not former.retried and (counted or (former.ending == "deferred" and former.attempt == run.attempt)):
            return former
    return None


def _cause(run: Run, earlier: Sequence[Run], slack: float, faults: Sequence[Fault], used: set[int]) -> Fault | None:
    """The fault that kept an earlier run of the same attempt from being settled, or took from its worker what ``run`` began with.
    One run explains one repeat; so does, for one message, a broker that was broken."""
    for fault in reversed([fault for fault in faults if fault.cause != "none" and fault.began <= run.began]):
        if fault.cause == "broker" and fault.number not in used and _moved_twice(run, earlier, slack, fault):
            used.add(fault.number)
            return fault
        if fault.cause in ("lease", "connection") and earlier and _unaware(run, fault, faults):
            return fault
        for former in earlier:
            held = _unaware(former, fault, faults) and former.settled + slack >= fault.began
            cut_off = fault.cause != "stop" or former.ending == "interrupted"
            if held and cut_off and former.attempt == run.attempt and not former.repeated:
                former.repeated = True
                return fault
    return None


def _moved_twice(run: Run, earlier: Sequence[Run], slack: float, fault: Fault) -> bool:
    """Whether a retry was on its way between two queues as the broker broke, which may have forgotten that it had moved it."""
    waited = any(former.ending in AGAIN and former.began <= fault.healed for former in earlier)
    return waited and any(run.attempt == former.attempt and former.began + slack >= fault.began for former in earlier)


def _unaware(run: Run, fault: Fault, faults: Sequence[Fault]) -> bool:
    """Whether ``run`` was begun by a worker that the fault hit, before it knew: who is blocked or stands still by another fault
    knows when that is over. The dead begin nothing; their heirs are new."""
    if run.pid not in fault.pids or fault.cause in ("kill", "stop"):
        return run.pid in fault.pids and run.began <= fault.healed
    until = fault.healed + NOTICING_SECONDS
    deaf = [one.healed for one in faults if run.pid in one.pids and one.began <= until and one.healed > fault.began]
    return run.began <= max([fault.healed, *deaf]) + NOTICING_SECONDS


def _order(history: History, by_id: dict[str, list[Run]], verdict: Verdict) -> None:
    """Of the runs of one key, by what was promised for it."""
    promise = history.promised.get("keys", "none")
    keyed: defaultdict[tuple[str, int], list[Run]] = defaultdict(list)
    for name, (key, *_) in history.intents.items():
        for run in by_id.get(name, ()) if key != "-" and promise != "none" else ():
            keyed[key, run.pid if promise == "process" else 0].append(run)
    for (key, _), runs in keyed.items():
        flaws = _overlaps(runs) if promise == "process" else _overtakings(runs, history)
        verdict.flaws["disordered"] += [f"key {key}: {flaw}" for flaw in flaws]


def _overlaps(runs: list[Run]) -> Iterator[str]:
    """One message at a time."""
    for one, other in pairwise(sorted(runs, key=lambda run: run.began)):
        if other.began < one.ended and one.id != other.id:
            yield f"{other.id} began while {one.id} was running in process {one.pid}"


def _overtakings(runs: list[Run], history: History) -> Iterator[str]:
    """Nothing begins before all that was published earlier is done: handled for the first time, or dead."""
    first, done = dict[str, float](), dict[str, float]()
    for run in sorted(runs, key=lambda run: run.began):
        first.setdefault(run.id, run.began)
        if run.ending in OVER:
            done[run.id] = min(run.ended, done.get(run.id, math.inf))
    latest, whose = -math.inf, ""
    for name in sorted(first, key=lambda name: history.intents[name][1]):
        if first[name] < latest:
            yield f"{name} began before {whose} was done"
        if name in history.confirmed and done.get(name, -math.inf) > latest:
            latest, whose = done[name], name


def _recovery(history: History, faults: Sequence[Fault], verdict: Verdict) -> None:
    """For each fault and each worker that is to go on after it: how long until a handler began; never is infinite. What is
    overtaken by a fault, in time, is left to that one, and to the check for silence: none hides behind the next."""
    usual = sorted(run.ended - run.began for run in history.runs.values() if run.ending in OVER) or [0.0]
    bound = history.promised.get("recovery_seconds", 10.0) + usual[int(len(usual) * 0.9)]
    signs: defaultdict[int, list[float]] = defaultdict(list)
    for run in sorted(history.runs.values(), key=lambda run: run.began):
        signs[run.pid].append(run.began)
    quiet = history.moments.get("quiet", math.inf)
    for fault in faults:
        for pid in fault.heirs:
            since = max(fault.healed, history.up.get(pid, -math.inf))  # the machine's time for a start is not ours
            again = next((at for at in signs[pid] if at >= since), math.inf)
            hits = [one.began for one in history.faults.values() if pid in one.pids and one.healed > fault.healed]
            over = min(quiet, history.lives.get(pid, [0.0, math.inf])[1], *hits, math.inf)
            if again <= over or over > since + bound:
                verdict.recoveries.append((fault.number, pid, again - since))
                if again > since + bound:
                    verdict.flaws["late"].append(
                        f"process {pid} after fault {fault.number} ({fault.kind}): {again - since:.1f} s"
                    )
    for pid, (born, gone) in history.lives.items():
        end, born = min(quiet, gone), max(born, history.up.get(pid, born), history.moments.get("running", born))  # noqa: PLW2901 - it is to work from then on
        for begin, stop in pairwise([born, *(at for at in signs[pid] if born < at < end), max(born, end)]):
            if (
                bound < stop - begin < math.inf
                and (idle := stop - begin - _under_faults(pid, begin, stop, history)) > bound
            ):
                verdict.flaws["late"].append(
                    f"process {pid} did nothing for {idle:.1f} s without a fault, from {begin:.3f}"
                )


def _under_faults(pid: int, begin: float, stop: float, history: History) -> float:
    """How long, of this time, some fault was under this worker."""
    covered, reach = 0.0, begin
    for fault in sorted(history.faults.values(), key=lambda fault: fault.began):
        if pid in fault.pids and fault.healed > reach and fault.began < stop:
            covered += min(fault.healed, stop) - max(fault.began, reach)
            reach = min(fault.healed, stop)
    return covered


def main(arguments: Sequence[str]) -> int:
    """Judge the run in a folder: 0 when it passes."""
    verdict = judge(read(Path(arguments[0])))
    print(f"{verdict} · {verdict.word}")  # noqa: T201 - a command
    for flaw, found in {"invalid": verdict.invalid, **verdict.flaws}.items():
        print(*(f"{flaw}: {text}" for text in found[:20]), sep="\n", end="\n" if found else "")  # noqa: T201 - a command
    return 0 if verdict.word == "PASS" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
