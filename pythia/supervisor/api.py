"""``Supervisor``, also called ``Server``: the same from Python."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from contextlib import nullcontext
from multiprocessing import spawn
from typing import Any, Protocol, Self, runtime_checkable

from pythia import signals
from pythia.config import WorkerConfig
from pythia.core.worker import Worker
from pythia.errors import LifecycleError, PythiaError, TargetError
from pythia.supervisor import inside
from pythia.supervisor.main import NAME, Ended, Service, Wanted
from pythia.supervisor.order import Common, Post

_MAIN = ("sys_path", "sys_argv", "dir", "orig_dir", "init_main_from_name", "init_main_from_path")
_LOOK_SECONDS = 0.2


@runtime_checkable
class Member(Protocol):
    """What runs in this process, in a thread or a process of its own making."""

    def start(self) -> Any: ...
    def stop(self) -> Any: ...
    def join(self, timeout: float | None = None) -> Any: ...


class Supervisor:
    """Runs workers in processes of their own, as one service: one port, one deadline, one exit code.

    ``add`` worker classes, then ``run``. A worker is imported anew in each process, so its class must stand at the top of a
    module, and a script must guard the call with ``if __name__ == "__main__":``. ``drain_timeout_seconds`` wins over
    file and environment. Objects with ``start``, ``stop`` and ``join`` (threads and processes of your own) can be
    added too, with ``add_worker``: they live in this process.
    """

    def __init__(self, name: str = NAME, *, drain_timeout_seconds: float = 25) -> None:
        self.name = name
        self._drain_seconds = float(drain_timeout_seconds)
        self._posts: list[Post] = []
        self._workers: list[Member] = []
        self._service: Service | None = None
        self._thread: threading.Thread | None = None
        self._ended: Ended | None = None
        self._stop = threading.Event()
        self._signals: list[bool] = []

    def add(self, worker: Any, processes: int = 1, config: WorkerConfig | None = None) -> Self:
        """Run ``worker`` (a ``Worker`` class or a ``@handler`` function) in so many processes. ``config`` None: from file
        and environment, as ever.

        Raises:
            TargetError: a process could not import it. ValueError: fewer than one process.
        """
        if processes < 1:
            raise ValueError(f"processes must be at least 1, not {processes}")
        target = _target(worker)
        key = target if all(post.key != target for post in self._posts) else f"{target}#{len(self._posts)}"
        pickled = None if config is None else pickle.dumps(config)
        self._posts.append(Post(key=key, target=target, processes=processes, config=pickled))
        return self

    def add_worker(self, worker: Any) -> Self:
        """Add an object with ``start``, ``stop`` and ``join``; a worker class is added as by ``add``."""
        if isinstance(worker, type) or hasattr(worker, "worker_class"):
            return self.add(worker)
        if isinstance(worker, Worker) or not isinstance(worker, Member):
            raise TypeError(
                f"add the class {type(worker).__name__}, not an instance of it: each process makes its own"
                if isinstance(worker, Worker)
                else f"{type(worker).__name__} has no start(), stop() and join()"
            )
        self._workers.append(worker)
        return self

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or ``stop`` from another thread; the exit code. What went wrong is printed in one line.

        Raises:
            TargetError: this process is itself one that a supervisor started: the call needs its guard.
        """
        self._refuse_inside()
        self._stop.clear()
        self._signals.clear()
        try:
            ended = self._supervise()
        except PythiaError as error:
            ended = Ended(error.exit_code, str(error))
        if ended.error is not None:
            print(f"pythia: {' '.join(ended.error.split())}", file=sys.stderr)  # noqa: T201 - as the command does
        return ended.exit_code

    def run_forever(self) -> int:
        """The same."""
        return self.run()

    def start(self) -> None:
        """Start everything and return; ``stop`` and ``join_all`` end it. Signals stay the caller's.

        Raises:
            ConfigError: the configuration cannot be used. LifecycleError: it runs already.
        """
        self._refuse_inside()
        if self._thread is not None:
            raise LifecycleError(f"{self.name} runs already")
        service = self._service = self._made() if self._posts else None
        self._stop.clear()
        for member in self._workers:
            member.start()
        if service is not None:
            self._thread = threading.Thread(target=lambda: self._keep(service.run()), name=self.name)
            self._thread.start()

    def stop(self) -> None:
        """Ask everything to stop; from any thread."""
        self._stop.set()
        for member in self._workers:
            member.stop()
        if self._service is not None:
            self._service.stop()

    def join_all(self, timeout: float | None = None) -> None:
        """Wait until all have ended, ``timeout`` seconds for them together."""
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        for member in self._workers:
            member.join(timeout=left())
        if self._thread is not None:
            self._thread.join(left())
            if not self._thread.is_alive():
                self._thread = self._service = None

    def _supervise(self) -> Ended:
        actions: dict[int, signals.Action] = dict.fromkeys(map(int, signals.STOP), self._signalled)
        here = threading.current_thread() is threading.main_thread()
        with signals.handled(actions) if here else nullcontext():
            service = self._service = self._made() if self._posts else None
            try:
                for member in self._workers:
                    member.start()
                return self._waited() if service is None else service.run()
            finally:
                self._service = None
                self.stop()
                self.join_all(self._drain_seconds)

    def _signalled(self) -> None:
        """In the signal handler: no lock is taken here. A service's processes are hurried by the second one."""
        self._signals.append(True)
        if self._service is not None:
            self._service.stop()

    def _waited(self) -> Ended:
        """With nothing but members: until a signal, or ``stop``."""
        while not self._stop.is_set() and not self._signals:
            time.sleep(_LOOK_SECONDS)
        return Ended(0, None)

    def _made(self) -> Service:
        posts, common = tuple(self._posts), Common(main=_main())
        return Service(Wanted(posts=lambda _config: posts, common=common, drain_seconds=self._drain_seconds))

    def _keep(self, ended: Ended) -> None:
        self._ended = ended

    def _refuse_inside(self) -> None:
        if inside.is_child():
            raise TargetError(
                'a process of a supervisor starts no supervisor: guard the call with if __name__ == "__main__":'
            )


Server = Supervisor


def _target(worker: Any) -> str:
    """``module:attribute``, by which a fresh interpreter finds it.

    Raises:
        TargetError: there is no such way.
    """
    cls = getattr(worker, "worker_class", worker)
    if not (isinstance(cls, type) and issubclass(cls, Worker)):
        raise TargetError(f"{worker!r} is no Worker class and no @handler function")
    name: str = getattr(worker, "__qualname__", cls.__qualname__)
    found: object = sys.modules.get(cls.__module__)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not worker:
        raise TargetError(
            f"{cls.__module__}.{name} cannot be imported by another process: define it at the top of a module"
        )
    return f"{cls.__module__}:{name}"


def _main() -> dict[str, Any]:
    """How another process makes this one's ``__main__``, as multiprocessing does it."""
    data = spawn.get_preparation_data(NAME)
    return {key: data[key] for key in _MAIN if key in data}
