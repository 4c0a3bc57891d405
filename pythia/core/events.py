"""What happened, as frozen data handed to observers; the core never imports a logger's renderer or an exporter.

Each event is one line that an operator may act on. ``name`` and ``level`` are constants of the class, ``text`` is the
sentence for people, and the dataclass's fields are the line's own fields. An event about one delivery carries it, and the
observer takes queue, message id, attempt and correlation id from there. Never a body, never a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from pythia.errors import DeadReason
from pythia.message import Delivery

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    name: ClassVar[str]
    level: ClassVar[Level] = "info"
    text: ClassVar[str]


Observer = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryEvent(Event):
    """Something that happened to one delivery. ``error`` is logged as error.type, error.message, error.stack."""

    delivery: Delivery
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarting(Event):
    name: ClassVar[str] = "worker.starting"
    text: ClassVar[str] = "starting"
    broker: str  # the URL without its password; a file's absolute path
    queues: Sequence[str]
    guarantee: str
    concurrency: int
    prefetch: int
    retry: str
    drain_timeout_seconds: float
    http: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRunning(Event):
    name: ClassVar[str] = "worker.running"
    text: ClassVar[str] = "running"
    ready_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopping(Event):
    name: ClassVar[str] = "worker.stopping"
    text: ClassVar[str] = "stopping: taking nothing more, finishing what is held"
    cause: str
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    name: ClassVar[str] = "worker.stopped"
    text: ClassVar[str] = "stopped"
    exit_code: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailed(Event):
    name: ClassVar[str] = "worker.failed"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = "failed: {detail}"
    detail: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReleased(Event):
    name: ClassVar[str] = "drain.released"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "handed back {count} unfinished"
    count: int
    message_ids: Sequence[str]  # at most 100
    ages: Sequence[float]  # seconds each had been running


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConnected(Event):
    name: ClassVar[str] = "broker.connected"
    text: ClassVar[str] = "connected to the broker"
    url: str
    server_version: str | None
    downtime_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLost(Event):
    name: ClassVar[str] = "broker.lost"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "the broker is out of reach"
    error: BaseException | None
    retry_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRefusal(Event):
    name: ClassVar[str] = "broker.refused"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = "the broker refused us"
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerBlocked(Event):
    name: ClassVar[str] = "broker.blocked"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "the broker takes nothing from us: {error}"
    url: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUnblocked(Event):
    name: ClassVar[str] = "broker.unblocked"
    text: ClassVar[str] = "the broker takes messages again"
    url: str
    downtime_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRegistered(Event):
    name: ClassVar[str] = "consumer.registered"
    text: ClassVar[str] = "consuming"
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLost(Event):
    name: ClassVar[str] = "consumer.lost"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "no longer consuming"
    queue: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDone(DeliveryEvent):
    name: ClassVar[str] = "message.done"
    text: ClassVar[str] = "done"
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRetry(DeliveryEvent):
    name: ClassVar[str] = "message.retry"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "failed, again in {delay_seconds:.1f} s: {reason}"
    reason: str
    delay_seconds: float
    max_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDefer(DeliveryEvent):
    name: ClassVar[str] = "message.defer"
    text: ClassVar[str] = "deferred for {delay_seconds:.1f} s"
    reason: str
    delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDead(DeliveryEvent):
    name: ClassVar[str] = "message.dead"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = "dead-lettered ({reason}): {detail}"
    reason: DeadReason
    detail: str
    attempts: int
    dead_queue: str | None  # None: the broker keeps dead letters beside the queue, not in one of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDrop(DeliveryEvent):
    name: ClassVar[str] = "message.drop"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "dropped: {reason}"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTimeout(DeliveryEvent):
    name: ClassVar[str] = "message.timeout"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "timed out: {reason}"
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDuplicate(DeliveryEvent):
    name: ClassVar[str] = "message.duplicate"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "duplicate: {reason}"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOwnershipLost(DeliveryEvent):
    name: ClassVar[str] = "message.ownership_lost"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "no longer ours, it will come again: {reason}"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleStale(Event):
    name: ClassVar[str] = "settle.stale"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "{count} settlements came too late: nothing written, the messages come again"
    queue: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleFailed(Event):
    name: ClassVar[str] = "settle.failed"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "the broker cannot take {count} settlements just now; holding them, asking again"
    queue: str
    count: int
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishFailed(Event):
    name: ClassVar[str] = "publish.failed"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "a message to {destination} was not confirmed"
    destination: str
    in_doubt: bool
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(DeliveryEvent):
    name: ClassVar[str] = "lease.lost"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "lease lost: {reason}"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked(Event):
    """Reported from outside the loop; names the message whose handler blocks it, and the line."""

    name: ClassVar[str] = "loop.blocked"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "the event loop has been blocked for {seconds:.1f} s at {where}"
    seconds: float
    where: str
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(Event):
    name: ClassVar[str] = "task.failed"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "{where} raised"
    where: str
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFailed(Event):
    name: ClassVar[str] = "health.failed"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "health_check() says no"
    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecovered(Event):
    name: ClassVar[str] = "health.recovered"
    text: ClassVar[str] = "health_check() says yes again"
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigApplied(Event):
    name: ClassVar[str] = "config.applied"
    text: ClassVar[str] = "configuration applied"
    generation: int
    changed: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRefused(Event):
    name: ClassVar[str] = "config.refused"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = "configuration refused, nothing changed: {cause}"
    generation: int
    changed: Sequence[str]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRolledBack(Event):
    name: ClassVar[str] = "config.rolled_back"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = "configuration rolled back to the one before: {cause}"
    generation: int
    changed: Sequence[str]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted(Event):
    """Of the supervisor, about one of its processes; ``worker`` takes the place of the supervisor's own name in the line."""

    name: ClassVar[str] = "process.started"
    text: ClassVar[str] = "process {slot} of {worker} started: pid {pid}"
    worker: str
    slot: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDied(Event):
    """``restart_in_seconds`` None: it is not started again by itself. ``code_or_signal``: ``exit 70``, ``SIGKILL``."""

    name: ClassVar[str] = "process.died"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = "process {slot} of {worker} (pid {pid}) died: {code_or_signal} {detail}"
    worker: str
    slot: int
    pid: int
    code_or_signal: str
    restart_in_seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCrashLoop(Event):
    name: ClassVar[str] = "process.crash_loop"
    level: ClassVar[Level] = "error"
    text: ClassVar[str] = (
        "process {slot} of {worker} died {deaths} times in a row: giving up, stopping the others ({cause})"
    )
    worker: str
    slot: int
    deaths: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """A word to the operator that is no event of its own: a risk seen at start, a port that was busy."""

    name: ClassVar[str] = "worker.notice"
    level: ClassVar[Level] = "warning"
    text: ClassVar[str] = "{detail}"
    detail: str


class Observers:
    """Hands each event to every observer. An observer that raises is left out of that event, not of the next."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def add(self, observer: Observer) -> None:
        self._observers.append(observer)

    @contextmanager
    def to(self, observer: Observer) -> Iterator[None]:
        """Hand events to ``observer`` too, while entered."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    def __call__(self, event: Event) -> None:
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:  # noqa: BLE001, S112 - an observer (a closed log file) must never hurt a delivery
                continue
