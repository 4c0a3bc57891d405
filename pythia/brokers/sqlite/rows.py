"""Messages as columns, and back.

Headers are JSON in which bytes survive: ``{"$bytes": base64}``; a dict of the user's with a first key like that is wrapped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pythia.message import Delivery, Envelope

ENVELOPE = (
    "id, ordering_key, priority, published, headers, content_type, content_encoding, correlation_id, reply_to,"
    " idempotency_key, body"
)
"""The columns that ``envelope_of`` reads, in its order; the same in ``messages`` and ``dead_letters``."""

Row = tuple[Any, ...]


def envelope_row(envelope: Envelope) -> Row:
    """An envelope as the values of ``ENVELOPE``.

    Raises:
        TypeError: a header that JSON cannot hold.
    """
    return (
        envelope.id,
        envelope.ordering_key,
        envelope.priority,
        envelope.timestamp,
        dump_headers(envelope.headers) if envelope.headers else None,
        envelope.content_type,
        envelope.content_encoding,
        envelope.correlation_id,
        envelope.reply_to,
        envelope.idempotency_key,
        envelope.body,
    )


def envelope_of(row: Sequence[Any]) -> Envelope:
    """The envelope whose ``ENVELOPE`` columns these are."""
    key, ordering_key, priority, published, headers, content_type, encoding, correlation, reply_to, effect, body = row
    return Envelope(
        body,
        id=key,
        headers=_EMPTY if headers is None else load_headers(headers),
        content_type=content_type,
        content_encoding=encoding,
        correlation_id=correlation,
        reply_to=reply_to,
        priority=priority,
        timestamp=published,
        idempotency_key=effect,
        ordering_key=ordering_key,
    )


CLAIMED = f"seq, fence, rank, attempt, deliveries, first_seen, {ENVELOPE}"
"""The columns that ``deliveries_of`` reads, in its order."""


def deliveries_of(rows: Iterable[Row], queue: str, owner: int) -> list[Delivery]:
    """Claimed rows as deliveries, in the order in which they are to be handled."""
    return [_delivery_of(row, queue, owner) for row in sorted(rows, key=lambda row: (-row[2], row[0]))]


def _delivery_of(row: Row, queue: str, owner: int) -> Delivery:
    seq, fence, _, attempt, deliveries, first_seen = row[:6]
    return Delivery(
        envelope_of(row[6:]),
        queue=queue,
        token=(seq, owner, fence),
        attempt=attempt,
        deliveries=deliveries,
        redelivered=deliveries > 1,
        first_seen=first_seen,
        identity=str(seq),
    )


_EMPTY: Mapping[str, Any] = MappingProxyType({})
_BYTES = "$bytes"
_DICT = "$dict"


def dump_headers(headers: Mapping[str, Any]) -> str:
    """Headers as JSON text; sequences come back as lists.

    Raises:
        TypeError: a value that is not str, int, float, bool, None, bytes, or a list or dict of such.
    """
    return json.dumps({_name(key): _plain(value) for key, value in headers.items()}, separators=(",", ":"))


def load_headers(text: str) -> Mapping[str, Any]:
    """The headers of ``dump_headers``, read-only."""
    return MappingProxyType({key: _restored(value) for key, value in json.loads(text).items()})


def _plain(value: Any) -> Any:
    match value:
        case bytes() | bytearray() | memoryview():
            return {_BYTES: base64.b64encode(value).decode("ascii")}
        case dict():
            inner = {_name(key): _plain(item) for key, item in value.items()}
            return {_DICT: inner} if inner.keys() & {_BYTES, _DICT} else inner
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a header's key must be a string, not {key!r}")
    return key


def _restored(value: Any) -> Any:
    match value:
        case dict() if value.keys() == {_BYTES}:
            return base64.b64decode(value[_BYTES])
        case dict() if value.keys() == {_DICT}:
            return {key: _restored(item) for key, item in value[_DICT].items()}
        case dict():
            return {key: _restored(item) for key, item in value.items()}
        case list():
            return [_restored(item) for item in value]
    return value
