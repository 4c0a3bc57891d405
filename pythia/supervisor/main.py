"""The supervisor's process: configuration, log, port and signals around a crew."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pythia import signals
from pythia.config import WorkerConfig, config_file, flag_names, process_flags, was_set
from pythia.core.events import ConfigApplied, ConfigRefused, Event, Notice, Observers
from pythia.errors import ConfigError
from pythia.http.port import served
from pythia.http.server import AppServer
from pythia.observability import logs
from pythia.supervisor import view
from pythia.supervisor.crew import Crew
from pythia.supervisor.order import Common, Post
from pythia.supervisor.policy import RELOAD_SECONDS
from pythia.supervisor.routes import make_app
from pythia.supervisor.slot import Seen
from pythia.supervisor.systemd import Herald
from pythia.supervisor.watching import Watch

NAME = "supervisor"
_HERE_ONLY = ("processes", "http.")  # flags that are the supervisor's own

Posts = Callable[[WorkerConfig], Sequence[Post]]


class ServiceConfig(WorkerConfig):
    """What the supervisor reads: it imports no worker, so it cannot know the keys that a ``config_class`` adds."""

    pythia_shares_sources = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A service of several processes. ``posts`` is asked again at each reload."""

    posts: Posts
    common: Common
    drain_seconds: float | None = None  # None: drain_timeout_seconds of the configuration
    reload_directories: Sequence[Path] | None = None  # watch the code there; None: do not


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended. ``error`` is one line that nobody has printed."""

    exit_code: int
    error: str | None


class Service:
    """One supervised service, from its configuration to its exit code."""

    def __init__(self, wanted: Wanted) -> None:
        """Reads the configuration, and nothing else.

        Raises:
            ConfigError: it cannot be used.
        """
        self._wanted = wanted
        self.config: WorkerConfig = ServiceConfig()
        self.worker_id = f"{NAME}-{socket.gethostname()}-{os.getpid()}"
        self.emit = Observers()
        self._generation = 1
        self._drain = self.config.drain_timeout_seconds if wanted.drain_seconds is None else wanted.drain_seconds
        self.crew = Crew(
            wanted.posts(self.config),
            self._common(None),
            drain_seconds=self._drain,
            emit=self.emit,
            developing=wanted.reload_directories is not None,
        )

    def run(self) -> Ended:
        """Until it is told to stop; the signals are those of ``pythia run`` where this is the main thread.

        Raises:
            PortBusy: the port that was set is taken.
        """
        with ExitStack() as outside:
            if not logs.configured_elsewhere():
                logs.configure(self.config.log)
            outside.enter_context(self.emit.to(logs.LogObserver(NAME, self.worker_id)))
            if self.config.http.enabled:
                self.crew.common = self._common(outside.enter_context(self._port()))
            if self._wanted.reload_directories is not None:
                outside.enter_context(Watch(self._wanted.reload_directories, self._code_changed))
            if threading.current_thread() is threading.main_thread():
                outside.enter_context(signals.handled(self._actions()))
            outside.enter_context(Herald(self.crew))
            code = self.crew.run()
        return Ended(code, self.crew.error)

    def stop(self) -> None:
        """From any thread."""
        self.crew.stop()

    def reload(self) -> Future[list[Seen]]:
        """Read the configuration again; start and drain what it says, and have every process read its own. What each says.

        Raises:
            ConfigError: it cannot be used; nothing changed, and no process was told.
        """
        try:
            new = self.config.reload()
            posts = self._wanted.posts(new)
        except ConfigError as error:
            self._emit(ConfigRefused(generation=self._generation, changed=(), cause=str(error)))
            raise
        self.config = new
        self.crew.submit(lambda: self._arrange(posts))
        return self.crew.ask("reload", RELOAD_SECONDS + 1.0)

    def planned(self) -> Future[list[Seen]]:
        """What a reload would do in each process; nothing is changed.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        self._wanted.posts(self.config.reload())
        return self.crew.ask("plan")

    def _arrange(self, posts: Sequence[Post]) -> None:
        before = self.crew.wanted
        self.crew.arrange(posts)
        if self.crew.wanted != before:
            self._generation += 1
            self._emit(ConfigApplied(generation=self._generation, changed=["processes"]))

    def _reload_on_signal(self) -> None:
        with suppress(ConfigError):  # it has been told
            self.reload()

    def _emit(self, event: Event) -> None:
        self.emit(event)

    def _actions(self) -> dict[int, signals.Action]:
        crew = self.crew
        actions: dict[int, signals.Action] = dict.fromkeys(map(int, signals.STOP), crew.stop)
        actions |= dict.fromkeys(signals.reload_signals(), lambda: crew.submit(self._reload_on_signal))
        actions[int(signal.SIGUSR2)] = lambda: crew.submit(self._tell_what_runs)
        return actions

    def _tell_what_runs(self) -> None:
        self._emit(Notice(detail=view.table(self.crew.seen({}))))
        self.crew.tell(signal.SIGUSR2)

    def _code_changed(self, path: Path) -> None:
        self._emit(Notice(detail=f"{path} has changed: draining, then starting again"))
        self.crew.replace_all()

    def _common(self, url: str | None) -> Common:
        flags = {key: value for key, value in process_flags().items() if not key.startswith(_HERE_ONLY)}
        names = dict(flag_names())
        if self._wanted.drain_seconds is not None:
            flags["drain_timeout_seconds"] = self._wanted.drain_seconds
            names["drain_timeout_seconds"] = "Supervisor(drain_timeout_seconds)"
        file = config_file()
        return replace(
            self._wanted.common,
            flags=flags,
            flag_names=names,
            config_file=None if file is None else str(file),
            worker_id=self.config.worker_id if was_set(self.config, "worker_id") else None,
            http=url,
        )

    def _port(self) -> AbstractContextManager[str]:
        """The routes of the whole service, served while entered; their URL."""
        return served(
            self.config,
            lambda host, port: AppServer(host, port, lambda: make_app(self, self.emit), self.emit),
            self.emit,
        )
