"""Brokers of our own, which are broken as a schedule says: restarted, and what is consumed from them deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self

from benchmarks.peers.faults import DELETED, GROUP_GONE, NOTHING, RESTART
from benchmarks.peers.work import ATTEMPTS, DEAD_LETTERS, GROUP
from pythia.proof.clearing import PREFIX
from pythia.proof.nemesis import Evidence, Shown
from pythia.proof.schedule import Kind, Planned
from tests.kit.private_rabbit import PrivateRabbit
from tests.kit.private_redis import PrivateRedis

_POLICY = "of-a-peer"


class Stand(Protocol):
    """One broker: a venue that can be broken."""

    name: str
    url: str
    kinds: Sequence[Kind]

    def prepare(self, settings: str) -> None: ...  # what the server is told for a peer of these settings
    def strike(self, planned: Planned) -> AbstractContextManager[Evidence]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@contextmanager
def restarted(server: PrivateRabbit | PrivateRedis) -> Iterator[Evidence]:
    """Killed, and started again on what it had written."""
    server.kill()
    yield lambda: None if server.running else Shown("the server was killed")
    server.start()


@contextmanager
def done(text: str) -> Iterator[Evidence]:
    """What is over at once."""
    yield lambda: Shown(text) if text else None


class RabbitStand:
    """A node of RabbitMQ."""

    name = "RabbitMQ"
    kinds = (RESTART, DELETED, NOTHING)

    def __init__(self) -> None:
        self._server = PrivateRabbit()
        self.url = self._server.url

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def prepare(self, settings: str) -> None:
        """The limit is a policy, not the queue's argument: the producer may be the one who makes the queue."""
        if settings != "best":
            if _POLICY in self._server.ctl("list_policies"):
                self._server.ctl("clear_policy", _POLICY)
            return
        policy = {
            "delivery-limit": ATTEMPTS - 1,  # deliveries after the first
            "dead-letter-exchange": DEAD_LETTERS,
            "dead-letter-strategy": "at-least-once",
            "overflow": "reject-publish",
        }
        pattern = f"^{PREFIX.replace('.', '[.]')}[0-9a-f]+$"
        self._server.ctl("set_policy", "--apply-to", "queues", _POLICY, pattern, json.dumps(policy))

    def strike(self, planned: Planned) -> AbstractContextManager[Evidence]:
        match planned.kind:
            case RESTART.name:
                return restarted(self._server)
            case DELETED.name:
                return done(self._delete())
            case _:
                return done("nothing was broken")

    def _delete(self) -> str:
        names = [row["name"] for row in self._server.list_queues("name")]
        ours = [name for name in names if name.startswith(PREFIX) and not name.endswith(".dead")]
        for name in ours:
            self._server.delete_queue(name)
        return f"deleted: {', '.join(ours)}" if ours else ""


class RedisStand:
    """A Redis that writes everything down."""

    name = "Redis streams"
    kinds = (RESTART, DELETED, GROUP_GONE, NOTHING)

    def __init__(self) -> None:
        self._server = PrivateRedis(appendonly=True)
        self.url = f"{self._server.url}?mode=stream"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def prepare(self, settings: str) -> None:
        """Nothing: all is the peer's own."""

    def strike(self, planned: Planned) -> AbstractContextManager[Evidence]:
        match planned.kind:
            case RESTART.name:
                return restarted(self._server)
            case DELETED.name:
                return done(self._each_stream("DEL"))
            case GROUP_GONE.name:
                return done(self._each_stream("XGROUP", "DESTROY", after=(GROUP,)))
            case _:
                return done("nothing was broken")

    def _each_stream(self, *command: str, after: Sequence[str] = ()) -> str:
        streams = self._server.cli("KEYS", f"{PREFIX}*").split()
        answers = [self._server.cli(*command, stream, *after).strip() for stream in streams]
        return f"{' '.join(command)} {', '.join(streams)}" if "1" in answers else ""
