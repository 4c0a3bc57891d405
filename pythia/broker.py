"""The contract between the core and every broker; it fits on one screen, and one conformance suite holds it.

Policy (retry, dead letter, timeout, dedup) lives in the core; an adapter only carries out a settlement. Adapters raise
``BrokerUnavailable`` for what waiting heals (the engine reconnects), ``BrokerRefused`` and ``StoreError`` for what it does
not; nothing of a driver leaks past this seam. Durations are seconds, times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol

from pythia.errors import BrokerError, BrokerUnavailable, DeadReason
from pythia.message import Delivery, Envelope

Kind = Literal["ack", "retry", "defer", "release", "dead_letter", "drop"]


class ConsumerCancelled(BrokerUnavailable):
    """The connection is there and this one consumer is not any more: its queue or group was deleted, the server cancelled it,
    or it is missing and not ours to make. The engine registers it anew."""


class Settled(Enum):
    """A broker's answer to one settlement."""

    DONE = "done"
    STALE = "stale"  # no longer ours (channel gone, lease lost): nothing was written
    REFUSED = "refused"  # still ours and nothing changed (disk full, out of memory): ask again


DONE, STALE, REFUSED = Settled.DONE, Settled.STALE, Settled.REFUSED
"""For the delivery path: Python 3.11 takes ten times as long to look a member up in its class."""


class Published(Enum):
    """A broker's answer to one publish."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"  # certainly not taken
    UNKNOWN = "unknown"  # it may be there


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a delivery failed, as it is recorded on a dead letter."""

    reason: DeadReason
    detail: str  # the sentence for a person: Reject's reason, the error's text
    error_type: str | None = None  # "package.module.Class"
    error_message: str | None = None
    traceback: str | None = None
    worker: str = ""
    worker_id: str = ""
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Output:
    """A message to be durable before its source is acked."""

    queue: str
    envelope: Envelope


@dataclass(slots=True, eq=False)  # frozen, its making would take longer than a no-op handler
class Settlement:
    """The one outcome of one delivery. Treated as immutable. The adapter makes ``outputs`` and the retry copy or dead letter durable before the
    source is gone (in one transaction where it has one). ``delay`` serves retry and defer; a retry comes back with
    ``attempt`` + 1, a defer and a release with the attempt that it had."""

    delivery: Delivery
    kind: Kind
    delay: float = 0.0
    record: Failure | None = None  # with dead_letter
    outputs: Sequence[Output] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this broker can do; the conformance suite asks before it tests."""

    name: str  # "sqlite", "rabbitmq", "redis-stream", ...
    guarantee: Literal["at-least-once", "at-most-once"] = "at-least-once"
    durable: bool = True  # messages survive the process
    shared: bool = True  # several processes may consume one queue
    keeps: bool = True  # a message waits for its consumer; False: who is not there when it is said misses it
    leased: bool = False  # deliveries expire unless renewed (the adapter renews)
    delay: bool = True
    priority: bool = False
    ordered: bool = True  # first in, first out at concurrency 1
    keeps_place: bool = True  # what is released comes before what is younger
    ordering_keys: bool = False  # one at a time within a key, across every consumer of the queue
    dead_letters: bool = True
    dead_queue: str | None = None  # how the queue of dead letters is called ("{queue}.dead"); None: it is no queue
    counts_deliveries: bool = False
    transactional: bool = False  # outputs and settlement are one transaction
    idempotency: bool = False  # has an idempotency store of its own
    exchanges: bool = False  # publishes to an exchange, by routing key
    lists_queues: bool = True  # can tell which queues there are
    server_version: str | None = None
    detail: str = ""  # one line for `check` and the start-up banner: a file's absolute path, a journal mode


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How much a queue holds. None: this broker cannot tell (shown as null, its metric absent, never 0)."""

    queue: str
    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    dead: int | None = None
    oldest_age_seconds: float | None = None  # of the oldest ready message; None too when nothing is ready
    consumers: int | None = None
    durable: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message set aside for a person. None: nobody recorded it (a foreign dead letter)."""

    id: str
    envelope: Envelope
    reason: str | None = None
    detail: str | None = None
    attempts: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    published_at: float | None = None
    first_seen_at: float | None = None
    dead_at: float | None = None
    worker: str | None = None
    worker_id: str | None = None
    origin_queue: str | None = None


def no_such_letter(after: str | None, queue: str) -> BrokerError:
    """What ``list`` raises when ``after`` names no dead letter of ``queue``."""
    return BrokerError(
        f"no dead letter {after!r} in queue {queue!r} to list on from: it was replayed or purged meanwhile"
    )


class DeadLetters(Protocol):
    """The dead letters of one queue, oldest first. Looking changes none."""

    async def count(self) -> int: ...
    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]: ...  # `after`: an id
    def scan(
        self,
    ) -> AsyncIterator[DeadLetter]: ...  # all of them, in one pass; they must stay where they are meanwhile
    async def get(self, id: str) -> DeadLetter | None: ...  # noqa: A002 - the API's word
    async def replay(self, ids: Sequence[str], to: str | None = None) -> int: ...  # back as attempt 1; how many moved
    async def purge(self, ids: Sequence[str]) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What an operator should know of this server: a sentence each."""

    offers: Sequence[str] = ()  # what this version can do
    risks: Sequence[str] = ()  # what may lose or hold up messages, and what to do about it


class Claim(Enum):
    """An idempotency store's answer."""

    OURS = "ours"  # run it
    DONE = "done"  # somebody finished it: ack without running
    BUSY = "busy"  # somebody runs it: defer


class IdempotencyStore(Protocol):
    """Remembers which effects were done. A claim belongs to ``owner`` until done, released, or ``ttl`` is over."""

    async def claim(self, key: str, owner: str, ttl: float) -> Claim: ...  # the same owner may claim again
    async def done(self, key: str, owner: str, ttl: float) -> bool: ...  # False: the claim is another's by now
    async def release(self, key: str, owner: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeOptions:
    """How to consume one queue. ``lease`` seconds are renewed by the adapter, off the event loop, from receipt until the
    delivery is settled or held for ``max_hold`` seconds (None: for ever). A broker that pushes begins with a window of
    ``concurrency`` messages and widens it, up to ``prefetch``, while ``receive`` asks for more: what is fetched ahead of its
    handler is kept from every other worker. ``on_lost`` may be called from any thread."""

    prefetch: int
    concurrency: int = 1  # most handlers at once
    lease: float
    max_hold: float | None
    consumer: str  # this worker's id, for what the broker shows
    on_lost: Callable[[Sequence[Delivery], str], None] = field(default=lambda _deliveries, _reason: None)


class Consumer(Protocol):
    """One subscription to one queue. Leaving its context gives back, uncounted, whatever is unsettled."""

    linger: float  # seconds a lone settlement waits for company: 0 for transactional brokers

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Between 1 and ``limit`` deliveries, waiting for the first; () only once drained. Never cancelled by the engine.

        Raises:
            BrokerUnavailable: the connection is gone. BrokerRefused, StoreError: waiting will not help.
        """
        ...

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """One answer an item, in order. One batch is in flight at a time; never cancelled by the engine."""
        ...

    async def drain(self) -> None:
        """Takes nothing more and gives back what was fetched ahead; ``receive`` then returns () within a second.

        Idempotent, and safe to cancel: a drain cut short still takes nothing more.
        """
        ...

    async def watch(self) -> None:
        """Never returns: raises what ``receive`` would, as soon as it is known, also while nobody receives. May be cancelled."""
        ...


class Broker(Protocol):
    """The system that keeps messages, as we see it."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def connect(self) -> None:
        """Reach the broker and check that it can serve us. Idempotent; after ``close`` it connects again."""
        ...

    async def close(self) -> None:
        """Let go of every connection and thread. Idempotent."""
        ...

    def consume(self, queue: str, options: ConsumeOptions) -> AbstractAsyncContextManager[Consumer]: ...

    async def prepare(self, queue: str) -> None:
        """See to it that ``queue`` can be consumed: what is missing is made, where that is allowed. Nothing is taken.

        Raises:
            BrokerUnavailable, BrokerRefused, StoreError: as ``consume`` would.
        """
        ...

    async def publish(
        self, queue: str, messages: Sequence[Envelope], *, delay: float = 0.0, exchange: str = ""
    ) -> Sequence[Published]:
        """One answer a message, in order, once the broker has confirmed or refused it. With an ``exchange`` (where the broker
        has such), ``queue`` is the routing key.

        Raises:
            BrokerUnavailable: nothing was sent. PublishError: a message that this broker cannot carry; none was taken.
        """
        ...

    async def depth(self, queue: str) -> QueueDepth: ...
    async def queues(self) -> Sequence[str]: ...  # what the broker knows of, sorted
    def dead_letters(self, queue: str) -> DeadLetters: ...
    def idempotency(self) -> IdempotencyStore | None: ...
    async def ping(self) -> None: ...  # whether it would take a message just now
    async def survey(self, queues: Sequence[str]) -> Survey: ...  # of the server, and of these queues

    def stats(self) -> Mapping[str, Any]:
        """Counters of the adapter (``{"lease_renewals": 12}``), ``trouble``: why it cannot write just now, and ``blocked``: why
        the server takes nothing from us just now; None when it does."""
        ...
