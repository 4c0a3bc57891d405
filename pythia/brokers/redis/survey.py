"""What an operator should know of the server, a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from pythia.broker import Survey
from pythia.brokers.redis import fields
from pythia.brokers.redis.driver import ResponseError
from pythia.brokers.redis.server import Server, config_value


async def survey(server: Server, queues: Sequence[str]) -> Survey:
    """Asks the server and looks at these queues; changes nothing."""
    commands = [("CONFIG", "GET", "maxmemory-policy"), ("CONFIG", "GET", "maxmemory")]
    policy, limit = [config_value(answer) for answer in await server.link.ask(*commands)]
    risks = [*_eviction(policy, limit), *_persistence(server), *_replication(server)]
    if server.mode == "stream":
        for queue in queues:
            risks += await _other_groups(server, queue)
    return Survey(offers=_offers(server), risks=risks)


def _offers(server: Server) -> list[str]:
    version = server.version
    if version is None:
        return ["INFO is forbidden: the version is not known, and nothing newer than Redis 6.2 is used"]
    offers = [f"Redis {version}: everything that Pythia uses (it needs 6.2)"]
    if server.is_at_least(7, 0) and server.mode == "stream":
        offers.append("counts exactly what a group has not read yet (7.0)")
    return offers


def _eviction(policy: str | None, limit: str | None) -> list[str]:
    if policy is None:
        return [
            "CONFIG is forbidden: check by other means that maxmemory-policy is noeviction and that data reaches a disk"
        ]
    if policy == "noeviction":
        return []
    when = "as soon as maxmemory is set" if limit in (None, "0") else f"once {limit} bytes are used"
    return [f"maxmemory-policy is {policy}: {when}, messages may be evicted; set it to noeviction"]


def _persistence(server: Server) -> list[str]:
    words = server.persistence
    if words == "nothing on disk":
        return ["nothing is written to disk: a restart of the server loses every message; set appendonly yes"]
    if words.startswith("snapshots only"):
        return [f"{words}: a crash loses what came since the last one; set appendonly yes"]
    return []


def _replication(server: Server) -> list[str]:
    if server.facts.get("role") in ("slave", "replica"):
        return ["this server is a replica and takes no writes: name the primary in broker.url"]
    if server.facts.get("connected_slaves", "0") != "0":
        return ["replication is asynchronous: a failover may lose the last moments; min-replicas-to-write bounds it"]
    return []


async def _other_groups(server: Server, queue: str) -> list[str]:
    (groups,) = await server.link.ask(("XINFO", "GROUPS", queue))
    if isinstance(groups, ResponseError):
        return []
    names = [dict(fields.pairs(row)).get(b"name", b"").decode() for row in groups]
    others = [name for name in names if name != server.settings.group]
    if not others:
        return []
    listed = ", ".join(repr(name) for name in sorted(others))
    text = (
        f"stream {queue!r} is read by other groups too ({listed}): entries are kept after their ack, trim it yourself;"
    )
    return [f"{text} a retry's copy is seen by them as well"]
