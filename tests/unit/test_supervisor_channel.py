"""The wire between the supervisor and a process."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pythia.supervisor.channel import MOST_BYTES, Garbled, Line, Wire


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Line, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Wire(ours), Line(theirs), theirs
    ours.close()
    theirs.close()


def test_a_frame_larger_than_the_sockets_buffer_comes_whole_and_blocks_nobody(ends) -> None:
    wire, line, _ = ends
    big = json.dumps("x" * 3_000_000).encode()
    wire.send(big)
    wire.send(b"{}")
    assert wire.wants_to_write
    assert wire.clogged
    read: list[bytes | None] = []
    reader = threading.Thread(target=lambda: read.extend([line.read(), line.read()]))
    reader.start()
    while reader.is_alive():
        wire.flush()
    assert read == [big, b"{}"]
    assert not wire.wants_to_write


def test_messages_come_in_order_however_they_are_cut(ends) -> None:
    wire, _, raw = ends
    data = b"".join(struct.pack("!I", len(text)) + text for text in (b'{"a": 1}', b'{"b": 2}'))
    found = []
    for byte in data:
        raw.sendall(bytes([byte]))
        messages, closed = wire.receive()
        found += messages
        assert not closed
    assert found == [{"a": 1}, {"b": 2}]


def test_the_end_of_the_other_side_is_noticed_on_both(ends) -> None:
    wire, line, raw = ends
    line.say({"last": True})
    raw.close()
    assert wire.receive() == ([{"last": True}], True)
    ours, theirs = socket.socketpair()
    Wire(ours).close()
    line = Line(theirs)
    assert line.read() is None
    line.say({"to": "nobody"})
    theirs.close()


def test_what_is_said_to_a_process_that_is_gone_is_dropped(ends) -> None:
    wire, _, raw = ends
    raw.close()
    wire.send(b"{}")
    wire.send(b"{}")
    assert not wire.wants_to_write


@pytest.mark.parametrize(
    "data", [struct.pack("!I", 2) + b"no", struct.pack("!I", 2) + b"[]", struct.pack("!I", MOST_BYTES + 1)]
)
def test_what_is_no_message_is_refused(ends, data: bytes) -> None:
    wire, _, raw = ends
    raw.sendall(data)
    with pytest.raises(Garbled):
        wire.receive()
