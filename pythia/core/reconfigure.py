"""``worker.config = …``: in a reload it proposes; otherwise hot keys take effect at once, of the others the operator is told."""

from __future__ import annotations

from dataclasses import replace
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
        ConfigError: an error class or a codec that is not there, in a reload a key that only a restart can change; nothing
            changed.
    """
    life = worker._pythia_life  # noqa: SLF001 - the worker's own setter
    if life.reloader.propose(new):
        return
    changes, rules = diff(worker._pythia_config, new), rules_of(worker, new)  # noqa: SLF001 - as above
    worker._pythia_config = life.status.config = new  # noqa: SLF001 - as above
    if not changes or life.engine is None or life.state not in (WorkerState.STARTING, WorkerState.RUNNING):
        return
    terms = replace(life.engine.terms, concurrency=new.concurrency, prefetch=new.prefetch)
    life.engine.apply(rules, terms)
    life.on_config(new)
    life.tally.applied()
    life.emit(ConfigApplied(generation=life.tally.generation, changed=[change.key for change in changes]))
    cold = [change.key for change in changes if change.reload is not ReloadClass.HOT]
    if not cold and life.wired is not None and not any(c.reload is not ReloadClass.HOT for c in diff(life.wired, new)):
        life.wired = new
    if cold:
        life.emit(Notice(detail=f"these take effect when the worker is started again: {', '.join(cold)}"))
