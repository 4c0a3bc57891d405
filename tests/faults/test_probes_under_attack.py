"""Who hammers the probes, or holds their connections open, keeps no message from its handler and no answer from an operator."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place, Service, assert_one_failure, until
from tests.faults import probes
from tests.faults.probes import QUEUE, QUICK

HALF, IDLE, HAMMERS = 200, 50, 4
MESSAGES = 1000


def place_of(folder: Path) -> Place:
    return probes.place_of(folder, f"sqlite:///{folder}/queue.db")


def address(service: Service) -> tuple[str, int]:
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def held_open(service: Service) -> Iterator[list[socket.socket]]:
    """Half requests, one more byte of each whenever ``drip`` is called, and connections that say nothing."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(address(service), timeout=10)) for _ in range(HALF + IDLE)]
        for half in held[:HALF]:
            with contextlib.suppress(OSError):
                half.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
        yield held


def drip(held: list[socket.socket]) -> None:
    for half in held[:HALF]:
        with contextlib.suppress(OSError):
            half.sendall(b"x")


def hammer(service: Service, over: threading.Event, answers: list[int]) -> None:
    while not over.is_set():
        answers.append(service.ask("/metrics", deadline=60.0)[0])


def test_slow_idle_and_greedy_clients_keep_no_message_and_no_probe_waiting(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    with place.running("--port", "0", **QUICK) as service:
        over, answers = threading.Event(), list[int]()
        threads = [threading.Thread(target=hammer, args=(service, over, answers)) for _ in range(HAMMERS)]
        with held_open(service) as held, socket.create_connection(address(service), timeout=60) as slow:
            for thread in threads:
                thread.start()
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)  # and it reads none of the answers
            names = place.publish(QUEUE, list(range(MESSAGES)))
            while not set(names) <= probes.handled(place):
                drip(held)
                assert service.ask("/livez", deadline=60.0)[0] == 200
            until(lambda: len(answers) >= 20, "it was hammered")
            assert probes.is_ready(service)
            over.set()
            for thread in threads:
                thread.join()
        assert set(answers) == {200}
        assert len(probes.runs(place)) == MESSAGES
        until(lambda: service.health()["messages"]["ack"] == MESSAGES, "all are settled")
        assert service.health()["messages"]["residual"] == 0
        assert service.stop() == 0
        assert [line for line in service.lines if line["level"] == "error"] == []


def test_a_worker_that_drains_is_not_ready_from_the_first_moment_and_lives(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    with place.running("--port", "0", **QUICK) as service:
        place.publish(QUEUE, ["go"])
        until(lambda: probes.runs(place), "its handler waits")
        service.signal(signal.SIGTERM)
        service.wait_for("worker.stopping")
        assert probes.says(service, "draining")
        assert service.ask("/livez")[0] == 200
        (tmp_path / "go").touch()
        assert service.ended() == 0


@pytest.mark.parametrize(
    ("host", "port"), [("192.0.2.1", "0"), ("no.such.host.invalid", "0"), ("2001:db8::1", "0"), ("127.0.0.1", "99999")]
)
def test_an_address_that_cannot_be_had_is_one_line_and_no_worker(host: str, port: str, tmp_path: Path) -> None:
    place = place_of(tmp_path)
    settings = {"PYTHIA_HTTP__HOST": host, "PYTHIA_HTTP__PORT": port}
    done = place.command("run", "app:App", "--log-format", "json", **settings)
    assert done.returncode in {69, 78}
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    if done.returncode == 69:
        assert_one_failure("".join(line + "\n" for line in text.splitlines() if line.startswith("{")), host)
    assert "consumer.registered" not in text
    assert json.dumps("worker.running") not in text
