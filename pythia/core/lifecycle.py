"""How a worker is started and stopped, step by step; a user may put another manager in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from pythia.core import ending, starting
from pythia.core.state import WorkerState

if TYPE_CHECKING:
    from pythia.config import WorkerConfig
    from pythia.core.worker import Worker

__all__ = ["LifecycleManager", "WorkerState"]


class LifecycleManager:
    """Starts and stops a worker. It keeps nothing about any worker: each call is passed one.

    Override ``start_worker`` and ``stop_worker`` around ``super()``. The four methods below them are extension points for
    such phases: they do nothing, and are called only by a manager that calls them.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self.config = config
        self.logger: Any = structlog.get_logger("pythia.lifecycle")

    async def start_worker(self, worker: Worker) -> None:
        """Connect the broker, run ``on_startup``; the worker is RUNNING when this returns, and consumes after that.

        Raises whatever ``on_startup`` raises, ``BrokerRefused`` and ``StoreError`` from connecting, and ``StartStopped``
        when somebody asked to stop meanwhile. Cancelled, the start is undone by whoever called it.
        """
        life = worker._pythia_life  # noqa: SLF001 - the manager is part of the worker
        await starting.connect(life)
        await starting.start_up(life)

    async def stop_worker(self, worker: Worker) -> None:
        """Drain within the deadline, run ``on_shutdown``, let go of everything; the worker is STOPPED when this returns."""
        life = worker._pythia_life  # noqa: SLF001 - the manager is part of the worker
        life.move(WorkerState.STOPPING)
        await ending.finish(life)
        await ending.shut_down(life)
        await ending.release(life)
        life.move(WorkerState.STOPPED)

    async def _validate_environment(self) -> None:
        """Extension point: check what must hold before the start."""

    async def _setup_advanced_monitoring(self, worker: Worker) -> None:
        """Extension point: prepare monitoring before the start."""

    async def _register_with_discovery(self) -> None:
        """Extension point: announce the running worker."""

    async def _start_background_tasks(self, worker: Worker) -> None:
        """Extension point: start what runs beside the worker."""
