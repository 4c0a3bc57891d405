"""Which fault strikes when, whom, and for how long: drawn from a seed before the run, so that the same seed means the same.

*dense*: one every 1.5 to 2.6 seconds, long ones overlapping with those that follow. *isolated*: one, then silence for twice the
time that recovery may take, because the next fault would rescue a consumer that the one before had ended. *paired*: two at a
time, the second while the first is still there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["dense", "isolated", "paired"]
MODES: tuple[Mode, ...] = ("dense", "isolated", "paired")

Cause = Literal["kill", "stop", "lease", "connection", "broker", "none"]
Place = Literal["worker", "workers", "link", "producer", "server", "message"]

DENSE_GAP_SECONDS = (1.5, 2.6)
INSIDE_SECONDS = 0.5  # from the first of a pair to the second
SETTLE_SECONDS = 1.0  # what is over at once keeps its place for so long
BOOT_SECONDS = 3.0  # so does a new process


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault. ``place``: what it breaks, which nothing else breaks meanwhile. ``cause``: which repeats it explains.

    ``leases`` and ``seconds`` make its length: so many leases and so many seconds. ``after``: for how long its place is then
    left alone. ``weight``: how often it comes in a round in which each kind comes.
    """

    name: str
    place: Place
    cause: Cause
    leases: float = 0.0
    seconds: float = 0.0
    after: float = SETTLE_SECONDS
    weight: int = 1
    destroys: bool = False
    text: str = ""

    def length(self, lease: float) -> float:
        return self.leases * lease + self.seconds


PROCESS_KINDS = (
    Kind(
        name="kill",
        place="worker",
        cause="kill",
        after=BOOT_SECONDS,
        weight=2,
        text="SIGKILL to a worker; a new one is started",
    ),
    Kind(
        name="kill-all",
        place="workers",
        cause="kill",
        after=BOOT_SECONDS,
        text="SIGKILL to every worker at once; new ones",
    ),
    Kind(
        name="stop",
        place="worker",
        cause="stop",
        after=BOOT_SECONDS,
        weight=2,
        text="SIGTERM to a worker under load; a new one",
    ),
    Kind(
        name="freeze", place="worker", cause="lease", leases=1.0, seconds=1.5, text="SIGSTOP for longer than the lease"
    ),
    Kind(
        name="pause",
        place="worker",
        cause="none",
        leases=0.3,
        weight=2,
        text="SIGSTOP for a third of the lease: nobody may notice",
    ),
)
BLOCK_KIND = Kind(
    name="block",
    place="message",
    cause="none",
    leases=1.0,
    seconds=0.5,
    text="a handler blocks its event loop beyond the lease",
)
LINK_KINDS = (
    Kind(name="reset", place="link", cause="connection", text="a worker's connections end with RST"),
    Kind(name="close", place="link", cause="connection", text="a worker's connections end with FIN"),
    Kind(name="cut-mid-frame", place="link", cause="connection", text="a connection ends after some more bytes"),
    Kind(
        name="half-open",
        place="link",
        cause="connection",
        leases=1.0,
        seconds=1.0,
        text="nothing passes, and nobody is told",
    ),
    Kind(
        name="deaf", place="link", cause="connection", leases=0.6, text="nothing passes from the server to the worker"
    ),
    Kind(
        name="mute", place="link", cause="connection", leases=0.6, text="nothing passes from the worker to the server"
    ),
    Kind(name="latency", place="link", cause="none", seconds=3.0, text="every byte is 100 ms late"),
    Kind(name="bandwidth", place="link", cause="none", seconds=2.0, text="64 kB a second"),
    Kind(name="slices", place="link", cause="none", seconds=1.0, text="one byte at a time"),
    Kind(name="producer-reset", place="producer", cause="none", text="the producer's connections end with RST"),
)
LOCK_KIND = Kind(name="locked", place="server", cause="lease", leases=0.4, text="another process locks the queue file")
FULL_KIND = Kind(name="disk-full", place="server", cause="lease", leases=0.6, text="the disk of the queue file is full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One fault of a schedule: ``at`` seconds from the run's beginning. ``slot``: which worker, where it is one's."""

    number: int
    at: float
    kind: str
    slot: int
    seconds: float
    chance: float  # 0 to 1, for what else is drawn


def schedule(
    mode: Mode, kinds: Sequence[Kind], *, seed: int, workers: int, lease: float, seconds: float, recovery: float
) -> list[Planned]:
    """The faults of a run of ``seconds``, of which the last ones leave time to recover."""
    chance = random.Random(f"schedule {seed}")  # noqa: S311 - a seed is to be repeatable
    bag, end = _Bag(kinds, chance), max(seconds - recovery, seconds / 2)
    planned: list[Planned] = []
    free: dict[tuple[str, int], float] = {}
    for at in _moments(mode, chance, end, 2 * recovery + max(kind.length(lease) for kind in kinds)):
        slots = chance.sample(range(workers), workers)

        def fitting(kind: Kind, at: float = at, slots: Sequence[int] = slots) -> list[int]:
            return [slot for slot in slots if all(free.get(p, 0.0) <= at for p in _places(kind, slot, workers))]

        if (kind := bag.take(fitting)) is not None:
            slot, length = fitting(kind)[0], kind.length(lease)
            free.update(dict.fromkeys(_places(kind, slot, workers), at + length + kind.after))
            drawn, number = round(chance.random(), 6), len(planned)
            planned.append(
                Planned(number=number, at=round(at, 3), kind=kind.name, slot=slot, seconds=length, chance=drawn)
            )
    return planned


class _Bag:
    """Each kind as often as it weighs, in an order by chance, and again."""

    def __init__(self, kinds: Sequence[Kind], chance: random.Random) -> None:
        self._round = [kind for kind in kinds for _ in range(kind.weight)]
        self._chance = chance
        self._left: list[Kind] = []

    def take(self, fits: Callable[[Kind], object]) -> Kind | None:
        """The next that fits; what does not is put off and not left out. None: none does."""
        if not any(map(fits, self._left)) and len(self._left) <= len(self._round):
            self._left += self._chance.sample(self._round, len(self._round))
        found = next(filter(fits, self._left), None)
        if found is not None:
            self._left.remove(found)
        return found


def _moments(mode: Mode, chance: random.Random, end: float, silence: float) -> Iterator[float]:
    at = chance.uniform(*DENSE_GAP_SECONDS)
    while at < end:
        yield at
        match mode:
            case "dense":
                at += chance.uniform(*DENSE_GAP_SECONDS)
            case "isolated":
                at += silence
            case "paired":
                yield at + INSIDE_SECONDS
                at += silence / 2


def _places(kind: Kind, slot: int, workers: int) -> list[tuple[str, int]]:
    match kind.place:
        case "worker" | "link" as place:
            return [(place, slot)]
        case "workers":
            return [("worker", each) for each in range(workers)]
        case place:
            return [(place, 0)]
