"""Signals: installed over default dispositions only, and put back at the end.

SIGTERM and SIGINT stop; a second one hurries. SIGUSR1 (and SIGHUP when there is no terminal) reload. SIGUSR2 tells what is
running and dumps the stacks. The handlers are Python's own, not the loop's, so that they run even while a handler blocks the
loop; the loop's wake-up descriptor makes an idle loop notice them at once, those that the user installed included.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

Action = Callable[[], None]
STOP = (signal.SIGTERM, signal.SIGINT)

_pending: set[int] = set()


@contextmanager
def early() -> Iterator[None]:
    """From before user code is imported: a reload signal must not kill a process that is not ready for it yet.

    What arrives is remembered and acted on by ``installed``; SIGTERM ends the process with 0, since nothing has begun.
    """
    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        wanted = dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2, *_hangup()), _remember)
        for number, handler in (wanted | {signal.SIGTERM: _leave}).items():
            if signal.getsignal(number) is signal.SIG_DFL:
                former[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def installed(loop: asyncio.AbstractEventLoop, actions: Mapping[int, Action]) -> Iterator[None]:
    """While entered, each signal that nobody else handles calls its action, on the main thread; the loop wakes up for it.

    Outside the main thread signals cannot be handled: then this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handled(actions):
        woken = _wake_on_signals(loop)
        try:
            yield
        finally:
            if woken:
                loop.remove_signal_handler(signal.SIGWINCH)


@contextmanager
def handled(actions: Mapping[int, Action]) -> Iterator[None]:
    """``installed`` for a process without an event loop. On the main thread only."""
    former: dict[int, Any] = {}
    for number, action in actions.items():
        current = signal.getsignal(number)
        if _default(current):
            former[number] = signal.signal(number, _calling(action))
    for number in sorted(_pending & former.keys()):
        _pending.discard(number)
        actions[number]()
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def reload_signals() -> tuple[int, ...]:
    """SIGUSR1, and SIGHUP where it does not mean that the terminal is gone."""
    return (signal.SIGUSR1, *_hangup())


def _hangup() -> tuple[int, ...]:
    with suppress(OSError, ValueError, AttributeError):
        if sys.stdin is not None and sys.stdin.isatty():
            return ()
    return (signal.SIGHUP,)


def _calling(action: Action) -> Callable[[int, FrameType | None], None]:
    return lambda _number, _frame: action()


def _wake_on_signals(loop: asyncio.AbstractEventLoop) -> bool:
    """Set the loop's wake-up descriptor, by way of a signal that nobody minds."""
    if signal.getsignal(signal.SIGWINCH) not in (signal.SIG_DFL, None):
        return False
    try:
        loop.add_signal_handler(signal.SIGWINCH, lambda: None)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)  # a storm has woken it long before that
    return True


def _default(handler: Any) -> bool:
    if handler in (signal.SIG_DFL, signal.default_int_handler, _remember, _leave):
        return True
    # asyncio.run puts this over SIGINT, which is a default too: it would cancel the worker instead of draining it
    return isinstance(handler, functools.partial) and getattr(handler.func, "__name__", "") == "_on_sigint"


def _remember(number: int, _frame: FrameType | None) -> None:
    _pending.add(number)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
