"""What a server of one's own is, whichever it is: a process and a folder, to be stopped, killed, frozen and started again."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from tests.kit.processes import Started


class PrivateServer(ABC):
    """Its folder outlives ``stop`` and ``kill`` until it is closed. A context manager. Everything here blocks."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"pythia-{name}-"))
        self._server: Started | None = None
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.running

    def start(self) -> None:
        """Returns when it serves, on the data that it left. Idempotent."""
        if not self.running:
            self._server = self._started()

    @abstractmethod
    def _started(self) -> Started:
        """A process of it that serves."""

    def stop(self) -> None:
        """As its operator would: connections are closed with a word."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """SIGKILL: no word to anybody."""
        if self._server is not None:
            self._server.kill()

    def restart(self, *, kill: bool = False) -> None:
        if kill:
            self.kill()
        self.stop()
        self.start()

    def suspend(self) -> None:
        """SIGSTOP: connections stay and nothing answers, until ``resume``."""
        assert self._server is not None
        self._server.suspend()

    def resume(self) -> None:
        assert self._server is not None
        self._server.resume()

    def close(self) -> None:
        """Ends it and deletes its data. Idempotent."""
        self.kill()
        self._finalizer()
