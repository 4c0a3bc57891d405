"""Two workers on one queue file, killed and started again at random moments; their ledger tells what happened."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from tests.acceptance.service_kit import NOTE, Place, Service, until

WORKER = (
    NOTE
    + """
class App(Worker):
    concurrency = 20

    async def process_message(self, message):
        note("begin", message.body, os.getpid())
        await asyncio.sleep(0.02)
        note("end", message.body, os.getpid())
"""
)


@dataclass(frozen=True, slots=True)
class Run:
    """One begun handler: who, and where in the ledger (bytes)."""

    pid: int
    at: int


@dataclass(slots=True)
class Verdict:
    """What an independent reader of the ledger finds."""

    kills: int
    lost: list[str] = field(default_factory=list)  # no handler came to its end
    unexplained: list[str] = field(default_factory=list)  # run again although nobody had killed the one before
    repeated: int = 0  # messages that a kill caught
    most_runs: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {len(self.lost)} lost, {len(self.unexplained)} unexplained, {self.repeated} repeated, "
            f"at most {self.most_runs} runs, {self.seconds:.1f} s"
        )


class Progress:
    """How many handlers have ended, read from the ledger as it grows."""

    def __init__(self, place: Place) -> None:
        self._path = place.directory / "effects"
        self._read = 0
        self._ended = 0

    def ended(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                news = file.read()
            self._read += len(news)
            self._ended += news.count(b"end ")
        return self._ended

    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def kill_at_random(place: Place, *, messages: int, kills: int, seed: int, **environment: str) -> Verdict:
    """Publish, run two workers, kill ``kills`` times, let the rest be done, stop both; the verdict."""
    names = [f"m{number}" for number in range(messages)]
    place.publish("default", names)
    chance, progress, killed = random.Random(seed), Progress(place), dict[int, int]()
    moments = sorted(chance.uniform(0.0, 0.9) * messages for _ in range(kills))
    began = time.monotonic()
    pair = [place.start(**environment) for _ in range(2)]
    try:
        for moment in moments:
            until(lambda moment=moment: progress.ended() >= moment, f"{moment:.0f} of {messages} handled")
            time.sleep(chance.uniform(0.0, 0.2))  # the moment is part of the schedule; nothing is waited for
            victim = chance.randrange(2)
            killed[pair[victim].pid] = progress.size()
            pair[victim].kill()
            pair[victim] = place.start(**environment)
        until(lambda: progress.ended() >= messages, "every message handled", deadline=120)
        until(lambda: _rest(place) == 0, "every message settled")
        seconds = time.monotonic() - began
        assert [service.stop() for service in pair] == [0, 0]
    finally:
        _end(pair)
    verdict = judge(place, names, killed)
    verdict.seconds = seconds
    return verdict


def judge(place: Place, names: list[str], killed: dict[int, int]) -> Verdict:
    """``killed``: for each killed process, how long the ledger was when it died.

    A second run of a message is in order only if whoever ran it before was killed, and before the second run began.
    """
    runs, ended, at = defaultdict[str, list[Run]](list), Counter[str](), 0
    for line in (place.directory / "effects").read_bytes().splitlines(keepends=True):
        verb, name, pid = line.decode().split()
        if verb == "begin":
            runs[name].append(Run(int(pid), at))
        else:
            ended[name] += 1
        at += len(line)
    verdict = Verdict(len(killed), lost=[name for name in names if not ended[name]])
    for name, rows in runs.items():
        if not all(killed.get(former.pid, at) <= later.at for former, later in pairwise(rows)):
            verdict.unexplained.append(name)
    verdict.repeated = sum(len(rows) > 1 for rows in runs.values())
    verdict.most_runs = max(map(len, runs.values()))
    return verdict


def _rest(place: Place) -> int:
    depth = place.depth()
    return int(depth["ready"] + depth["in_flight"] + depth["delayed"])


def _end(services: list[Service]) -> None:
    for service in services:
        if service.process.poll() is None:
            service.kill()
