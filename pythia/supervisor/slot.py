"""A place for one process of a worker: it stays when the process in it is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pythia.core.events import ProcessDied
from pythia.supervisor.order import Post
from pythia.supervisor.policy import Ending
from pythia.supervisor.process import Living, in_words


@dataclass(slots=True, eq=False)
class Slot:
    """``number`` is the same for every process that follows another here."""

    post: Post
    number: int
    living: Living | None = None
    quick_deaths: int = 0
    start_at: float | None = 0.0  # monotonic; None: not to be started (again)
    leaving: bool = False  # goes when its process has ended
    worker: str | None = None  # the name that a process of it said
    why: str = ""  # why there is no process just now

    @property
    def name(self) -> str:
        """For lines and labels: the worker's own name; until it is known, what was asked for."""
        return self.worker or self.post.table or self.post.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One slot as it was when somebody asked, and what its process answered."""

    name: str
    number: int
    pid: int | None
    stage: Literal["absent", "starting", "running", "stopping"]
    detail: str  # of an absent one
    answer: dict[str, Any] | None  # None: there is no process, or it did not answer in time

    @property
    def title(self) -> str:
        return f"process {self.number} of {self.name}" + ("" if self.pid is None else f" (pid {self.pid})")


def compared(slots: Sequence[Slot], posts: Sequence[Post]) -> tuple[list[Slot], list[tuple[Post, int]]]:
    """The slots that ``posts`` want to stay (they get the new post), and the numbers of those that are missing."""
    wanted = {(_identity(post), number): post for post in posts for number in range(post.processes)}
    staying = []
    for slot in slots:
        post = None if slot.leaving else wanted.pop((_identity(slot.post), slot.number), None)
        if post is not None:
            slot.post = post
            staying.append(slot)
    return staying, [(post, number) for (_, number), post in wanted.items()]


def _identity(post: Post) -> tuple[str, str, str | None, bytes | None]:
    """What makes a running process still the right one; how many there are does not."""
    return post.key, post.target, post.table, post.config


def look_at(slot: Slot, answers: Mapping[int, dict[str, Any]], now: float) -> Seen:
    """How the slot is, with what its process answered."""
    living = slot.living
    if living is None:
        again = "" if slot.start_at is None else f"starts again in {max(0.0, slot.start_at - now):.1f} s"
        detail = "; ".join(part for part in (slot.why, again) if part)
        return Seen(name=slot.name, number=slot.number, pid=None, stage="absent", detail=detail, answer=None)
    return Seen(
        name=slot.name,
        number=slot.number,
        pid=living.pid,
        stage="stopping" if living.stopping else "starting" if living.running_at is None else "running",
        detail="",
        answer=answers.get(living.pid),
    )


def death(slot: Slot, ending: Ending, *, again: float | None = None, why: str | None = None) -> ProcessDied:
    """The event. ``again``: seconds until another takes its place."""
    return ProcessDied(
        worker=slot.name,
        slot=slot.number,
        pid=ending.pid,
        code_or_signal=in_words(ending.code),
        restart_in_seconds=again,
        detail=why or "",
    )
