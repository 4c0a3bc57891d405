"""What only its owner can do to a server, as kinds of faults for the engine of ``pythia verify``, each with its evidence.

A server that is restarted has forgotten what was on its way: which settlement it had been sent, and that it had moved a retry
from one queue to another. That is what ``broker`` explains, and nothing that was settled before.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from pythia.proof.clearing import PREFIX
from pythia.proof.nemesis import Evidence, Shown
from pythia.proof.schedule import Cause, Kind, Planned
from tests.faults.venues import RabbitVenue, RedisVenue
from tests.kit.private_server import PrivateServer
from tests.kit.protocol import amqp_serves

SILENT_SECONDS = 0.3


def _kind(
    name: str, cause: Cause, text: str, *, leases: float = 0.0, after: float = 1.0, destroys: bool = False
) -> Kind:
    return Kind(name=name, place="server", cause=cause, leases=leases, after=after, destroys=destroys, text=text)


RESTART = _kind("restart", "broker", "the server is stopped, and started again on its data", after=8.0)
CRASH = _kind("crash", "broker", "SIGKILL to the server; it is started again on its data", after=8.0)
RESTART_APP = _kind("restart-app", "broker", "RabbitMQ is stopped and started again inside its node", after=5.0)
HUNG = _kind("hung", "connection", "the server stands still and says nothing", leases=0.6)
CLOSED = _kind("closed", "connection", "the server closes every connection", after=2.0)
ALARM = _kind("alarm", "none", "the server has no memory for new messages", leases=1.0)
DELETED = _kind("queue-deleted", "broker", "the queue is deleted with what it holds", after=6.0, destroys=True)

Strike = Callable[[Planned], AbstractContextManager[Evidence]]


class Breaking:
    """A server with what can be done to it: a venue of the engine's."""

    def __init__(self, server: PrivateServer, port: int, greeting: bytes, strikes: Mapping[Kind, Strike]) -> None:
        self._server = server
        self._port = port
        self._greeting = greeting  # a server that lives answers it
        common: Mapping[Kind, Strike] = {
            RESTART: lambda _: self._down(server.stop),
            CRASH: lambda _: self._down(server.kill),
            HUNG: lambda _: self._hung(),
        }
        self._strikes = {kind.name: strike for kind, strike in (common | strikes).items()}
        self.kinds: Sequence[Kind] = [kind for kind in common | strikes if not kind.destroys]

    def strike(self, planned: Planned) -> AbstractContextManager[Evidence]:
        """Break it as planned; leaving mends it."""
        return self._strikes[planned.kind](planned)

    @contextmanager
    def _down(self, end: Callable[[], None]) -> Iterator[Evidence]:
        end()
        try:
            yield lambda: None if self._hears() == "answers" else Shown(f"nobody answers at port {self._port}")
        finally:
            self._server.start()

    @contextmanager
    def _hung(self) -> Iterator[Evidence]:
        self._server.suspend()
        try:
            yield lambda: Shown("it takes a connection and says nothing") if self._hears() == "silent" else None
        finally:
            self._server.resume()

    def _hears(self) -> Literal["answers", "silent", "nobody"]:
        """What comes of a greeting."""
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self._port), 3.0) as link:
            link.settimeout(SILENT_SECONDS)
            try:
                link.sendall(self._greeting)
                return "answers" if link.recv(1) else "nobody"
            except TimeoutError:
                return "silent"
        return "nobody"


def breaking(venue: RabbitVenue | RedisVenue) -> Breaking:
    """How this one is broken."""
    return _rabbit(venue) if isinstance(venue, RabbitVenue) else _redis(venue)


def _rabbit(venue: RabbitVenue) -> Breaking:
    rabbit = venue.rabbit

    def states() -> dict[str, str]:
        rows = rabbit.list_connections("pid", "vhost", "state")
        return {row["pid"]: row["state"] for row in rows if row["vhost"] == venue.vhost}

    @contextmanager
    def restart_app(_: Planned) -> Iterator[Evidence]:
        rabbit.ctl("stop_app")
        try:
            yield lambda: None if amqp_serves("127.0.0.1", venue.port) else Shown("nobody answers in AMQP")
        finally:
            rabbit.ctl("start_app")

    @contextmanager
    def closed(_: Planned) -> Iterator[Evidence]:
        before = states()
        venue.cut()
        gone = before.keys() - states().keys()
        yield lambda: Shown(f"{len(gone)} connections closed") if gone else None

    @contextmanager
    def alarm(_: Planned) -> Iterator[Evidence]:
        rabbit.memory_alarm(True)
        try:
            blocked = [state for state in states().values() if state in ("blocked", "blocking")]
            yield lambda: Shown(f"{len(blocked)} connections blocked") if blocked else None
        finally:
            rabbit.memory_alarm(False)

    @contextmanager
    def deleted(_: Planned) -> Iterator[Evidence]:
        rows = rabbit.list_queues("name", "messages", vhost=venue.vhost)
        found = [row for row in rows if row["name"].startswith(PREFIX) and not row["name"].endswith(".dead")]
        for row in found:
            rabbit.delete_queue(row["name"], venue.vhost)
        yield lambda: Shown(f"deleted with {found[0]['messages']} messages") if found else None

    ours = {RESTART_APP: restart_app, CLOSED: closed, ALARM: alarm, DELETED: deleted}
    return Breaking(rabbit, venue.port, b"AMQP\x00\x00\x09\x01", ours)


def _redis(venue: RedisVenue) -> Breaking:
    redis = venue.redis

    @contextmanager
    def closed(_: Planned) -> Iterator[Evidence]:
        count = int(redis.cli("CLIENT", "KILL", "TYPE", "normal"))
        yield lambda: Shown(f"{count} connections closed") if count else None

    @contextmanager
    def alarm(_: Planned) -> Iterator[Evidence]:
        redis.fill_up(True)
        try:
            refused = ""
            try:
                redis.cli("XADD", "probe", "*", "a", "b")
            except AssertionError as error:
                refused = str(error)
            yield lambda: Shown("an XADD was refused: OOM") if "OOM" in refused else None
        finally:
            redis.fill_up(False)

    @contextmanager
    def deleted(_: Planned) -> Iterator[Evidence]:
        keys = [key for key in redis.cli("KEYS", f"*{PREFIX}*").split() if not key.endswith(":dead")]
        count = int(redis.cli("DEL", *keys)) if keys else 0
        yield lambda: Shown(f"{count} keys deleted") if count else None

    return Breaking(redis, venue.port, b"PING\r\n", {CLOSED: closed, ALARM: alarm, DELETED: deleted})
