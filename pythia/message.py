"""What a producer said, and one attempt to hand it to us.

``Envelope`` is a message as it crosses the wire; ``Delivery`` is one attempt to hand an envelope over, with the adapter's
opaque token; ``Message`` is the handler's view of a delivery. Envelope and delivery are private to core and adapters.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, final

from pythia.errors import NotDelivered, Seconds, seconds

T = TypeVar("T")

_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


def new_id() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits, so that ids sort by the time of their making."""
    millis = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10), "big")
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | (tail >> 64 & 0xFFF) << 64 | 0b10 << 62 | tail & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_FIRST_MOMENT, _LAST_MOMENT = -62_135_596_800.0, 253_402_300_799.0  # the years 1 to 9999: what a datetime holds


def utc(epoch: float) -> datetime:
    """A time of the wire as UTC; one that no calendar of ours holds (a producer may say anything) is the nearest that it does."""
    return datetime.fromtimestamp(min(max(epoch, _FIRST_MOMENT), _LAST_MOMENT), UTC)


def rfc3339(epoch: float) -> str:
    """A time of the wire as text, in UTC, with milliseconds."""
    return utc(epoch).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Envelope:
    """A message on the wire: bytes and properties. Treated as immutable once made.

    ``timestamp`` is seconds since the epoch, or None when the producer did not say. ``priority`` is higher first.
    """

    __slots__ = (
        "body",
        "content_encoding",
        "content_type",
        "correlation_id",
        "headers",
        "id",
        "idempotency_key",
        "ordering_key",
        "priority",
        "reply_to",
        "timestamp",
    )

    def __init__(
        self,
        body: bytes,
        *,
        id: str,  # noqa: A002 - the API's word
        headers: Mapping[str, Any] = _NO_HEADERS,
        content_type: str = "application/json",
        content_encoding: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        priority: int | None = None,
        timestamp: float | None = None,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
    ) -> None:
        self.body = body
        self.id = id
        self.headers = headers
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.priority = priority
        self.timestamp = timestamp
        self.idempotency_key = idempotency_key
        self.ordering_key = ordering_key

    def __repr__(self) -> str:
        return f"Envelope(id={self.id!r}, {len(self.body)} bytes of {self.content_type})"


class Delivery:
    """One attempt to hand an envelope to us; it owes exactly one settlement. Treated as immutable.

    ``attempt`` is 1 + counted failures. ``deliveries`` is how often it was handed out, None where the broker cannot tell.
    ``first_seen`` is when it could first be handed out, in seconds since the epoch: its age counts from there, so that a
    delayed publish is not old when it comes. ``identity`` is the same for every delivery of one stored message and for no
    other (None where the broker cannot tell). ``token`` means something to the adapter alone.
    """

    __slots__ = ("attempt", "deliveries", "envelope", "first_seen", "identity", "queue", "redelivered", "token")

    def __init__(
        self,
        envelope: Envelope,
        *,
        queue: str,
        token: Any,
        attempt: int = 1,
        deliveries: int | None = None,
        redelivered: bool = False,
        first_seen: float,
        identity: str | None = None,
    ) -> None:
        self.envelope = envelope
        self.queue = queue
        self.token = token
        self.attempt = attempt
        self.deliveries = deliveries
        self.redelivered = redelivered
        self.first_seen = first_seen
        self.identity = identity

    def __repr__(self) -> str:
        return f"Delivery({self.envelope.id!r} from {self.queue!r}, attempt {self.attempt})"


class Handle(Protocol):
    """What a message can do to its own delivery; the core's side of ``message.ack()`` and its siblings."""

    @property
    def max_attempts(self) -> int: ...
    @property
    def deadline(self) -> datetime | None: ...
    @property
    def stopping(self) -> asyncio.Event: ...

    def now(self) -> float: ...
    def ack(self) -> Awaitable[None]: ...
    def nack(self, *, requeue: bool, delay: float | None) -> Awaitable[None]: ...
    def reject(self, reason: str) -> Awaitable[None]: ...
    def reply(self, body: Any, headers: Mapping[str, Any] | None) -> Awaitable[None]: ...


@final
class Message(Generic[T]):
    """What ``process_message`` gets: the decoded body, what the producer said about it, and the means to settle it early.

    Frozen. ``Message(body=...)`` builds one for a test; settling such a message raises ``NotDelivered``.
    ``Message[Order]`` is the same class, for annotations: the worker then validates bodies as ``Order``.
    """

    __slots__ = ("_delivery", "_handle", "body")

    body: T
    _delivery: Delivery
    _handle: Handle | None

    def __init__(
        self,
        body: T,
        *,
        id: str | None = None,  # noqa: A002 - the API's word
        raw: bytes | None = None,
        headers: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        correlation_id: str | None = None,
        reply_to: str | None = None,
        priority: int | None = None,
        timestamp: datetime | None = None,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        queue: str = "default",
        attempt: int = 1,
        deliveries: int | None = None,
        redelivered: bool = False,
    ) -> None:
        published = time.time() if timestamp is None else timestamp.timestamp()
        envelope = Envelope(
            b"" if raw is None else raw,
            id=new_id() if id is None else id,
            headers=MappingProxyType(dict(headers or {})),
            content_type=content_type,
            correlation_id=correlation_id,
            reply_to=reply_to,
            priority=priority,
            timestamp=published,
            idempotency_key=idempotency_key,
            ordering_key=ordering_key,
        )
        delivery = Delivery(
            envelope,
            queue=queue,
            token=None,
            attempt=attempt,
            deliveries=deliveries,
            redelivered=redelivered,
            first_seen=published,
        )
        _set_body(self, body)
        _set_delivery(self, delivery)
        _set_handle(self, None)

    @property
    def id(self) -> str:
        """Given by the producer, else a UUIDv7."""
        return self._delivery.envelope.id

    @property
    def raw(self) -> bytes:
        """The body as it came, before decoding."""
        return self._delivery.envelope.body

    @property
    def headers(self) -> Mapping[str, Any]:
        """What the producer put beside the body; read-only."""
        return self._delivery.envelope.headers

    @property
    def content_type(self) -> str:
        return self._delivery.envelope.content_type

    @property
    def correlation_id(self) -> str | None:
        return self._delivery.envelope.correlation_id

    @property
    def reply_to(self) -> str | None:
        return self._delivery.envelope.reply_to

    @property
    def priority(self) -> int | None:
        return self._delivery.envelope.priority

    @property
    def timestamp(self) -> datetime:
        """When it was published, UTC; when it was first seen, if the producer did not say."""
        stamp = self._delivery.envelope.timestamp
        return utc(self._delivery.first_seen if stamp is None else stamp)

    @property
    def idempotency_key(self) -> str | None:
        return self._delivery.envelope.idempotency_key

    @property
    def ordering_key(self) -> str | None:
        return self._delivery.envelope.ordering_key

    @property
    def queue(self) -> str:
        return self._delivery.queue

    @property
    def attempt(self) -> int:
        """1 + counted failures; crashes, releases and defers never change it."""
        return self._delivery.attempt

    @property
    def deliveries(self) -> int | None:
        """Times handed out, where the broker tells."""
        return self._delivery.deliveries

    @property
    def redelivered(self) -> bool:
        """Somebody may have begun it before."""
        return self._delivery.redelivered

    @property
    def max_attempts(self) -> int:
        """Runs in all that the worker's policy allows, this one included; 1 for a message built by hand."""
        return 1 if self._handle is None else self._handle.max_attempts

    @property
    def age_seconds(self) -> float:
        """Seconds since it was published (or first seen); never negative."""
        stamp = self._delivery.envelope.timestamp
        now = time.time() if self._handle is None else self._handle.now()
        return max(0.0, now - (self._delivery.first_seen if stamp is None else stamp))

    @property
    def deadline(self) -> datetime | None:
        """When this attempt times out, UTC; None without a handler timeout."""
        return None if self._handle is None else self._handle.deadline

    @property
    def stopping(self) -> asyncio.Event:
        """Set when a drain begins: a long handler may checkpoint and ``raise Defer(0)``."""
        return asyncio.Event() if self._handle is None else self._handle.stopping

    async def ack(self) -> None:
        """Settle as done, now; the rest of the handler changes nothing.

        Raises:
            AlreadySettled: it has its settlement. NotDelivered: built by hand. OwnershipLost: no longer ours.
        """
        await self._settling("ack").ack()

    async def nack(self, *, requeue: bool = True, delay: Seconds | None = None) -> None:
        """Settle as a counted failure, now: again after ``delay`` (the policy's if None); ``requeue=False`` rejects it."""
        wait = None if delay is None else seconds(delay)
        await self._settling("nack").nack(requeue=requeue, delay=wait)

    async def reject(self, reason: str) -> None:
        """Dead-letter the message now, with this reason."""
        await self._settling("reject").reject(reason)

    async def reply(self, body: Any, *, headers: Mapping[str, Any] | None = None) -> None:
        """Publish ``body`` to ``reply_to`` with this message's correlation id; returns once confirmed.

        Raises:
            NotDelivered: built by hand, or the producer named no ``reply_to``.
        """
        if self.reply_to is None:
            raise NotDelivered(f"message {self.id} names no reply_to: nowhere to reply")
        await self._settling("reply to").reply(body, headers)

    def _settling(self, verb: str) -> Handle:
        if self._handle is None:
            raise NotDelivered(f"cannot {verb} message {self.id}: it was built by hand, not delivered by a broker")
        return self._handle

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Message is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Message is frozen: cannot delete {name!r}")

    def __repr__(self) -> str:
        return f"Message(id={self.id!r}, queue={self.queue!r}, attempt={self.attempt})"


# Past the guard of a frozen message: what its slots are set by.
_set_body = Message.__dict__["body"].__set__
_set_delivery = Message.__dict__["_delivery"].__set__
_set_handle = Message.__dict__["_handle"].__set__


def delivered(delivery: Delivery, body: Any, handle: Handle | None) -> Message[Any]:
    """The message of a delivery; the one way in which core makes them."""
    message: Message[Any] = Message.__new__(Message)
    _set_body(message, body)
    _set_delivery(message, delivery)
    _set_handle(message, handle)
    return message
