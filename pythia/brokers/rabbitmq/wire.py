"""Messages as AMQP has them, and back: leniently, since whoever can publish may have written anything.

A copy (a retry, a dead letter) is the message that came, property for property, with our marks beside its headers; what would
make the server treat the copy differently from the original (``expiration``, ``user-id``, ``CC``, the deaths of our own delay
queues) is taken off, and ``CC`` put back for the handler to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from math import isfinite
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from pamqp.commands import Basic

from pythia.brokers.rabbitmq.received import Received
from pythia.brokers.rabbitmq.table import encode_table
from pythia.message import Delivery, Envelope, new_id

ATTEMPT = "pythia-attempt"
TO = "pythia-to"  # the queue that a waiting message goes back to
DUE = "pythia-due"  # when one that waits in parts may be handed out
FIRST_SEEN = "pythia-first-seen"
PUBLISHED_AT = "pythia-published-at"
IDEMPOTENCY_KEY = "pythia-idempotency-key"
ORDERING_KEY = "pythia-ordering-key"
IDENTITY = "pythia-identity"
ORIGIN_EXCHANGE = "pythia-origin-exchange"
ORIGIN_ROUTING_KEY = "pythia-origin-routing-key"
ORIGIN_CC = "pythia-origin-cc"
OF_A_MESSAGE = frozenset(
    {ATTEMPT, FIRST_SEEN, PUBLISHED_AT, IDEMPOTENCY_KEY, ORDERING_KEY, IDENTITY, DUE, TO}
    | {ORIGIN_EXCHANGE, ORIGIN_ROUTING_KEY, ORIGIN_CC}
)

REASON = "pythia-reason"
DETAIL = "pythia-detail"
ERROR_TYPE = "pythia-error-type"
ERROR = "pythia-error"
TRACEBACK = "pythia-traceback"
WORKER = "pythia-worker"
WORKER_ID = "pythia-worker-id"
ORIGIN_QUEUE = "pythia-origin-queue"
DEAD_AT = "pythia-dead-at"
DEATH = "pythia-death"  # names one dead letter, where two have the same message id
OF_A_DEATH = frozenset({REASON, DETAIL, ERROR_TYPE, ERROR, TRACEBACK, WORKER, WORKER_ID, ORIGIN_QUEUE, DEAD_AT, DEATH})

_DELIVERY_COUNT = "x-delivery-count"
_DEATHS = "x-death"
_OF_THE_SERVER = frozenset({_DELIVERY_COUNT, "x-acquired-count", "x-delivery-failed-count"})
_FIRST_DEATH = ("x-first-death-queue", "x-first-death-reason", "x-first-death-exchange")
_LAST_DEATH = ("x-last-death-queue", "x-last-death-reason", "x-last-death-exchange")
_NEVER_SHOWN = OF_A_MESSAGE - {ORIGIN_CC}
_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})
_OUR_QUEUES = "pythia."
_HEADER_FRAME_BYTES = 20  # of a content header frame, around its properties
_MOST_ATTEMPTS = 1 << 31
_SHORT = ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id")
_LONGEST_BYTES = 255  # of AMQP's short string
_PERSISTENT = 2


class WireProperties(Basic.Properties):
    """Properties that are encoded once, without loss."""

    _encoded: bytes | None = None

    def marshal(self) -> bytes:
        """Flags and values. What is changed afterwards is not said.

        Raises:
            ValueError, TypeError: something that AMQP cannot carry.
        """
        if self._encoded is None:
            flags, parts = 0, []
            for (bit, encode), value in zip(_ENCODERS, _values(self), strict=True):
                if value is not None and value != "":
                    flags |= bit
                    parts.append(encode(value))
            self._encoded = flags.to_bytes(2) + b"".join(parts)
        return self._encoded


def _short_string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > _LONGEST_BYTES:
        raise ValueError(f"{text[:40]!r}… is longer than AMQP's {_LONGEST_BYTES} bytes")
    return bytes((len(raw),)) + raw


def _octet(value: int) -> bytes:
    return bytes((value,))


def _timestamp(value: datetime) -> bytes:
    return int(value.timestamp()).to_bytes(8)


_OTHERS: Mapping[str, Callable[[Any], bytes]] = {
    "headers": encode_table,
    "delivery_mode": _octet,
    "priority": _octet,
    "timestamp": _timestamp,
}
_NAMES = Basic.Properties.attributes()
_ENCODERS = tuple((1 << (15 - place), _OTHERS.get(name, _short_string)) for place, name in enumerate(_NAMES))
_values = attrgetter(*_NAMES)


def properties_of(envelope: Envelope, *, now: float, delay: float = 0.0) -> WireProperties:
    """What is said about a message that is published now, to be handed out after ``delay`` seconds.

    Raises:
        ValueError, TypeError: something that AMQP cannot carry.
    """
    headers = dict(envelope.headers)
    marks = {
        FIRST_SEEN: now + delay,
        IDENTITY: new_id(),
        PUBLISHED_AT: envelope.timestamp,
        IDEMPOTENCY_KEY: envelope.idempotency_key,
        ORDERING_KEY: envelope.ordering_key,
    }
    headers |= {name: value for name, value in marks.items() if value is not None}
    return _properties(envelope, headers)


def _properties(envelope: Envelope, headers: dict[str, Any]) -> WireProperties:
    priority = None if envelope.priority is None else min(255, max(0, envelope.priority))
    properties = WireProperties(
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        headers=headers,
        delivery_mode=_PERSISTENT,
        priority=priority,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        message_id=envelope.id,
        timestamp=moment(envelope.timestamp),
    )
    _check_short(properties)
    return properties


def _check_short(properties: Basic.Properties) -> None:
    for name in _SHORT:
        value = getattr(properties, name)
        if value is not None and len(value.encode()) > _LONGEST_BYTES:
            raise ValueError(f"{name} is longer than AMQP's {_LONGEST_BYTES} bytes")


def check_sendable(routing_key: str, properties: WireProperties, frame_max: int) -> None:
    """Raise ``ValueError`` when a name is too long, or the headers do not fit into the one frame that AMQP has for them."""
    if len(routing_key.encode()) > _LONGEST_BYTES:
        raise ValueError(f"the name of its queue is longer than AMQP's {_LONGEST_BYTES} bytes")
    size = len(properties.marshal()) + _HEADER_FRAME_BYTES
    if frame_max and size > frame_max:
        raise ValueError(f"its headers take {size} bytes, and AMQP has one frame of {frame_max} for them")


def copy_of(
    message: Received,
    marks: Mapping[str, Any],
    frame_max: int,
    *,
    id: str | None = None,  # noqa: A002 - the API's word
    timestamp: datetime | None = None,
) -> WireProperties:
    """The properties of a copy of ``message`` with ``marks``; what is None is left out. ``id`` names a message that has no id of
    its own; ``timestamp`` is said in place of the producer's. A traceback gives way to a full frame, and then the producer's headers, the largest first."""
    source = message.properties
    source.message_id = source.message_id or id
    source.timestamp = timestamp or source.timestamp
    headers = _travelling(source.headers or {})
    headers.setdefault(ORIGIN_EXCHANGE, message.exchange)
    headers.setdefault(ORIGIN_ROUTING_KEY, message.routing_key)
    for name, value in marks.items():
        if value is None:
            headers.pop(name, None)
        else:
            headers[name] = value
    copy = _copied(source, _encodable(headers))
    spares = _spares(headers)
    while frame_max and len(copy.marshal()) + _HEADER_FRAME_BYTES > frame_max and (spare := next(spares, None)):
        headers.pop(spare, None)
        copy = _copied(source, _encodable(headers))
    return copy


def _spares(headers: Mapping[str, Any]) -> Iterator[str]:
    """What a copy can do without, least missed first. A producer whose headers filled their frame left no room for our marks,
    and the server closes the connection over a larger one: rather a copy without a header than one that is never taken."""
    yield from (TRACEBACK, ERROR, DETAIL)
    theirs = [name for name in headers if name not in OF_A_MESSAGE | OF_A_DEATH]
    yield from sorted(theirs, key=lambda name: len(name) + len(repr(headers[name])), reverse=True)


def _encodable(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """``headers`` without those that came in a form which cannot be written again: none must keep a message from its end."""
    try:
        encode_table(headers)
    except (ValueError, TypeError):
        return {name: value for name, value in headers.items() if _can_be_written(name, value)}
    return headers


def _can_be_written(name: str, value: Any) -> bool:
    try:
        encode_table({name: value})
    except (ValueError, TypeError):
        return False
    return True


def _copied(source: Basic.Properties, headers: Mapping[str, Any]) -> WireProperties:
    return WireProperties(
        content_type=source.content_type,
        content_encoding=source.content_encoding,
        headers=dict(headers),
        delivery_mode=_PERSISTENT,
        priority=source.priority,
        correlation_id=source.correlation_id,
        reply_to=source.reply_to,
        message_id=source.message_id,
        timestamp=source.timestamp,
        message_type=source.message_type,
        app_id=source.app_id,
    )


def _travelling(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as they go with a copy: without what the server put there about our own hops, and routed nowhere twice."""
    kept = {name: value for name, value in headers.items() if name not in _OF_THE_SERVER}
    if "CC" in kept:
        kept[ORIGIN_CC] = kept.pop("CC")
    kept.pop("BCC", None)
    deaths = [death for death in _deaths(headers) if not _is_ours(death.get("queue"))]
    if deaths:
        kept[_DEATHS] = deaths
    else:
        kept.pop(_DEATHS, None)
    for group in (_FIRST_DEATH, _LAST_DEATH):
        if _is_ours(headers.get(group[0])):
            for name in group:
                kept.pop(name, None)
    return kept


def _deaths(headers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    deaths = headers.get(_DEATHS)
    return [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []


def _is_ours(queue: Any) -> bool:
    return isinstance(queue, str) and queue.startswith(_OUR_QUEUES)


def delivery_of(message: Received, queue: str, token: Any, now: float) -> Delivery:
    """A delivery out of what came, whatever it is; never raises."""
    headers = message.properties.headers
    before, attempt, identity = None, 1, None
    if headers:
        before = number(headers.get(_DELIVERY_COUNT)) if _DELIVERY_COUNT in headers else None
        attempt = _attempt(headers.get(ATTEMPT)) if ATTEMPT in headers else 1
        identity = text(headers.get(IDENTITY))
    return Delivery(
        envelope_of(message),
        queue=queue,
        token=token,
        attempt=attempt,
        deliveries=None if before is None else int(before) + 1,
        redelivered=message.redelivered or attempt > 1,
        first_seen=first_seen(message, now),
        identity=identity,
    )


def envelope_of(message: Received, also: frozenset[str] = frozenset()) -> Envelope:
    """What the producer said: our own marks, and those named in ``also``, are not shown."""
    properties = message.properties
    headers, published, idempotency_key, ordering_key = properties.headers, None, None, None
    if headers:
        published = number(headers[PUBLISHED_AT]) if PUBLISHED_AT in headers else None
        idempotency_key, ordering_key = text(headers.get(IDEMPOTENCY_KEY)), text(headers.get(ORDERING_KEY))
    return Envelope(
        message.body,
        id=properties.message_id or _digest(message),
        headers=_said(headers, also),
        content_type=properties.content_type or "application/json",
        content_encoding=properties.content_encoding or None,
        correlation_id=properties.correlation_id or None,
        reply_to=properties.reply_to or None,
        priority=properties.priority,
        timestamp=_stamped(properties) if published is None else published,
        idempotency_key=idempotency_key,
        ordering_key=ordering_key,
    )


def _said(headers: Mapping[str, Any] | None, also: frozenset[str] = frozenset()) -> Mapping[str, Any]:
    """The producer's own headers; most say nothing but what we hide."""
    if not headers or headers.keys() <= _NEVER_SHOWN:
        return _NO_HEADERS
    return _shown(_travelling(headers), OF_A_MESSAGE | also)


def _shown(headers: Mapping[str, Any], hidden: frozenset[str]) -> Mapping[str, Any]:
    shown = {
        name: _plain(value) for name, value in headers.items() if name not in hidden and name not in _OF_THE_SERVER
    }
    if ORIGIN_CC in headers:
        shown["CC"] = _plain(headers[ORIGIN_CC])
    return MappingProxyType(shown)


def _plain(value: Any) -> Any:
    match value:
        case bytearray():
            return bytes(value)
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in value.items()}
    return value


def first_seen(message: Received, now: float) -> float:
    """When a message could first be handed out, as far as anybody said; never in the future."""
    properties = message.properties
    headers = properties.headers
    seen = number(headers[FIRST_SEEN]) if headers and FIRST_SEEN in headers else None
    if seen is None:
        seen = _stamped(properties)
    return now if seen is None else min(seen, now)


def _stamped(properties: Basic.Properties) -> float | None:
    """The producer's timestamp; clients that do not know write 0."""
    return None if properties.timestamp is None else properties.timestamp.timestamp() or None


def due_at(message: Received) -> float | None:
    """When a message that waits in parts may be handed out."""
    headers = message.properties.headers
    return number(headers[DUE]) if headers and DUE in headers else None


def number(value: Any) -> float | None:
    """A finite number, however it was written; else None."""
    if type(value) is float:
        return value if isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str | bytes | bytearray):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if isfinite(found) else None


def text(value: Any) -> str | None:
    """A string that is not empty; else None."""
    return value if isinstance(value, str) and value else None


def _attempt(value: Any) -> int:
    """What a header says of earlier failures; a forged one can only bring its own message's end nearer."""
    found = number(value)
    return int(found) if found is not None and 1 <= found < _MOST_ATTEMPTS else 1


def attempts_of(message: Received) -> int | None:
    """The attempts that were counted, where anybody did."""
    value = (message.properties.headers or {}).get(ATTEMPT)
    return None if value is None else _attempt(value)


def moment(timestamp: float | None) -> datetime | None:
    """AMQP's timestamp has whole seconds; one that it cannot hold is left to our own header."""
    try:
        return None if timestamp is None or timestamp < 0 else datetime.fromtimestamp(int(timestamp), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _digest(message: Received) -> str:
    """An id for a message that has none: the same whenever it comes again."""
    properties = message.properties
    headers = _said(properties.headers)
    said = (
        properties.content_type,
        properties.correlation_id,
        str(properties.timestamp),
        sorted(map(repr, headers.items())),
    )
    return blake2b(message.body + repr(said).encode(errors="backslashreplace"), digest_size=16).hexdigest()
