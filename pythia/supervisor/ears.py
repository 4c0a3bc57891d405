"""What wakes the supervisor's loop: processes that say something, signals, words from other threads, a time that has come."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pythia.supervisor.channel import Wire
from pythia.supervisor.slot import Slot


class Ears:
    """Waits, on the loop's thread. ``submit`` may be called from any thread and from signal handlers."""

    def __init__(self) -> None:
        self.closed = False
        self._calls: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        for end in (self._bell, self._button):
            end.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._selector.register(self._bell, selectors.EVENT_READ, None)

    def submit(self, call: Callable[[], None]) -> None:
        """Have the loop do ``call`` soon."""
        self._calls.append(call)
        with suppress(OSError):  # full: it is awake anyway; closed: it has ended
            self._button.send(b"!")

    @contextmanager
    def open_to_signals(self) -> Iterator[None]:
        """While entered, a signal wakes the loop at once; outside the main thread this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.set_wakeup_fd(self._button.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)

    def wait(self, seconds: float) -> list[Slot]:
        """Until something comes, so long at most; the slots whose processes have said something."""
        ready = self._selector.select(0.0 if self._calls else max(0.0, seconds))
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass
        return [key.data for key, _ in ready if key.data is not None]

    def do_what_was_asked(self) -> None:
        """Every call that was submitted."""
        while self._calls:
            self._calls.popleft()()

    def listen(self, wire: Wire, slot: Slot) -> None:
        """Wake up for ``wire``, which belongs to the process in ``slot``."""
        self._selector.register(wire, selectors.EVENT_READ, slot)

    def forget(self, wire: Wire) -> None:
        self._selector.unregister(wire)

    def close(self) -> None:
        self.closed = True
        self._selector.close()
        self._bell.close()
        self._button.close()
