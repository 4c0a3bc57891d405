"""Logs: structlog set up natively, the standard library's records beside it, and the observer that writes core events.

One pipeline for all three: level, context of the message in hand, order, redaction, JSON or console. Level, format and
stream may change while the process runs; loggers made earlier follow. A line that cannot be written (a closed pipe, a full
disk) is given up: logging never raises into the code that logs. Until ``configure`` is called structlog prints as it
comes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO, Literal, Protocol, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from pythia.brokers import DRIVER_LOGGERS
from pythia.core.context import current, trace_id
from pythia.core.events import DeliveryEvent, Event
from pythia.message import Delivery
from pythia.observability.lines import TEXT_CHARACTERS, Fields, Render, arrange, console_line, json_line

MOST_A_SECOND = 10

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_ALIASES = {"warn": "warning", "exception": "error", "fatal": "critical"}


class LogSection(Protocol):
    """The part of the configuration that this module reads."""

    @property
    def level(self) -> str: ...
    @property
    def format(self) -> str: ...


def configured_elsewhere() -> bool:
    """Whether the application has set structlog up by itself: then its lines, ours among them, are its own affair."""
    return structlog.is_configured() and structlog.get_config()["processors"] is not _PROCESSORS


def configure(log: LogSection, stream: TextIO | None = None) -> None:
    """Set structlog and ``logging`` up for this process; the last call wins.

    ``stream``: None is ``sys.stdout`` as it is at each line. Format ``auto`` is the console's on a terminal, else JSON.
    """
    _OUTPUT.aim(stream, log.format)
    set_level(log.level)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        context_class=dict,
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    if _BRIDGE not in root.handlers:
        root.addHandler(_BRIDGE)


def set_level(level: str) -> None:
    """Write lines of ``level`` and above from now on; the standard library's never below WARNING, unless the user gave
    a logger of his own a level."""
    _OUTPUT.threshold = LEVELS[level.lower()]
    _BRIDGE.setLevel(_OUTPUT.threshold)
    logging.getLogger().setLevel(max(logging.WARNING, _OUTPUT.threshold))


def logger_for(worker_name: str, worker_id: str) -> FilteringBoundLogger:
    """The logger of one worker; follows ``configure``, whether that comes before or after."""
    return cast("FilteringBoundLogger", structlog.get_logger(worker=worker_name, worker_id=worker_id))


def about(delivery: Delivery) -> Fields:
    """The fields by which a line names a message."""
    envelope = delivery.envelope
    return {
        "queue": delivery.queue,
        "message_id": envelope.id,
        "attempt": delivery.attempt,
        "correlation_id": envelope.correlation_id,
        "trace_id": trace_id(delivery),
    }


class LogObserver:
    """Writes each event of one worker as one line. Safe for use from several threads.

    More than ten of one ``message.*`` event a second from one queue: the rest are counted, and told in one line with
    ``suppressed=n`` once the second is over and any event comes, or at ``flush``.
    """

    def __init__(self, worker_name: str, worker_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = logger_for(worker_name, worker_id)
        self._clock = clock
        self._windows: dict[tuple[type[Event], str], _Window] = {}
        self._lock = threading.RLock()  # a signal handler may tell something while its own thread is in here

    def __call__(self, event: Event) -> None:
        now = self._clock()
        with self._lock:
            told = self._over(now)
            passes = self._passes(event, now)
        self._tell(told)
        if passes:
            fields = _fields_of(event)
            self._log.log(LEVELS[event.level], event.name, **fields, message=_sentence(event, fields))

    def flush(self) -> None:
        """Tell what was counted so far; for the end of a drain, and now and then."""
        with self._lock:
            told = self._over(math.inf)
        self._tell(told)

    def _passes(self, event: Event, now: float) -> bool:
        if not isinstance(event, DeliveryEvent) or not event.name.startswith("message."):
            return True
        window = self._windows.setdefault((type(event), event.delivery.queue), _Window(now))
        window.seen += 1
        return window.seen <= MOST_A_SECOND

    def _over(self, now: float) -> list[tuple[type[Event], str, int]]:
        """Close the windows that are over by ``now``; what each held back."""
        over = [(key, window) for key, window in tuple(self._windows.items()) if now - window.began >= 1]
        ours = [(key, window) for key, window in over if self._windows.pop(key, None) is window]
        return [(*key, window.seen - MOST_A_SECOND) for key, window in ours if window.seen > MOST_A_SECOND]

    def _tell(self, rows: list[tuple[type[Event], str, int]]) -> None:
        for cls, queue, count in rows:
            self._log.log(
                LEVELS[cls.level],
                cls.name,
                queue=queue,
                suppressed=count,
                message=f"{count} more like this within a second",
            )


class _Window:
    """One second of one event from one queue."""

    __slots__ = ("began", "seen")

    def __init__(self, began: float) -> None:
        self.began = began
        self.seen = 0


def _fields_of(event: Event) -> Fields:
    """The event's own fields, floats without their noise; of its delivery, what names the message."""
    own = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    delivery = own.pop("delivery", None)
    if own.get("error", event) is None:
        del own["error"]
    shown = {key: round(value, 6) if isinstance(value, float) else value for key, value in own.items()}
    return shown if delivery is None else {**about(delivery), **shown}


def _sentence(event: Event, fields: Fields) -> str:
    return event.text.format_map({key: _short(value) for key, value in fields.items()})


def _short(value: object) -> object:
    return value[:TEXT_CHARACTERS] if isinstance(value, str) else value


class _Output:
    """Where lines go and how they look."""

    def __init__(self) -> None:
        self.threshold = logging.INFO
        self._render: Render = json_line
        self._json = True
        self._stream: TextIO | None = None
        self._lock = threading.RLock()  # a signal handler may log while its own thread is writing

    def aim(self, stream: TextIO | None, form: str) -> None:
        terminal = _is_terminal(stream or sys.stdout)
        as_json = form == "json" or (form == "auto" and not terminal)
        colours = _colours(terminal=terminal)
        with self._lock:
            self._stream = stream
            self._json = as_json
            self._render = json_line if as_json else partial(console_line, colours=colours)

    def line(self, level: str, fields: MutableMapping[str, Any]) -> str:
        """The text of one line; the message in hand is added where the line does not name one."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        merged = {**_in_hand(), **structlog.contextvars.get_contextvars(), **fields, "timestamp": now, "level": level}
        return self._render(arrange(merged))

    def write(self, line: str) -> None:
        with self._lock:
            stream = self._stream or sys.stdout
            try:
                _put(stream, line + "\n", "utf-8" if self._json else stream.encoding or "utf-8")
            except BrokenPipeError:
                _let_go(stream)
            except (OSError, ValueError, RuntimeError, AttributeError):
                return  # full, closed, or in the middle of a write that a signal interrupted: the line is given up


def _put(stream: TextIO, text: str, encoding: str) -> None:
    data = text.encode(encoding, "backslashreplace")
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode(encoding))
    else:
        stream.flush()  # what print() left there comes first
        _put_all(buffer, memoryview(data))
    stream.flush()


def _put_all(buffer: BinaryIO, data: memoryview) -> None:
    """With PYTHONUNBUFFERED this is the bare descriptor, which may take a part (a signal came) or, where it must not
    wait, nothing (None)."""
    while data:
        data = data[buffer.write(data) or len(data) :]


def _let_go(stream: TextIO) -> None:
    """Nobody reads any more: point the descriptor at nothing, or the interpreter's last flush makes the exit code 120."""
    if stream not in {sys.__stdout__, sys.__stderr__}:
        return
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def _colours(*, terminal: bool) -> bool:
    """NO_COLOR wins over FORCE_COLOR, and both over what the terminal can do."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")


def _in_hand() -> Fields:
    handled = current.get()
    delivery = None if handled is None else handled.delivery
    return {} if delivery is None else about(delivery)


class _Lines:
    """What structlog hands finished lines to."""

    def __init__(self, *_names: object) -> None: ...

    def _write(self, line: str) -> None:
        _OUTPUT.write(line)

    debug = info = warning = warn = error = exception = critical = fatal = msg = log = _write


def _process(_logger: object, method: str, fields: MutableMapping[str, Any]) -> str:
    """The only processor."""
    level = _ALIASES.get(method, method)
    if LEVELS.get(level, logging.INFO) < _OUTPUT.threshold:
        raise structlog.DropEvent
    if fields.get("exc_info") is True:
        fields["exc_info"] = sys.exc_info()
    return _OUTPUT.line(level, fields)


class _Bridge(logging.Handler):
    """The standard library's records (aiohttp, asyncio, a user's libraries): the logger's name is the event."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments of somebody else's record may do anything
            text = str(record.msg)
        fields: Fields = {"event": record.name, "message": text}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        _OUTPUT.write(_OUTPUT.line(_level_name(record.levelno), fields))


def _worth_a_line(record: logging.LogRecord) -> bool:
    """What a broker's driver warns of we tell ourselves (``broker.lost``, ``consumer.lost``), and some of its lines quote whole
    messages: it is heard only if the user gave its logger a level."""
    driver = record.name.partition(".")[0]
    return driver not in DRIVER_LOGGERS or any(logging.getLogger(name).level for name in (driver, record.name))


def _level_name(number: int) -> Literal["debug", "info", "warning", "error", "critical"]:
    if number >= logging.CRITICAL:
        return "critical"
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


_OUTPUT = _Output()
_PROCESSORS = [_process]
_BRIDGE = _Bridge()
_BRIDGE.addFilter(_worth_a_line)
