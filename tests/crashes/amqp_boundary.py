"""RabbitMQ: every frame that is written or arrives, seen where asyncio's streams hand it to the socket and take it from there."""

from __future__ import annotations

import asyncio
from asyncio import StreamReaderProtocol, StreamWriter
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pamqp.commands
import pamqp.frame

from pythia.brokers.rabbitmq.tap import TappedProtocol
from tests.crashes.points import Points

METHOD = 1
PREFIX, END = 7, 1  # bytes around a frame's payload

# Carry no message: getting connected and declared, how many may be pushed, the good-byes.
SILENT_CLASSES = ("Connection.", "Channel.", "Exchange.", "Queue.", "Confirm.")
SILENT = ("Basic.Qos", "Basic.QosOk", "Basic.ConsumeOk", "Basic.Cancel", "Basic.CancelOk")

WRITTEN = {"Basic.Ack": "ack", "Basic.Nack": "requeue", "Basic.Consume": "registration of the consumer"}

Named = Callable[[str], str]


def instrument(points: Points, queue: str, output: str) -> None:
    """Watch every connection that this process makes from now on; ``queue`` and ``output`` tell one publish from another."""
    wire = _Wire(queue, output)
    write = StreamWriter.write

    def written(writer: StreamWriter, data: bytes) -> None:
        names = list(wire.written(writer.transport, bytes(data)))
        for name in names:
            points.passing(f"rabbitmq: {name}: before it is written")
        write(writer, data)
        for name in names:
            points.passing(f"rabbitmq: {name}: written")

    def watch(reading: type[StreamReaderProtocol]) -> None:
        received = reading.data_received

        def arrived(protocol: StreamReaderProtocol, data: bytes) -> None:
            names = list(wire.arrived(protocol._transport, data)) if type(protocol) is reading else []
            for name in names:
                points.passing(f"rabbitmq: {name}: arrived")
            received(protocol, data)
            for name in names:
                points.passing(f"rabbitmq: {name}: read")

        reading.data_received = arrived

    StreamWriter.write = written
    watch(StreamReaderProtocol)
    watch(TappedProtocol)


class _Wire:
    """Names frames. A confirm is called after what it confirms: the server answers in the order in which we publish."""

    def __init__(self, queue: str, output: str) -> None:
        self._queue = queue
        self._output = output
        self._unconfirmed: WeakKeyDictionary[asyncio.BaseTransport, deque[str]] = WeakKeyDictionary()
        self._rests: dict[int, bytes] = defaultdict(bytes)  # of a frame that came in part

    def written(self, transport: asyncio.BaseTransport, data: bytes) -> Iterator[str]:
        for frame in _methods(data)[0]:
            if isinstance(frame, pamqp.commands.Basic.Publish):
                what = self._published(frame)
                self._unconfirmed.setdefault(transport, deque()).append(what)
                yield f"publish of {what}"
            elif not _is_silent(frame.name):
                yield WRITTEN.get(frame.name, frame.name)

    def arrived(self, transport: asyncio.BaseTransport, data: bytes) -> Iterator[str]:
        frames, self._rests[id(transport)] = _methods(self._rests[id(transport)] + data)
        for frame in frames:
            match frame.name:
                case "Basic.Deliver":
                    yield "delivery"
                case "Basic.Ack" | "Basic.Nack":
                    word = "confirm" if frame.name == "Basic.Ack" else "refusal"
                    yield f"{word} of {self._unconfirmed[transport].popleft()}"
                case name if not _is_silent(name):
                    yield name

    def _published(self, frame: Any) -> str:
        if frame.exchange.startswith("pythia.delay."):
            return "the copy that waits"
        return {
            self._output: "the output",
            self._queue: "the message",
            f"{self._queue}.dead": "the dead letter",
        }.get(frame.routing_key, f"something to {frame.exchange or frame.routing_key}")


def _methods(data: bytes) -> tuple[list[Any], bytes]:
    """The method frames in ``data``, and what is left of a frame that is not whole."""
    frames, at = [], 0
    if data.startswith(b"AMQP"):
        return [], b""
    while len(data) - at >= PREFIX:
        end = at + PREFIX + int.from_bytes(data[at + 3 : at + PREFIX]) + END
        if end > len(data):
            break
        if data[at] == METHOD:
            frames.append(pamqp.frame.unmarshal(data[at:end])[2])
        at = end
    return frames, data[at:]


def _is_silent(name: str) -> bool:
    return name.startswith(SILENT_CLASSES) or name in SILENT
