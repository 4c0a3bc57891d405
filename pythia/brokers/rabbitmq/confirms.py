"""A channel that publishes, at the level of frames: each message has a number and is known by it until the server has answered.

The driver would take a hundred microseconds for each. And what waits for its turn there while the server closes the channel is
written to the one that is given the same number next, whose count of messages is then ahead of the server's: a message that is
not there would be taken for confirmed. Here a channel that was closed takes nothing more.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from pythia.broker import Published
from pythia.brokers.rabbitmq.received import Received, short
from pythia.brokers.rabbitmq.sockets import GatheringWriter, Refusal
from pythia.brokers.rabbitmq.wire import WireProperties
from pythia.errors import BrokerRefused

_METHOD, _HEADER, _BODY = 1, 2, 3
_ACK, _NACK, _RETURN = (struct.pack(">HH", 60, method) for method in (80, 120, 50))
_CLOSES, _IS_CLOSED = (struct.pack(">HH", 20, method) for method in (40, 41))
_MULTIPLE = 1
_PUBLISH = struct.pack(">HHH", 60, 40, 0)
_MANDATORY = b"\x01"
_END = b"\xce"
_AROUND = 8  # bytes of a frame that are not its payload

_frame = struct.Struct(">BHI").pack
_header = struct.Struct(">HHQ").pack
_long = struct.Struct(">Q").unpack_from
_code = struct.Struct(">H").unpack_from

_NOT_FOUND = 404
_TOO_LARGE = re.compile(r"message size (\d+) is larger")
_EXCHANGE = re.compile(r"exchange '(.*?)' in vhost")
_NAMELESS = "amq.default"

Answer = asyncio.Future[Published]
Key = tuple[bytes, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One message and where it goes."""

    exchange: str = ""
    routing_key: str
    body: bytes
    properties: WireProperties

    @property
    def route(self) -> bytes:
        """Exchange and routing key, as short strings."""
        return _route(self.exchange, self.routing_key)


@lru_cache(1024)
def _route(exchange: str, routing_key: str) -> bytes:
    return short(exchange) + short(routing_key)


class Confirms:
    """Every message mandatory, and confirmed. ``ended`` is told once, when the channel takes no more."""

    batch = ()  # what it hears it tells at once

    def __init__(self, channel: int, writer: GatheringWriter, frame_max: int, ended: Callable[[], None]) -> None:
        self.is_open = True
        self._channel = channel
        self._writer = writer
        self._most = (frame_max or 1 << 17) - _AROUND  # bytes of a body in one frame
        self._ended = ended
        self._next = self._first = 1
        self._unanswered: dict[int, tuple[Parcel, Answer, Key]] = {}
        self._by_key: dict[Key, int] = {}
        self._returned: set[int] = set()
        self._return: Received | None = None  # its content is to come
        self._missing = 0  # bytes of its body

    def before(self, parcel: Parcel) -> Answer | None:
        """The answer that ``parcel`` has to wait for: what is returned is told from its like by its name and its route alone."""
        tag = self._by_key.get((parcel.route, parcel.properties.message_id))
        return None if tag is None else self._unanswered[tag][1]

    def say(self, parcel: Parcel, answer: Answer) -> None:
        """Write it, and have ``answer`` set by the server's. Nobody it has to wait for, and the channel is open.

        Raises:
            ValueError, TypeError: AMQP cannot carry it; nothing was written.
        """
        route, size = parcel.route, len(parcel.body)
        header = _header(60, 0, size) + parcel.properties.marshal()
        parts = [
            self._framed(_METHOD, _PUBLISH + route + _MANDATORY),
            self._framed(_HEADER, header),
            *(self._framed(_BODY, parcel.body[at : at + self._most]) for at in range(0, size, self._most)),
        ]
        key = (route, parcel.properties.message_id)
        self._unanswered[self._next] = (parcel, answer, key)
        self._by_key[key] = self._next
        self._next += 1
        self._writer.write(b"".join(parts))

    def _framed(self, kind: int, payload: bytes) -> bytes:
        return _frame(kind, self._channel, len(payload)) + payload + _END

    # -- what the server says -----------------------------------------------------------------------------------------

    def take(self, kind: int, data: bytes, at: int, end: int) -> int:
        """Where that ends which was taken: the frame from ``at`` to ``end``. 0: it is the driver's."""
        if kind != _METHOD:
            if self._return is None:
                return 0
            self._content(self._return, kind, data[at + 7 : end - 1])
            return end
        method = data[at + 7 : at + 11]
        if method in (_ACK, _NACK):
            published = Published.CONFIRMED if method == _ACK else Published.REFUSED
            self._answer(_long(data, at + 11)[0], published, multiple=bool(data[at + 19] & _MULTIPLE))
            return end
        if method == _RETURN:
            route_at = at + 14 + data[at + 13]  # behind the code and the text
            self._return = Received(0, redelivered=False, route=data[route_at : end - 1])
            return end
        if method == _CLOSES:
            text = data[at + 14 : at + 14 + data[at + 13]].decode("utf-8", "replace")
            self._end(Refusal(_code(data, at + 11)[0], text))
        elif method == _IS_CLOSED:
            self._end(None)
        return 0

    def hand_on(self) -> None:
        """Nothing is kept back."""

    def lost(self) -> None:
        """The connection is gone."""
        self._end(None)

    def _content(self, returned: Received, kind: int, payload: bytes) -> None:
        if kind == _HEADER:
            (self._missing,) = _long(payload, 4)
            returned.describe(payload[12:])
        else:
            self._missing -= len(payload)
        if self._missing <= 0:
            self._return = None
            tag = self._by_key.get((returned.route, returned.properties.message_id))
            if tag is not None:
                self._returned.add(tag)  # it is acked all the same

    def _answer(self, tag: int, published: Published, *, multiple: bool) -> None:
        tags = range(self._first, tag + 1) if multiple else (tag,)
        if multiple:
            self._first = tag + 1
        for one in tags:
            found = self._unanswered.pop(one, None)
            if found is None:
                continue
            _, answer, key = found
            del self._by_key[key]
            if one in self._returned:
                self._returned.discard(one)
                settle(answer, Published.REFUSED)
            else:
                settle(answer, published)

    def _end(self, refusal: Refusal | None) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._ended()
        for parcel, answer, _ in self._unanswered.values():
            settle(answer, Published.UNKNOWN if refusal is None else _verdict(refusal, parcel))
        self._unanswered.clear()
        self._by_key.clear()


def settle(answer: Answer, outcome: Published | Exception) -> None:
    """Tell whoever still waits."""
    if answer.done():
        return
    if isinstance(outcome, Published):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)


def _verdict(refusal: Refusal, parcel: Parcel) -> Published | BrokerRefused:
    """What a closed channel means for one of those that were on their way: with what it does not take the server lets go of all."""
    if not _is_about(refusal.text, parcel):
        return Published.UNKNOWN
    if refusal.code == _NOT_FOUND:  # no such exchange
        return Published.REFUSED
    return BrokerRefused(f"cannot publish: {refusal.text}")


def _is_about(text: str, parcel: Parcel) -> bool:
    """Whether ``parcel`` is one that the server speaks of; nothing that can be compared speaks of all."""
    if found := _TOO_LARGE.search(text):
        return int(found[1]) == len(parcel.body)
    if found := _EXCHANGE.search(text):
        return found[1] == (parcel.exchange or _NAMELESS)
    return True
