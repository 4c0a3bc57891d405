"""One case: a message, a process that is killed at one point of the message's way, another that finishes, and the judge.

A case is written as a generator that yields while it waits, so that many are played at once by one process without threads:
their processes are forked from it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crashes import child
from tests.crashes.child import Order
from tests.crashes.points import Point
from tests.crashes.venues import Venue, venue_of

BROKERS = ("sqlite", "rabbitmq", "redis-stream", "redis-list")
OUTCOMES = (
    *("ack", "slow ack", "ack with output", "retry", "defer", "dead letter", "drop", "release", "undecodable"),
    *("ack after a kill", "publish"),
)
AT_ONCE = 16
ROUNDS = 3  # processes that may be needed to finish, beside the one that is killed
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 30.0
FINISHED_SECONDS = 12.0
FLAWED_SECONDS = 3.0  # for what will not be finished
HANDED_BACK = 75  # exit code of a worker that stopped with something in hand

Playing = Generator[None, None, "Result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``point`` None: nobody is killed."""

    broker: str
    outcome: str
    point: Point | None = None
    mutant: str = ""

    def __str__(self) -> str:
        return f"{self.broker}, {self.outcome}, {self.point or 'no kill'}"


@dataclass(slots=True, kw_only=True)
class Result:
    """What an independent look at ledger and broker found. ``passed``: the points, of a case without a kill."""

    case: Case
    reached: bool  # the process died at its point
    lost: int = 0
    duplicates: int = 0
    left: dict[str, int] = field(default_factory=dict)
    attempts: int = 0  # highest that a handler saw
    seconds: float = 0.0
    passed: list[Point] = field(default_factory=list)
    log: str = ""

    @property
    def sound(self) -> bool:
        """Nothing lost, at most one duplicate, nothing left over, and no kill was counted as a failure."""
        most = 2 if self.case.outcome == "retry" else 1
        return not self.lost and self.duplicates <= 1 and not self.left and self.attempts <= most

    def __str__(self) -> str:
        return (
            f"{self.case}: lost {self.lost}, duplicates {self.duplicates}, left {self.left or 'nothing'}, "
            f"attempt {self.attempts}{'' if self.reached else ', point not reached'}"
        )


def play(cases: Iterable[Case], *, at_once: int = AT_ONCE) -> list[Result]:
    """All of them, several at a time; in the order in which they are over."""
    venues: dict[str, Venue] = {}
    root = Path(tempfile.mkdtemp(prefix="pythia-crashes-"))
    waiting, playing, results = list(cases), list[Playing](), list[Result]()
    try:
        while waiting or playing:
            while waiting and len(playing) < at_once:
                case = waiting.pop(0)
                if case.broker not in venues:
                    venues[case.broker] = venue_of(case.broker)
                playing.append(_Play(case, venues[case.broker], root).run())
            playing = [game for game in playing if not _over(game, results)]
            time.sleep(0.01)
    finally:
        for game in playing:
            game.close()  # its processes end with it
        for venue in venues.values():
            venue.close()
        shutil.rmtree(root, ignore_errors=True)
    return results


def _over(game: Playing, results: list[Result]) -> bool:
    try:
        next(game)
    except StopIteration as end:
        results.append(end.value)
        return True
    return False


class _Play:
    """One case being played, in a folder and under names of its own."""

    def __init__(self, case: Case, venue: Venue, root: Path) -> None:
        self._case = case
        self._venue = venue
        self._suffix = secrets.token_hex(5)
        self._folder = root / self._suffix
        self._folder.mkdir()
        self._url = venue.url(self._suffix, self._folder)
        self._pids: set[int] = set()
        self._began = time.monotonic()

    def run(self) -> Playing:
        """The case from its first message to the verdict."""
        try:
            self._venue.prepare(self._suffix)
            reached = yield from self._crash()
            for _ in range(ROUNDS if self._is_unfinished() else 0):
                yield from self._finish()
                yield from self._nothing_on_its_way()
                if not self._left():
                    break
            return self._judge(reached)
        finally:
            for pid in self._pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self._venue.clean(self._suffix)

    def _is_unfinished(self) -> bool:
        """Whether somebody has to finish: who is not killed does so itself, unless it hands the message back."""
        return self._case.point is not None or self._case.outcome in ("release", "publish")

    def _crash(self) -> Generator[None, None, bool]:
        """What leads to the kill; whether it came."""
        deadly, outcome = self._case.point, self._case.outcome
        if outcome == "publish":
            killed = yield from self._ended(self._fork(publishes=True, watched=True, deadly=deadly))
            if killed:
                yield from self._ended(self._fork(publishes=True))  # in doubt, it says it again
            return killed
        yield from self._ended(self._fork(publishes=True))
        if outcome == "ack after a kill":
            first = Point("handler: begins")
            yield from self._ended(self._fork(watched=True, deadly=first))
        return (yield from self._ended(self._fork(ends=True, watched=True, deadly=deadly)))

    def _fork(self, *, deadly: Point | None = None, **how: bool) -> int:
        order = Order(
            url=self._url,
            suffix=self._suffix,
            folder=self._folder,
            outcome=self._case.outcome,
            deadly=deadly,
            mutant=self._case.mutant,
            **how,
        )
        pid = os.fork()
        if pid == 0:
            child.main(order)
        self._pids.add(pid)
        return pid

    def _ended(self, pid: int) -> Generator[None, None, bool]:
        """Wait for the end of a process; whether it was killed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self._case}: a process does not end: {self._log()}")
            yield
        self._pids.discard(pid)
        code = os.waitstatus_to_exitcode(status[1])
        if code not in (0, HANDED_BACK, -signal.SIGKILL):
            raise AssertionError(f"{self._case}: a process ended with {code}: {self._log()}")
        return code == -signal.SIGKILL

    def _finish(self) -> Generator[None, None, None]:
        """A fresh process works until there is nothing to do any more, and is stopped."""
        ready = self._ledger()["ready"]
        pid = self._fork()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._ledger()["ready"] == ready:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self._case}: no worker gets ready: {self._log()}")
            yield
        deadline = time.monotonic() + (FLAWED_SECONDS if self._case.mutant else FINISHED_SECONDS)
        quiet_since, before = time.monotonic(), None
        while time.monotonic() < deadline:
            now = (self._ledger(), self._venue.dead(self._suffix, self._folder))
            if self._left() or now != before or not self._fates():
                quiet_since, before = time.monotonic(), now
            if time.monotonic() - quiet_since > self._venue.quiet_seconds:
                break
            yield from self._pause(LOOK_SECONDS)
        os.kill(pid, signal.SIGTERM)
        yield from self._ended(pid)

    def _nothing_on_its_way(self) -> Generator[None, None, None]:
        deadline = time.monotonic() + 2.0
        while self._case.outcome in ("retry", "defer") and self._venue.delayed_anywhere():
            if time.monotonic() > deadline:
                return  # copies of others, who are still at work
            yield from self._pause(LOOK_SECONDS)

    @staticmethod
    def _pause(seconds: float) -> Generator[None, None, None]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            yield

    # -- the judge -----------------------------------------------------------------------------------------------------

    def _judge(self, reached: bool) -> Result:
        fates, said = self._fates(), self._ledger()["confirmed"]
        points = self._folder / "points"
        passed = [Point(*row) for row in json.loads(points.read_text())] if points.exists() else []
        return Result(
            case=self._case,
            reached=reached,
            lost=int(said > 0 and fates == 0),
            duplicates=max(0, fates - 1),
            left=self._left() | self._astray(),
            attempts=max((int(words[1]) for words in self._lines() if words[0] == "begin"), default=0),
            seconds=time.monotonic() - self._began,
            passed=passed,
            log=self._log(),
        )

    def _fates(self) -> int:
        """How often what was to happen to the message has happened: the most of what can be counted, 0 if one is missing."""
        suffix, folder, effects = self._suffix, self._folder, self._ledger()["effect"]
        match self._case.outcome:
            case "dead letter" | "undecodable":
                return self._venue.dead(suffix, folder)
            case "ack with output":
                outputs = self._venue.outputs(suffix, folder)
                return max(outputs, effects) if outputs and effects else 0
        return effects

    def _left(self) -> dict[str, int]:
        return dict(self._venue.left(self._suffix, self._folder))

    def _astray(self) -> dict[str, int]:
        """Dead letters and outputs where there should be none."""
        found, outcome = {}, self._case.outcome
        if outcome not in ("dead letter", "undecodable"):
            found["dead letters"] = self._venue.dead(self._suffix, self._folder)
        if outcome != "ack with output":
            found["outputs"] = self._venue.outputs(self._suffix, self._folder)
        return {name: count for name, count in found.items() if count}

    def _lines(self) -> Sequence[list[str]]:
        file = self._folder / "ledger"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def _ledger(self) -> Counter[str]:
        return Counter(words[0] for words in self._lines())

    def _log(self) -> str:
        file = self._folder / "log"
        return file.read_text(errors="replace")[-2000:] if file.exists() else ""
