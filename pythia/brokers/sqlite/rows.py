"""Messages as columns, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pythia.brokers.headers import dump_headers, load_headers
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
        headers=_EMPTY if headers is None else _read_headers(headers),
        content_type=content_type,
        content_encoding=encoding,
        correlation_id=correlation,
        reply_to=reply_to,
        priority=priority,
        timestamp=published,
        idempotency_key=effect,
        ordering_key=ordering_key,
    )


def _read_headers(written: Any) -> Mapping[str, Any]:
    """Headers that are none of ours (somebody changed the row) are shown as they stand: one row must not stop its queue."""
    try:
        return load_headers(written)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return MappingProxyType({"pythia-headers": written})


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
        attempt=max(1, attempt),
        deliveries=deliveries,
        redelivered=deliveries > 1,
        first_seen=first_seen,
        identity=str(seq),
    )


_EMPTY: Mapping[str, Any] = MappingProxyType({})
