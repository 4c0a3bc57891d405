"""What a harness remembers of messages: what was published, and every outcome that the broker carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pythia.brokers.memory_store import MemoryStore
from pythia.clock import Clock
from pythia.core.events import Event, MessageDead
from pythia.core.outcome import Outcome
from pythia.message import Envelope, Message

FINAL = ("ack", "dead_letter", "drop")
BEFORE_DECODING = ("expired", "undecodable", "invalid", "too_large")


@dataclass(slots=True, eq=False)
class Record:
    """One message. ``due`` is the time (seconds since the epoch) from which its next attempt may begin."""

    queue: str
    due: float
    attempts: int = 0  # of the latest outcome
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def last(self) -> Outcome | None:
        return self.outcomes[-1] if self.outcomes else None

    @property
    def final(self) -> bool:
        return self.last is not None and self.last.kind in FINAL


class RecordingStore(MemoryStore):
    """A memory store that remembers what was published and what became of it, by message id.

    ``news`` is set, and replaced by a new event, at every outcome.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._said: list[tuple[str, Envelope]] = []
        self.records: dict[str, Record] = {}
        self.news = asyncio.Event()

    def put(self, queue: str, envelope: Envelope, now: float, delay: float = 0.0) -> None:
        """Everything new comes through here: publishes, what a handler's success puts out, replayed dead letters."""
        self._said.append((queue, envelope))
        self.records[envelope.id] = Record(queue, now + delay)
        super().put(queue, envelope, now, delay)

    def said_to(self, queue: str) -> Sequence[Envelope]:
        """What was ever published to ``queue``, in order."""
        return [envelope for name, envelope in self._said if name == queue]

    def settled(self, message: Message[object], outcome: Outcome) -> None:
        """For the worker's shift: every settlement of a message that was decoded."""
        self._note(message.id, message.attempt, outcome)

    def observe(self, event: Event) -> None:
        """For the worker's observers: the rest, which was dead-lettered before it was a message."""
        if isinstance(event, MessageDead) and event.reason in BEFORE_DECODING:
            outcome = Outcome("dead_letter", event.detail, event.error, dead_reason=event.reason)
            self._note(event.delivery.envelope.id, event.attempts, outcome)

    def _note(self, id: str, attempt: int, outcome: Outcome) -> None:  # noqa: A002 - the API's word
        record = self.records[id]
        record.attempts = attempt
        record.outcomes.append(outcome)
        record.due = self._clock.time() + (outcome.delay_seconds or 0.0)
        self.news.set()
        self.news = asyncio.Event()
