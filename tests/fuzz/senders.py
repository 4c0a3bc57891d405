"""How a stranger puts a message into each broker, byte by byte where our own publisher would refuse it."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis

from pythia.broker import Broker
from pythia.brokers.rabbitmq.table import encode_table
from pythia.brokers.redis import fields
from pythia.message import Envelope, new_id
from tests.faults.raw_amqp import RawProducer, long, short
from tests.fuzz.corpus import EXHAUSTED, EXPIRED, HANDLED, HUGE, TOO_LARGE, UNDECODABLE, Hostile, corpus

EITHER_END = HANDLED | EXPIRED | EXHAUSTED
MIB = 1024 * 1024


class Sender(Protocol):
    """``send_all`` says everything; the answer is what must become of each body, the reasons that its dead letter may have."""

    async def send_all(self) -> dict[bytes, frozenset[str]]: ...


def envelope_of(one: Hostile) -> Envelope:
    said = {"id": new_id(), "content_encoding": one.content_encoding, **one.properties}
    return Envelope(one.body, content_type=one.content_type, **said)


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class SqliteSender:
    """Through our own publisher, which takes what fits into a row, and then by changing rows: whoever can open the file may."""

    def __init__(self, broker: Broker, queue: str, file: str) -> None:
        self._broker = broker
        self._queue = queue
        self._file = file

    async def send_all(self) -> dict[bytes, frozenset[str]]:
        sent = corpus()
        await self._broker.publish(self._queue, [envelope_of(one) for one in sent])
        rows = list(self._rows())
        await self._broker.publish(self._queue, [Envelope(body, id=body.decode()) for body, _, _ in rows])
        with sqlite3.connect(self._file) as connection:
            for body, column, value in rows:
                connection.execute(f"UPDATE messages SET {column} = ? WHERE id = ?", (value, body.decode()))
        connection.close()
        ends = {one.body: one.ends for one in sent if not one.marks}
        ends |= {one.body: HANDLED for one in sent if one.marks}  # to a row they are headers like any other, or none
        return ends | {body: EITHER_END for body, _, _ in rows}

    @staticmethod
    def _rows() -> Iterator[tuple[bytes, str, Any]]:
        values: dict[str, Sequence[Any]] = {
            "attempt": (0, -5, 10**12),
            "deliveries": (-5, 10**18),
            "first_seen": (1e300, -1e300, 9e18),
            "published": (1e300, -1e300, 253_402_300_800.0),
            "priority": (10**18, -(10**18)),
            "headers": (
                "",
                "{",
                "[]",
                "null",
                "7",
                '{"a": NaN}',
                '{"\\ud800": "\\ud800"}',
                '{"$bytes": 5}',
                b"\xff",
                "[" * 5000,
            ),
        }
        for column, several in values.items():
            for at, value in enumerate(several):
                yield f'"{column}-{at}"'.encode(), column, value


# ── Redis ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _at_once(url: str, commands: Sequence[tuple[Any, ...]]) -> None:
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute()


class StreamSender:
    """XADD with whatever fields."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue

    async def send_all(self) -> dict[bytes, frozenset[str]]:
        ends = {one.body: one.ends for one in corpus()}
        entries = [_words(one) for one in corpus()]
        for body, words, allowed in _entries():
            ends[body] = allowed
            entries.append(words)
        await asyncio.to_thread(_at_once, self._url, [("XADD", self._queue, "*", *words) for words in entries])
        return ends


def _words(one: Hostile) -> list[bytes]:
    written = fields.fields_of(envelope_of(one))
    for name, value in one.marks.items():
        written += (name.encode(), value.encode())
    return written


def _entries() -> Iterator[tuple[bytes, list[bytes], frozenset[str]]]:
    """What its body becomes, its fields, its ends."""
    yield b"1001", [b"x", b"1001"], HANDLED
    yield b"1002", [b"", b"1002"], HANDLED
    yield b"1003", [b"\xff", b"1003"], HANDLED
    yield b"1000", [b"body", b"1000", b"pythia-id", b""], HANDLED
    yield b"1004", [b"body", b"0", b"body", b"1004"], HANDLED
    yield b"1005", [b"body", b"1005", b"\xff\xfe", b"\xff\xfe", b"", b""], HANDLED
    yield b"1006", [b"body", b"1006", *[b"n%d" % n if n % 2 else b"v" for n in range(6000)]], HANDLED
    yield b"1007", [b"body", b"1007", b"large", b"v" * MIB], HANDLED
    yield b"1008", [b"body", b"1008", b"n" * MIB, b"v"], HANDLED
    yield b'{"\\\\xff":{"base64":"/w=="},"b":"2"}', [b"\xff", b"\xff", b"b", b"2"], HANDLED
    yield b'{"a":"1","b":"2"}', [b"a", b"1", b"b", b"2"], HANDLED
    yield b"y" * MIB, [b"body", b"y" * MIB], TOO_LARGE
    yield from ((b"20%02d" % at, [b"body", b"20%02d" % at, *words], HANDLED) for at, words in enumerate(_own_words()))
    packed = fields.pack([b"body", b"1009"])
    yield b"1009", [b"pythia-packed", packed], HANDLED
    yield packed[:-1], [b"pythia-packed", packed[:-1]], UNDECODABLE
    yield b"\xff\xff\xff\xff", [b"pythia-packed", b"\xff\xff\xff\xff"], UNDECODABLE


def _own_words() -> Iterator[list[bytes]]:
    """Fields of our own with values that are not ours."""
    texts = (b"\xff\xfe", b"", b"\x00", b"\xed\xa0\x80", b"a\r\nb", b"\x1b[2J", b"../" * 40, b"i" * 1_000_000)
    for name in (b"id", b"correlation-id", b"reply-to", b"idempotency-key", b"ordering-key", b"identity"):
        yield from ([b"pythia-" + name, text] for text in texts)
    headers = (
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"7",
            b'"x"',
            b"\xff",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"n": ' + b"7" * 5000 + b"}",
        ),
        *(
            b'{"a": NaN}',
            b'{"a": 1e400}',
            b'{"\\ud800": "\\udfff"}',
            b'{"traceparent": "\\ud800"}',
            b'{"traceparent": [1]}',
        ),
        *(
            b'{"$bytes": 5}',
            b'{"a": {"$bytes": "no"}}',
            b'{"a": {"$bytes": "\\u00e9"}}',
            b'{"a": {"$dict": 5}}',
            b'{"a": {"$dict": null}}',
        ),
        b'{"pythia-attempt": 99, "pythia-reason": "x", "body": "y"}',
    )
    yield from ([b"pythia-headers", text] for text in headers)
    yield [b"pythia-published-at", b"1", b"pythia-published-at", b"2"]
    yield [b"pythia-id", HUGE.encode(), b"pythia-priority", HUGE.encode(), b"pythia-deliveries", HUGE.encode()]
    yield [b"pythia-priority", b"-" + HUGE.encode(), b"pythia-deliveries", b"-1"]
    yield [b"traceparent", b"\xff", b"tracestate", b"\xff"]


class ListSender:
    """LPUSH of whatever bytes, those of our own envelope among them."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue

    async def send_all(self) -> dict[bytes, frozenset[str]]:
        ends: dict[bytes, frozenset[str]] = {}
        payloads: list[bytes] = []
        for one in corpus():
            ends[one.body] = one.ends
            payloads.append(fields.wrap(_words(one)))
        for body, words, allowed in _entries():
            if words[0] != b"pythia-packed":
                ends[body] = allowed
                payloads.append(fields.wrap(words))
        for payload, body in _payloads():
            ends[body] = HANDLED | UNDECODABLE | TOO_LARGE
            payloads.append(payload)
        await asyncio.to_thread(_at_once, self._url, [("LPUSH", self._queue, payload) for payload in payloads])
        return ends


def _payloads() -> Iterator[tuple[bytes, bytes]]:
    """Raw payloads, and what their bodies become."""
    ours = fields.wrap([b"body", b"3001", b"pythia-id", b"x"])
    mutated = (
        *(ours[:at] for at in range(len(ours) - 1, 4, -4)),  # cut off
        fields.MAGIC[:-1] + b"\x02" + ours[len(fields.MAGIC) :],  # another version
        ours + b"\x00",
        ours + b"\xff\xff\xff\xff",
        fields.MAGIC + b"\xff\xff\xff\xff" * 8,
        fields.MAGIC + b"\x7f\xff\xff\xff",
        fields.MAGIC + fields.pack([b"odd"]),
        b"\x00" + ours,
        ours.replace(b"\x00", b"\x01", 1),
        ours.upper(),
    )
    yield from ((payload, payload) for payload in mutated if payload != fields.MAGIC)
    plain = (b"\x01", b"\xff" * 9, b"3002", b'{"n": 3003}', b" ", b"x" * MIB, b"\x00pythia", b"[" * 60_000, b"\r\n")
    yield from ((payload, payload) for payload in plain)
    yield ours, b"3001"
    yield fields.wrap([b"a", b"3004"]), b"3004"


# ── RabbitMQ ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_SHAPES = ("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to")
_MORE = ("expiration", "message_id", "timestamp", "message_type", "user_id", "app_id", "cluster_id")
_BITS = {name: 1 << (15 - at) for at, name in enumerate(_SHAPES + _MORE)}


def properties(**said: bytes) -> bytes:
    """Properties as they go onto the wire, each value already encoded."""
    flags = sum(_BITS[name] for name in said)
    return struct.pack(">H", flags) + b"".join(said[name] for name in _BITS if name in said)


class RabbitSender:
    """Frames by hand: every property as any bytes."""

    def __init__(self, url: str, queue: str) -> None:
        parts = urlsplit(url)
        self._port = parts.port or 5672
        self._vhost = parts.path.lstrip("/") or "/"
        self._queue = queue

    async def send_all(self) -> dict[bytes, frozenset[str]]:
        return await asyncio.to_thread(self._send_all)

    def _send_all(self) -> dict[bytes, frozenset[str]]:
        ends: dict[bytes, frozenset[str]] = {}
        frames: list[tuple[bytes, bytes]] = []
        for one in corpus():
            ends[one.body] = one.ends
            frames.append((_properties_of(one), one.body))
        for body, said, allowed in _frames():
            ends[body] = allowed
            frames.append((properties(**{"delivery_mode": b"\2", **said}), body))
        with _connected(self._port, self._vhost) as producer:
            producer.flood(self._queue.encode(), frames)
        for at, table in enumerate(_tables()):
            body = b'"table-%d"' % at
            if self._taken(properties(delivery_mode=b"\2", headers=long(table)), body):
                ends[body] = EITHER_END
        return ends

    def _taken(self, said: bytes, body: bytes) -> bool:
        """Whether the server takes it: some tables it reads itself, and ends the connection over them."""
        with _connected(self._port, self._vhost) as producer:
            try:
                producer.send(b"", self._queue.encode(), said, body)
            except (AssertionError, OSError):
                return False
        return True


class Flood(RawProducer):
    def flood(self, routing_key: bytes, frames: Sequence[tuple[bytes, bytes]]) -> None:
        """Publish everything, and wait until it is confirmed."""
        for said, body in frames:
            self._method(1, 60, 40, struct.pack(">H", 0), short(b""), short(routing_key), b"\0")
            self._send(2, 1, struct.pack(">HHQ", 60, 0, len(body)) + said)
            if body:
                self._send(3, 1, body)
        confirmed = 0
        while confirmed < len(frames):
            _, _, size = struct.unpack(">BHI", self._read(7))
            answer = self._read(size + 1)
            assert answer[:4] == struct.pack(">HH", 60, 80), answer
            (tag,), multiple = struct.unpack(">Q", answer[4:12]), answer[12]
            confirmed = tag if multiple else confirmed + 1


@contextmanager
def _connected(port: int, vhost: str) -> Iterator[Flood]:
    with socket.create_connection(("127.0.0.1", port), 30.0) as link:
        yield Flood(link, vhost)


def _properties_of(one: Hostile) -> bytes:
    envelope = envelope_of(one)
    table = dict(envelope.headers) | dict(one.marks)
    keys = {"pythia-idempotency-key": envelope.idempotency_key, "pythia-ordering-key": envelope.ordering_key}
    table |= {name: value for name, value in keys.items() if value is not None}
    said = {
        "content_type": short(envelope.content_type.encode()),
        "headers": encode_table(table),
        "delivery_mode": b"\2",
        "message_id": short(envelope.id.encode()),
    }
    for name in ("content_encoding", "correlation_id", "reply_to"):
        value = getattr(envelope, name)
        if value is not None:
            said[name] = short(value.encode())
    if envelope.priority is not None:
        said["priority"] = bytes([envelope.priority])
    if envelope.timestamp is not None:
        said["timestamp"] = struct.pack(">Q", int(envelope.timestamp))
    return properties(**said)


def _frames() -> Iterator[tuple[bytes, dict[str, bytes], frozenset[str]]]:
    """Bodies, properties as bytes, ends."""
    bad = (b"\xff\xfe\xe9", b"\xed\xa0\x80", b"\xc0\x80", b"\x00", b"", b"a\r\nb", b"\x1b[2J", b"../" * 40, b"i" * 255)
    names = ("content_encoding", "correlation_id", "reply_to", "message_id", "message_type", "app_id")
    for name in names:
        for at, text in enumerate(bad):
            ends = HANDLED | (UNDECODABLE if name == "content_encoding" else frozenset())
            yield f'"{name}-{at}"'.encode(), {name: short(text)}, ends
    for at, stamp in enumerate(
        (0, 1, 253_402_300_799, 253_402_300_800, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
    ):
        yield b'"timestamp-%d"' % at, {"timestamp": struct.pack(">Q", stamp)}, HANDLED | EXPIRED
    for at, (name, value) in enumerate((name, value) for name in _MARKED for value in _VALUES):
        if not _is_later(name, value):
            yield b'"mark-%d"' % at, {"headers": encode_table({name: value})}, EITHER_END
    for name in ("CC", "BCC"):
        yield f'"{name}"'.encode(), {"headers": encode_table({name: ["nowhere", "", "a\r\nb"] * 20})}, HANDLED
    yield b'"every-property"', {name: short(b"x") for name in names if name != "content_encoding"}, HANDLED
    yield b'"no-property"', {}, HANDLED
    yield b'"not-durable"', {"delivery_mode": b"\1"}, HANDLED
    yield b'"headers-as-large-as-a-frame"', {"headers": long(_full_table())}, HANDLED


_MARKED = (
    *("pythia-attempt", "pythia-first-seen", "pythia-published-at", "pythia-idempotency-key", "pythia-ordering-key"),
    *(
        "pythia-identity",
        "pythia-due",
        "pythia-to",
        "pythia-origin-exchange",
        "pythia-origin-routing-key",
        "pythia-origin-cc",
    ),
    *("pythia-reason", "pythia-traceback", "x-death", "x-first-death-queue", "x-last-death-queue", "x-delivery-count"),
)
_VALUES: tuple[Any, ...] = (
    *(
        "abc",
        "",
        7,
        -5,
        10**12,
        2**62,
        1e308,
        -1e308,
        0.5,
        True,
        None,
        b"\xff",
        [],
        {},
        datetime(9999, 12, 31, tzinfo=UTC),
    ),
    *(
        [{"queue": "pythia.delay.00", "count": 10**12}],
        [{"queue": 5}, 5, None],
        {"a": {"b": [{}]}},
        ["x"] * 50,
        "v" * 2000,
    ),
)


def _is_later(name: str, value: Any) -> bool:
    """Who says when a message is due has published it with a delay, as anybody may: it waits for that."""
    return name == "pythia-due" and isinstance(value, int | float) and value > 10**9


def _tables() -> Iterator[bytes]:
    """Insides of header tables that no client writes."""
    name = short(b"n")
    yield name + b"S" + long(b"\xff\xfe")
    yield short(b"\xff\xfe") + b"S" + long(b"v")
    yield short(b"") + b"V"
    yield name + b"?" + b"unknown type"
    yield name + b"S" + struct.pack(">I", 0xFFFFFFFF) + b"length"
    yield name + b"A" + struct.pack(">I", 0x7FFFFFFF)
    yield name + b"F" + long(name + b"F" + struct.pack(">I", 0xFFFFFFFF))
    yield name + b"T" + struct.pack(">Q", 1 << 62)
    yield name + b"D" + struct.pack(">Bi", 255, -1)
    yield name + b"d" + struct.pack(">d", float("nan"))
    yield name + b"d" + struct.pack(">d", float("inf"))
    yield name + b"f" + struct.pack(">f", float("-inf"))
    yield name + b"x" + long(b"\xff" * 1000)
    yield name + b"V" + name + b"V" + name + b"V"
    yield name + b"L" + struct.pack(">q", -(1 << 63))
    yield name + b"l" + struct.pack(">q", -(1 << 63))
    yield b"".join(short(b"h%d" % n) + b"V" for n in range(3000))
    yield name + _deep_table(200)
    yield name + _deep_array(2000)
    yield b"\xff"
    yield b"".join(short(mark.encode()) + b"d" + struct.pack(">d", float("nan")) for mark in _MARKED[:8])
    yield b"".join(short(mark.encode()) + b"T" + struct.pack(">Q", 1 << 62) for mark in _MARKED[:8])


def _deep_table(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"F" + long(short(b"n") + value)
    return value


def _deep_array(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + long(value)
    return value


def _full_table() -> bytes:
    """So large that there is no room for a mark of ours in the one frame that headers have."""
    return short(b"n") + b"S" + long(b"v" * (131_072 - 8 - 14 - 4 - 7 - 4))
