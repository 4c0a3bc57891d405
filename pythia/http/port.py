"""Where the routes are served: at the port that was set or, if none was and the default is taken, at a free one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pythia import runtime_file
from pythia.config import WorkerConfig, was_set
from pythia.core.events import Notice, Observer
from pythia.errors import PortBusy
from pythia.http.server import AppServer


@contextmanager
def served(config: WorkerConfig, make: Callable[[str, int], AppServer], emit: Observer) -> Iterator[str]:
    """Serve what ``make(host, port)`` makes while entered; its URL, which is announced to the machine's user meanwhile.

    Raises:
        PortBusy: the port that was set cannot be had.
    """
    http = config.http
    server = make(http.host, http.port)
    try:
        port = server.start()
    except OSError as error:
        if was_set(config, "http.port"):
            raise PortBusy(
                f"http.port {http.port} on {http.host} {_why_not(error)}: set another, or 0 for a free one"
            ) from None
        server = make(http.host, 0)
        port = server.start()
        emit(Notice(detail=f"http.port {http.port} is in use: the probes are at port {port} instead"))
    url = f"http://{f'[{http.host}]' if ':' in http.host else http.host}:{port}"
    try:
        with runtime_file.announced(url):
            yield url
    finally:
        server.stop()


def _why_not(error: OSError) -> str:
    return "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror or error})"
