"""Saying something: an envelope from what the user gave, and a publish that is confirmed or raises."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from pythia.broker import Broker, Capabilities, Published
from pythia.core.codecs import encode
from pythia.errors import BrokerError, BrokerRefused, BrokerUnavailable, PublishError, StoreError, Unsupported
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


def check_able(able: Capabilities, *, delay: float, exchange: str) -> None:
    """Raise ``Unsupported`` for what this broker cannot do, before anything is sent."""
    if exchange and not able.exchanges:
        raise Unsupported(f"{able.name} knows no exchanges (RabbitMQ does): cannot publish to exchange {exchange!r}")
    if delay and not able.delay:
        raise Unsupported(f"{able.name} cannot delay a message (sqlite, RabbitMQ, Redis streams and lists can)")


async def confirm(
    broker: Broker, queue: str, envelopes: Sequence[Envelope], *, delay: float = 0.0, exchange: str = ""
) -> None:
    """Publish and return once every message is confirmed. Cancelled in flight, messages may be there all the same.

    Raises:
        PublishError: one was refused or is in doubt (``in_doubt`` if any is). BrokerUnavailable: none was sent.
    """
    if not queue and not exchange:
        raise ValueError("a queue has a name: cannot publish to ''")
    answers = await broker.publish(queue, envelopes, delay=delay, exchange=exchange)
    for envelope, answer in zip(envelopes, answers, strict=True):
        if answer is not Published.CONFIRMED:
            where = f"exchange {exchange!r} with routing key {queue!r}" if exchange else repr(queue)
            raise refusal(broker, answer, where, queue=queue, id=envelope.id)


def refusal(broker: Broker, answer: Published, where: str, *, queue: str, id: str) -> PublishError:  # noqa: A002 - the API's word
    """The error for a message that was not confirmed, with what the operator can do, and what a command ends with."""
    if answer is Published.UNKNOWN:
        text = f"message {id} to {where} is in doubt: publish it again with the same id"
        return _ending(PublishError(text, queue=queue, id=id, in_doubt=True), BrokerUnavailable)
    stats, able = broker.stats(), broker.capabilities
    kind: type[BrokerError] = StoreError
    why = stats.get("trouble")
    if stats.get("blocked") is not None:
        why, kind = stats["blocked"], BrokerUnavailable
    elif why is None:
        why, kind = _nobody_takes_it(able, exchange=where != repr(queue)), BrokerRefused
    text = f"message {id} to {where} was refused by the broker, it is not there{why and f': {why}'}"
    return _ending(PublishError(text, queue=queue, id=id, in_doubt=False), kind)


def _nobody_takes_it(able: Capabilities, *, exchange: bool) -> str:
    """What most likely stands behind a refusal that the broker does not explain."""
    if not able.keeps:
        return "nobody listens to it just now"
    if not able.exchanges:
        return ""
    return f"is a queue {'bound to it for that key' if exchange else 'of that name there (publishing makes none)'}, and has it room?"


def _ending(error: PublishError, kind: type[BrokerError]) -> PublishError:
    error.exit_code = kind.exit_code
    return error
