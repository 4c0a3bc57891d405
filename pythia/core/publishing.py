"""Saying something: an envelope from what the user gave, and a publish that is confirmed or raises."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from pythia.broker import Broker, Published
from pythia.core.codecs import encode
from pythia.errors import PublishError, StoreError
from pythia.message import Envelope, new_id


def make_envelope(
    body: Any,
    *,
    id: str | None = None,  # noqa: A002 - the API's word
    headers: Mapping[str, Any] | None = None,
    content_type: str | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    priority: int | None = None,
    idempotency_key: str | None = None,
    ordering_key: str | None = None,
    timestamp: float | None = None,
) -> Envelope:
    """What the user said, as it goes on the wire: encoded, with an id and a time (None: the present one).

    Raises:
        TypeError: the body has no JSON form.
    """
    raw, kind = encode(body, content_type)
    return Envelope(
        raw,
        id=new_id() if id is None else id,
        headers=MappingProxyType(dict(headers or {})),
        content_type=kind,
        correlation_id=correlation_id,
        reply_to=reply_to,
        priority=priority,
        timestamp=time.time() if timestamp is None else timestamp,
        idempotency_key=idempotency_key,
        ordering_key=ordering_key,
    )


def derived_id(parent: str, queue: str, index: int) -> str:
    """The id of the ``index``-th message that the handler of ``parent`` says to ``queue``: the same at every run."""
    digest = blake2b(f"{parent}\0{queue}\0{index}".encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"


async def confirm(broker: Broker, queue: str, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
    """Publish and return once every message is confirmed. Cancelled in flight, messages may be there all the same.

    Raises:
        PublishError: one was refused or is in doubt (``in_doubt`` if any is). BrokerUnavailable: none was sent.
    """
    if not queue:
        raise ValueError("a queue has a name: cannot publish to ''")
    answers = await broker.publish(queue, envelopes, delay=delay)
    for envelope, answer in zip(envelopes, answers, strict=True):
        if answer is not Published.CONFIRMED:
            raise refusal(queue, envelope.id, answer, broker.stats().get("trouble"))


def refusal(queue: str, id: str, answer: Published, trouble: str | None = None) -> PublishError:  # noqa: A002 - the API's word
    """The error for a message that was not confirmed; ``trouble`` is what keeps a store from being written just now."""
    in_doubt = answer is Published.UNKNOWN
    what = (
        "is in doubt: publish it again with the same id" if in_doubt else "was refused by the broker: it is not there"
    )
    why = "" if trouble is None else f"; {trouble}"
    error = PublishError(f"message {id} to {queue!r} {what}{why}", queue=queue, id=id, in_doubt=in_doubt)
    if trouble is not None:
        error.exit_code = StoreError.exit_code
    return error
