"""``worker.config = …`` on a worker that runs: hot keys take effect between messages, of the others the operator is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pythia.config import ReloadClass, WorkerConfig, diff
from pythia.core.assembly import rules_of
from pythia.core.events import ConfigApplied, Notice
from pythia.core.state import WorkerState

if TYPE_CHECKING:
    from pythia.core.worker import Worker


def reconfigure(worker: Worker, new: WorkerConfig) -> None:
    """Make ``new`` the worker's configuration. A worker that does not run takes all of it.

    Raises:
        ConfigError: an error class or a codec that is not there; nothing changed.
    """
    life, changes = worker._pythia_life, diff(worker._pythia_config, new)  # noqa: SLF001 - the worker's own setter
    rules = rules_of(worker, new)
    worker._pythia_config = new  # noqa: SLF001 - as above
    if not changes or life.engine is None or life.state not in (WorkerState.STARTING, WorkerState.RUNNING):
        life.status.config = new
        return
    life.status.config = new
    life.engine.apply(rules, concurrency=new.concurrency, prefetch=new.prefetch)
    life.tally.applied()
    life.emit(ConfigApplied(generation=life.tally.generation, changed=[change.key for change in changes]))
    cold = [change.key for change in changes if change.reload is not ReloadClass.HOT]
    if cold:
        life.emit(Notice(detail=f"these take effect when the worker is started again: {', '.join(cold)}"))
