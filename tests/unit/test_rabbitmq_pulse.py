"""Signs of life while the loop stands still: between frames, for so long and no longer."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from pythia.brokers.rabbitmq.pulse import Pulse

BEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PERIOD = 0.02


class Transport:
    waiting = 0  # bytes of a frame that are not sent yet

    def get_write_buffer_size(self) -> int:
        return self.waiting


class Writer:
    """A connection whose loop stands still from the beginning."""

    def __init__(self, *, encrypted: bool = False) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(30)
        self.lock = threading.Lock()
        self.written_at = time.monotonic()
        self.transport = Transport()
        self._extra = {"socket": self.ours, "ssl_object": object() if encrypted else None}

    def get_extra_info(self, name: str) -> object:
        return self._extra[name]

    def heard(self) -> bytes:
        """What is there; b"" when nothing came for many periods."""
        self.theirs.settimeout(PERIOD * 10)
        try:
            return self.theirs.recv(100)
        except TimeoutError:
            return b""


@pytest.fixture
def writer():
    made = Writer()
    yield made
    made.ours.close()
    made.theirs.close()


@pytest.fixture
def pulse(writer):
    made = Pulse(writer, PERIOD)
    yield made
    made.stop()


def test_it_beats_while_the_loop_writes_nothing(writer, pulse):
    assert writer.theirs.recv(8) == BEAT
    assert writer.theirs.recv(8) == BEAT


def test_it_keeps_still_while_half_a_frame_waits(writer):
    writer.transport.waiting = 1
    pulse = Pulse(writer, PERIOD)
    assert writer.heard() == b""
    writer.transport.waiting = 0
    assert writer.theirs.recv(8) == BEAT
    pulse.stop()


def test_it_keeps_still_while_the_loop_writes(writer):
    writer.written_at = time.monotonic() + 3600
    pulse = Pulse(writer, PERIOD)
    assert writer.heard() == b""
    pulse.stop()


def test_it_gives_a_loop_up_that_stands_still_for_too_long(writer):
    writer.written_at = time.monotonic() - 10
    pulse = Pulse(writer, PERIOD)
    assert writer.theirs.recv(8) == BEAT
    pulse.most = 5.0
    while writer.heard():
        pass
    pulse.stop()


def test_once_stopped_the_connection_can_end(writer, pulse):
    pulse.stop()
    pulse.stop()
    writer.ours.close()
    while writer.theirs.recv(100):
        pass


def test_an_encrypted_connection_is_left_to_its_loop():
    writer = Writer(encrypted=True)
    threads = threading.active_count()
    pulse = Pulse(writer, PERIOD)
    assert threading.active_count() == threads
    pulse.stop()
    writer.ours.close()
    writer.theirs.close()


def test_a_connection_that_is_gone_is_no_error(writer, pulse):
    writer.theirs.close()
    pulse._write()
    pulse._write()
