"""The states of a worker and the moves between them, as one table that the runtime obeys."""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType

from pythia.errors import LifecycleError


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


_S = WorkerState
MOVES = MappingProxyType(
    {
        _S.INITIALIZING: frozenset({_S.STARTING, _S.ERROR, _S.STOPPED}),
        _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.ERROR}),
        _S.RUNNING: frozenset({_S.STOPPING, _S.ERROR}),
        _S.ERROR: frozenset({_S.STOPPING}),
        _S.STOPPING: frozenset({_S.STOPPED}),
        _S.STOPPED: frozenset({_S.INITIALIZING}),
    }
)


def moved(current: WorkerState, to: WorkerState) -> WorkerState:
    """``to``, if the lifecycle allows the move.

    Raises:
        LifecycleError: it does not; the text names the moves that are allowed.
    """
    if to not in MOVES[current]:
        allowed = ", ".join(str(state) for state in sorted(MOVES[current]))
        raise LifecycleError(f"a worker that is {current} cannot become {to} (only: {allowed})")
    return to
