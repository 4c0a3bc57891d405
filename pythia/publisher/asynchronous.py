"""``Publisher``: asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Self, Unpack

from pythia.config import WorkerConfig
from pythia.core.publishing import make_envelope
from pythia.errors import Seconds
from pythia.publisher.flight import Common, async_flights, parted
from pythia.publisher.line import Line, open_from


class Publisher:
    """Publishes to the configured broker from asyncio; safe for concurrent use, one for a process is enough.

    ``broker_url`` wins over ``config``; without both, the configuration of file and environment counts. Connects on first
    use, so ``connect()`` only moves that moment; ``close()`` (or ``async with``) lets go of the connection.
    """

    def __init__(self, broker_url: str | None = None, *, config: WorkerConfig | None = None) -> None:
        self._line = Line(open_from(broker_url, config))

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Reach the broker; after ``close`` it connects again. Idempotent.

        Raises:
            BrokerUnavailable: out of reach just now. BrokerRefused, StoreError: waiting will not help.
        """
        await self._line.connect()

    async def close(self) -> None:
        """Let go of the connection. Idempotent; what is being published at this moment is in doubt."""
        await self._line.close()

    async def publish(
        self,
        queue: str,
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
        delay: Seconds | None = None,
        exchange: str = "",
        timeout: Seconds = 30,  # noqa: ASYNC109 - the API's word; what it cuts off is in doubt, and the error says so
    ) -> str:
        """Publish one message and return its id once the broker has confirmed it.

        ``bytes`` go as they are, ``str`` as text, anything else as JSON. It is handed out after ``delay``. Cancelling
        leaves the message in doubt.

        Raises:
            PublishError: not taken, or in doubt (``in_doubt``, also after ``timeout``). BrokerUnavailable: nothing was sent.
            Unsupported: this broker has no exchanges, or no delays. TypeError: the body has no JSON form.
        """
        envelope = make_envelope(
            body,
            id=id,
            headers=headers,
            content_type=content_type,
            correlation_id=correlation_id,
            reply_to=reply_to,
            priority=priority,
            idempotency_key=idempotency_key,
            ordering_key=ordering_key,
        )
        await self._line.send(queue, [envelope], delay=delay, exchange=exchange, timeout=timeout)
        return envelope.id

    async def publish_many(
        self,
        queue: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        delay: Seconds | None = None,
        **common: Unpack[Common],
    ) -> list[str]:
        """Publish each of ``bodies`` and return their ids, in order, once all are confirmed.

        At most a thousand go in one call to the broker. ``common`` are ``publish``'s options.

        Raises:
            PublishError: with the ``id`` of the first message that was not confirmed; the thousands before it are there.
            Else as ``publish``.
        """
        said, how = parted(common)
        ids: list[str] = []
        async for flight in async_flights(bodies, said):
            await self._line.send(queue, flight, delay=delay, **how)
            ids.extend(envelope.id for envelope in flight)
        return ids

    async def ping(self) -> None:
        """Return if the broker answers.

        Raises:
            BrokerUnavailable: it does not.
        """
        await self._line.ping()
