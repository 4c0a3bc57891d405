"""What is said of many messages, and how many travel together."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, TypedDict

from pythia.core.publishing import make_envelope
from pythia.errors import Seconds
from pythia.message import Envelope

FLIGHT_MESSAGES = 1000  # most messages in one call to the broker
FLIGHT_BYTES = 8 * 1024 * 1024  # and about the most bytes


class Said(TypedDict, total=False):
    """What is said about a message beside its body; ``publish_many`` says it about every one."""

    headers: Mapping[str, Any] | None
    content_type: str | None
    correlation_id: str | None
    reply_to: str | None
    priority: int | None
    idempotency_key: str | None
    ordering_key: str | None


class Common(Said, total=False):
    """What ``publish_many`` takes from ``publish``, for all messages alike. ``timeout`` is that of a thousand messages."""

    exchange: str
    timeout: Seconds


def parted(common: Common) -> tuple[Said, dict[str, Any]]:
    """What is said of a message, and how it is sent."""
    how = {key: value for key, value in common.items() if key in ("exchange", "timeout")}
    said: Any = {key: value for key, value in common.items() if key not in how}
    return said, how


class Flight:
    """Envelopes that will travel together."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self._envelopes: list[Envelope] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._envelopes)

    def add(self, body: Any) -> bool:
        """Take ``body`` on board; whether the flight is full now."""
        envelope = make_envelope(body, **self._said)
        self._envelopes.append(envelope)
        self._bytes += len(envelope.body)
        return len(self._envelopes) == FLIGHT_MESSAGES or self._bytes >= FLIGHT_BYTES

    def leave(self) -> list[Envelope]:
        """Everything on board, and begin anew."""
        envelopes, self._envelopes, self._bytes = self._envelopes, [], 0
        return envelopes


def flights(bodies: Iterable[Any], said: Said) -> Iterator[list[Envelope]]:
    """Envelopes for all of ``bodies``, in flights of bounded size."""
    flight = Flight(said)
    for body in bodies:
        if flight.add(body):
            yield flight.leave()
    if flight:
        yield flight.leave()


async def async_flights(bodies: Iterable[Any] | AsyncIterable[Any], said: Said) -> AsyncIterator[list[Envelope]]:
    """The same, for bodies that may come one by one."""
    if not isinstance(bodies, AsyncIterable):
        for ready in flights(bodies, said):
            yield ready
        return
    flight = Flight(said)
    async for body in bodies:
        if flight.add(body):
            yield flight.leave()
    if flight:
        yield flight.leave()
