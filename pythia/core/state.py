"""The life of a worker and the life of a delivery, as two tables.

Whoever wants to know what may happen next asks them: the guard of a running worker (``moved``), the drawn pages
(``states_page``), and the tests, which play the real engine and search a model of it for a move that is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Generic, TypeVar

from pythia.errors import LifecycleError

P = TypeVar("P", bound=Enum)


class WorkerState(IntEnum):
    """Where a worker is in its life. ``value`` suits a gauge; ``str()`` is the lower-case name."""

    INITIALIZING = 0  # setting up configuration and connections
    STARTING = 1  # running start-up hooks
    RUNNING = 2  # processing messages
    STOPPING = 3  # draining
    STOPPED = 4
    ERROR = 5  # what waiting cannot heal

    def __str__(self) -> str:
        return self.name.lower()


class Place(Enum):
    """Where a message is, as seen from the worker that gets it."""

    READY = "ready"  # in the broker, for whoever asks first
    DELAYED = "delayed"  # in the broker, not before its time
    HELD = "held"  # ours: leased, and no handler has begun
    HANDLING = "handling"  # ours: with a lane, from decoding it to the handler's end
    SETTLING = "settling"  # ours: decided, and the broker has not answered
    LOST = "lost"  # it was ours, and the broker has it
    DONE = "done"
    DEAD = "dead"  # a dead letter: kept for a person
    DROPPED = "dropped"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Move(Generic[P]):
    """One allowed move. ``event`` names it, ``cause`` says what brings it about.

    ``counts``: the message comes back with the next attempt. ``fenced``: only whoever holds the message's latest fence
    can do it; of anybody else the broker takes nothing.
    """

    here: P
    there: P
    event: str
    cause: str
    counts: bool = False
    fenced: bool = False


_S, _P = WorkerState, Place

WORKER: tuple[Move[WorkerState], ...] = (
    Move(_S.INITIALIZING, _S.STARTING, "connected", "the broker is reached"),
    Move(_S.INITIALIZING, _S.STOPPED, "stop", "a stop while the broker is waited for, or before any start"),
    Move(_S.INITIALIZING, _S.ERROR, "fail", "the broker refuses us, or the time for the start is over"),
    Move(_S.STARTING, _S.RUNNING, "started", "`on_startup` returned"),
    Move(_S.STARTING, _S.STOPPING, "stop", "a stop during `on_startup`"),
    Move(_S.STARTING, _S.ERROR, "fail", "`on_startup` raised, or took too long"),
    Move(_S.RUNNING, _S.STOPPING, "stop", "`stop()`, a signal, `--burst`, `--max-messages`, a cancelled `start()`"),
    Move(_S.RUNNING, _S.ERROR, "fail", "what waiting cannot heal: a corrupt file, a refused queue, a bug of ours"),
    Move(_S.ERROR, _S.STOPPING, "stop", "the drain of what failed while it ran; a stop of what failed to start"),
    Move(_S.STOPPING, _S.STOPPED, "stopped", "everything is let go"),
    Move(_S.STOPPED, _S.INITIALIZING, "start", "started again: a new life, which connects anew"),
)

DELIVERY: tuple[Move[Place], ...] = (
    Move(_P.DELAYED, _P.READY, "due", "its time has come"),
    Move(_P.READY, _P.HELD, "receive", "handed to a worker that has a slot for it, with a lease and a new fence"),
    Move(_P.HELD, _P.HANDLING, "begin", "a lane takes it; never once a drain has begun"),
    Move(
        _P.HELD,
        _P.SETTLING,
        "give_back",
        "a drain, a pause, a second without a free lane; an ordering key that others have",
    ),
    Move(_P.HANDLING, _P.HELD, "park", "another one of its ordering key is at work: it waits without a lane"),
    Move(
        _P.HANDLING,
        _P.SETTLING,
        "decide",
        "the handler returned, raised, timed out or was interrupted; or it was not to run",
    ),
    Move(_P.SETTLING, _P.DONE, "ack", "done, or its effect was done before", fenced=True),
    Move(_P.SETTLING, _P.DELAYED, "retry", "a counted failure with attempts left", counts=True, fenced=True),
    Move(_P.SETTLING, _P.DELAYED, "defer", "`Defer`, a twin at work, others of its key first", fenced=True),
    Move(_P.SETTLING, _P.READY, "release", "handed back by us: a drain, a pause, no free lane", fenced=True),
    Move(_P.SETTLING, _P.DEAD, "dead_letter", "rejected, unreadable, too old, attempts spent, poison", fenced=True),
    Move(_P.SETTLING, _P.DROPPED, "drop", "`Drop`", fenced=True),
    Move(_P.SETTLING, _P.SETTLING, "refused", "the broker cannot write just now: it is asked again"),
    Move(_P.HELD, _P.LOST, "lose", "the lease ran out, the connection or the consumer is gone, the process died"),
    Move(_P.HANDLING, _P.LOST, "lose", "the same; its handler is interrupted"),
    Move(_P.SETTLING, _P.LOST, "lose", "the same, or the settlement came too late: nothing was written"),
    Move(_P.LOST, _P.READY, "return", "at once, or when the lease is over"),
    Move(_P.DEAD, _P.READY, "replay", "by a person; it begins anew with attempt 1"),
)

FINAL = frozenset({_P.DONE, _P.DEAD, _P.DROPPED})


def allowed(table: Iterable[Move[P]]) -> Mapping[P, frozenset[P]]:
    """Where each place leads."""
    ways: dict[P, set[P]] = {}
    for move in table:
        ways.setdefault(move.here, set()).add(move.there)
    return MappingProxyType({here: frozenset(there) for here, there in ways.items()})


MOVES = allowed(WORKER)


def moved(current: WorkerState, to: WorkerState) -> WorkerState:
    """``to``, if the lifecycle allows the move.

    Raises:
        LifecycleError: it does not; the text names the moves that are allowed.
    """
    if to not in MOVES[current]:
        only = ", ".join(str(state) for state in sorted(MOVES[current]))
        raise LifecycleError(f"a worker that is {current} cannot become {to} (only: {only})")
    return to
