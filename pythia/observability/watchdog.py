"""Watches the event loop from a thread of its own: says that it stands still, where, and which message's handler it is.

A blocked loop runs no probe, no lease renewal and no timeout; nothing that lives on it can say so. One look every quarter
of a second at the loop's heartbeat costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from types import FrameType

from pythia.core.events import LoopBlocked, Observer
from pythia.core.status import Blocked, Status
from pythia.message import Delivery
from pythia.observability.facts import BLOCKED_AFTER_SECONDS, standstill

LOOK_EVERY_SECONDS = 0.25
_TOLD_AT = (BLOCKED_AFTER_SECONDS, 10.0, 30.0, 60.0)  # then every minute


class Watchdog:
    """Sets ``status.blocked`` while the loop stands still, and emits ``LoopBlocked`` after 1, 10, 30, 60 s and each minute.

    ``stepping`` gives the delivery whose handler the loop is in just now, None if it is in none; it is called from this
    thread. ``on_look`` is called after each look, from this thread too, and must not block: what has to go on while the loop
    stands still. ``start`` and ``stop`` may be called twice, and ``stop`` before ``start``.
    """

    def __init__(
        self,
        status: Status,
        emit: Observer,
        loop_thread_id: int,
        stepping: Callable[[], Delivery | None],
        *,
        on_look: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._emit = emit
        self._on_look = on_look
        self._loop_thread_id = loop_thread_id
        self._stepping = stepping
        self._clock = clock
        self._looked_at = clock()
        self._told = 0  # how often, of this standstill
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._stopping.clear()
            self._looked_at = self._clock()
            self._thread = threading.Thread(target=self._run, name="pythia-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; what it said of a standstill is taken back."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._status.blocked = None

    def look(self) -> None:
        """One look at the heartbeat."""
        now = self._clock()
        slept, self._looked_at = now - self._looked_at, now
        seconds = standstill(self._status, now)
        frame = sys._current_frames().get(self._loop_thread_id)  # noqa: SLF001 - documented, and the only way to another thread's stack
        if seconds is None or frame is None:
            self._told = 0
            self._status.blocked = None
        elif (
            slept < LOOK_EVERY_SECONDS + BLOCKED_AFTER_SECONDS
        ):  # else the whole process stood still: first let the loop turn
            self._tell(seconds, where(frame))

    def _tell(self, seconds: float, place: str) -> None:
        delivery = None
        with suppress(Exception):  # it reads the engine's state from outside, in the middle of anything
            delivery = self._stepping()
        message_id, queue = (None, None) if delivery is None else (delivery.envelope.id, delivery.queue)
        self._status.blocked = Blocked(seconds=seconds, where=place, message_id=message_id, queue=queue)
        if seconds >= _due(self._told):
            while seconds >= _due(self._told):
                self._told += 1
            self._emit(LoopBlocked(seconds=seconds, where=place, delivery=delivery))

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_SECONDS):
            self.look()
            self._on_look()


def _due(told: int) -> float:
    """After how many seconds of a standstill it is told for the ``told`` + 1st time."""
    return _TOLD_AT[told] if told < len(_TOLD_AT) else _TOLD_AT[-1] * (told - len(_TOLD_AT) + 2)


def where(frame: FrameType) -> str:
    """The line that a thread is at, ``file.py:12 in process_message``: the user's, if the loop is in his code.

    His is what belongs neither to Python, nor to a library, nor to Pythia; or else, where he is installed like a library,
    what Pythia called. Without any, the innermost line.
    """
    stack = [(at, _owner(at)) for at in takewhile(lambda at: not _is_loop(at), _outwards(frame))]
    his = next((at for at, owner in stack if owner == "user"), None) or _called_by_pythia(stack) or frame
    return f"{_nearby(his.f_code.co_filename)}:{his.f_lineno} in {his.f_code.co_name}"


def _called_by_pythia(stack: Sequence[tuple[FrameType, str]]) -> FrameType | None:
    library = None
    for at, owner in stack:
        if owner == "pythia":
            return library
        library = at if owner == "library" else library
    return None


def _outwards(frame: FrameType) -> Iterator[FrameType]:
    at: FrameType | None = frame
    while at is not None:
        yield at
        at = at.f_back


def _is_loop(frame: FrameType) -> bool:
    """Whether this is the event loop itself: what is further out started it, and is not what blocks it."""
    path = Path(frame.f_code.co_filename)
    return path.parent == _ASYNCIO and path.stem in {"base_events", "events", "runners"}


_ASYNCIO = Path(asyncio.__file__).parent
_PYTHIA = Path(__file__).parents[1]
_PATHS = {name: Path(path) for name, path in sysconfig.get_paths().items()}


def _owner(frame: FrameType) -> str:
    """``user``, ``library``, ``python`` or ``pythia``; the examples that come with Pythia are a user's code."""
    name = frame.f_code.co_filename
    path = Path(name)
    if name.startswith("<frozen"):
        return "python"
    if path.is_relative_to(_PYTHIA):
        return "user" if path.is_relative_to(_PYTHIA / "examples") else "pythia"
    if {"site-packages", "dist-packages"}.intersection(path.parts):
        return "library"
    return "python" if any(path.is_relative_to(_PATHS[name]) for name in ("stdlib", "platstdlib")) else "user"


def _nearby(filename: str) -> str:
    """A path as it is shortest from here."""
    with suppress(ValueError, OSError):
        relative = os.path.relpath(filename)
        if not relative.startswith(os.pardir) and not filename.startswith("<"):
            return relative
    return filename
