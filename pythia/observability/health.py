"""What the facts of a worker mean for a probe: pure functions from a ``Status`` to live, ready, started and health.

Live is about this process alone, never about the broker: a restart would not heal that. Ready is about sending work here.
A blocked event loop is told in every answer; only after a minute does it make one red, so that a long blocking handler is
seen, and not killed. ``now`` is monotonic seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pythia.core.state import WorkerState
from pythia.core.status import Check, Status
from pythia.core.tally import QueueTally
from pythia.message import rfc3339
from pythia.observability import facts

HEARTBEAT_LIMIT_SECONDS = 60.0

Code = Literal[
    "starting",
    "waiting_for_broker",
    "reconnecting",
    "consumer_missing",
    "broker_blocked",
    "paused",
    "draining",
    "stopped",
    "failed",
    "loop_blocked",
    "writer_dead",
    "check_failed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why an answer is no; or, where ``fatal`` is False, what it says besides."""

    code: Code
    detail: str | None = None
    queue: str | None = None
    message_id: str | None = None
    fatal: bool = True

    def to_json(self) -> dict[str, str]:
        fields = {"code": self.code, "queue": self.queue, "message_id": self.message_id, "detail": self.detail}
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer: whether, and why not."""

    state: str
    reasons: Sequence[Reason]

    @property
    def ok(self) -> bool:
        return not any(reason.fatal for reason in self.reasons)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "state": self.state, "reasons": [reason.to_json() for reason in self.reasons]}


def live(status: Status, now: float) -> Probe:
    """Worth keeping: the loop turned within a minute, the store's writer lives, nothing failed for good."""
    return Probe(str(status.state), [*_failed(status), *_writer(status), *_blocked(status, now)])


def ready(status: Status, now: float) -> Probe:
    """Worth sending work to: running, connected, every consumer registered, not paused, not draining."""
    reasons = [
        *_failed(status),
        *_writer(status),
        *_life(status),
        *_intake(status),
        *_gate(status),
        *_blocked(status, now),
    ]
    return Probe(str(status.state), reasons)


def startup(status: Status, _now: float) -> Probe:
    """Started: ``on_startup`` is done, or there is nothing to do but wait for the broker."""
    reasons = list(_failed(status))
    if not reasons and not status.started_up and not status.waiting_for_broker:
        reasons.append(Reason(code="starting", detail="on_startup is not done"))
    return Probe(str(status.state), reasons)


def health(status: Status) -> dict[str, Any]:
    """Everything that is known, for people and dashboards; the shape of ``GET /health``."""
    config, tally = status.config, status.tally
    return {
        "status": _verdict(status, time.monotonic()),
        "worker": config.worker_name,
        "worker_id": config.worker_id,
        "version": facts.version(),
        "pid": status.pid,
        "state": str(status.state),
        "paused": status.paused,
        "uptime_seconds": round(status.uptime_seconds, 3),
        "guarantee": None if status.capabilities is None else status.capabilities.guarantee,
        "broker": _broker(status),
        "consumers": _consumers(status),
        "checks": [_check(status.check)] if status.check is not None else [],
        "messages": facts.messages(status),
        "config": {
            "generation": tally.generation,
            "loaded_at": rfc3339(tally.config_loaded_at),
            "last_reload": _last_reload(status),
        },
        "processes": None,
    }


def _failed(status: Status) -> Iterator[Reason]:
    if status.failure is not None or status.state is WorkerState.ERROR:
        yield Reason(code="failed", detail=status.failure)


def _writer(status: Status) -> Iterator[Reason]:
    if facts.broker_stats(status).get("writer_alive") is False:
        yield Reason(code="writer_dead", detail="the thread that writes the queue file has ended")


def _blocked(status: Status, now: float) -> Iterator[Reason]:
    seconds = facts.standstill(status, now)
    if seconds is None or status.state is WorkerState.STOPPED:
        return
    blocked, detail = status.blocked, f"the event loop has not turned for {seconds:.1f} s"
    fatal = seconds >= HEARTBEAT_LIMIT_SECONDS
    if blocked is None:
        yield Reason(code="loop_blocked", detail=detail, fatal=fatal)
    else:
        by = "" if blocked.message_id is None else f", handling message {blocked.message_id}"
        yield Reason(
            code="loop_blocked",
            detail=f"{detail}: at {blocked.where}{by}",
            queue=blocked.queue,
            message_id=blocked.message_id,
            fatal=fatal,
        )


def _life(status: Status) -> Iterator[Reason]:
    match status.state:
        case WorkerState.INITIALIZING | WorkerState.STARTING if status.waiting_for_broker:
            yield Reason(code="waiting_for_broker", detail=status.connection.error)
        case WorkerState.INITIALIZING | WorkerState.STARTING:
            yield Reason(code="starting")
        case WorkerState.STOPPING:
            yield Reason(code="draining")
        case WorkerState.STOPPED:
            yield Reason(code="stopped")
        case WorkerState.RUNNING | WorkerState.ERROR:
            return


def _intake(status: Status) -> Iterator[Reason]:
    """Why a running worker takes nothing; a consumer's absence needs no word of its own while the broker is away."""
    if status.state is not WorkerState.RUNNING:
        return
    if status.paused:
        yield Reason(code="paused")
    if not status.connection.connected:
        yield Reason(code="reconnecting", detail=status.connection.error)
        return
    if status.broker_blocked is not None:
        yield Reason(code="broker_blocked", detail=status.broker_blocked)
    if not status.tally.queues:
        yield Reason(code="consumer_missing", detail="nothing is consumed yet")
    elif not status.paused:
        yield from (_missing(queue) for queue in _consumed(status) if queue.consumed and not queue.registered)


def _consumed(status: Status) -> list[QueueTally]:
    """Those that a reload took away are counted on, and are nobody's concern."""
    return [queue for queue in list(status.tally.queues.values()) if queue.consumed or queue.in_flight]


def _missing(queue: QueueTally) -> Reason:
    if queue.unregistered_since is None:
        return Reason(code="consumer_missing", queue=queue.queue, detail="not registered yet")
    ago = f"{max(0.0, time.time() - queue.unregistered_since):.0f} s ago"
    return Reason(code="consumer_missing", queue=queue.queue, detail=f"{queue.unregistered_why or 'lost'} {ago}")


def _gate(status: Status) -> Iterator[Reason]:
    check = status.check
    if status.config.health.gate_readiness and check is not None and not check.ok:
        yield Reason(code="check_failed", detail=check.error or f"{check.name} says no")


def _verdict(status: Status, now: float) -> Literal["ok", "degraded", "failed"]:
    """``degraded``: at work or on the way to it, and somebody should look."""
    if not live(status, now).ok:
        return "failed"
    check_fails = status.check is not None and not status.check.ok
    away = not status.connection.connected and status.state in {WorkerState.INITIALIZING, WorkerState.RUNNING}
    troubles = (
        check_fails,
        status.paused,
        away,
        status.settling_refused,
        any(_intake(status)),
        any(_blocked(status, now)),
    )
    return "degraded" if any(troubles) else "ok"


def _broker(status: Status) -> dict[str, Any]:
    capabilities, connection = status.capabilities, status.connection
    return {
        "kind": facts.broker_kind(status),
        "url": facts.broker_url(status),
        "server_version": None if capabilities is None else capabilities.server_version,
        "connected": connection.connected,
        "since": rfc3339(connection.since),
        "error": connection.error,
    }


def _consumers(status: Status) -> list[dict[str, Any]]:
    oldest: dict[str, float] = {}
    for delivery in facts.running(status):
        oldest[delivery.queue] = max(delivery.seconds, oldest.get(delivery.queue, 0.0))
    return [
        {
            "queue": queue.queue,
            "registered": queue.registered,
            "in_flight": queue.in_flight,
            "buffered": queue.buffered,
            "last_delivery_at": None if queue.last_delivery_at is None else rfc3339(queue.last_delivery_at),
            "oldest_in_flight_seconds": round(oldest[queue.queue], 3) if queue.queue in oldest else None,
        }
        for queue in _consumed(status)
    ]


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "ok": check.ok,
        "at": rfc3339(check.at),
        "seconds": round(check.seconds, 6),
        "error": check.error,
    }


def _last_reload(status: Status) -> dict[str, Any] | None:
    last = status.tally.last_reload
    return None if last is None else {"at": rfc3339(last[0]), "result": last[1], "detail": last[2]}
