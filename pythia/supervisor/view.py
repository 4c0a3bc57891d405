"""What the processes say, as one answer: pure functions from what was seen of every slot. The worst of them is the whole's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pythia.observability import facts
from pythia.supervisor.slot import Seen

_WORST_FIRST = ("failed", "degraded", "ok")
_STATES_WORST_FIRST = ("error", "stopped", "stopping", "initializing", "starting", "running")
_GUARANTEES_WEAKEST_FIRST = ("at-most-once", "at-least-once")


def probe(seen: Sequence[Seen], name: str, *, stopping: bool) -> dict[str, Any]:
    """``/livez``, ``/readyz``, ``/startupz``: yes if every process says so; each reason names its process.

    A process that is not there does not make the service less alive: that is what the supervisor is for.
    """
    reasons: list[dict[str, Any]] = []
    if name == "ready" and stopping:
        reasons.append({"code": "draining"})
    answers = [_said(one, name) for one in seen]
    for one, answer in zip(seen, answers, strict=True):
        reasons += [{**reason, "process": one.number, "worker": one.name} for reason in answer["reasons"]]
    ok = all(answer["ok"] for answer in answers) and not (name == "ready" and (stopping or not seen))
    return {"ok": ok, "state": _state([answer["state"] for answer in answers], stopping=stopping), "reasons": reasons}


def _said(one: Seen, name: str) -> dict[str, Any]:
    answer = None if one.answer is None else one.answer.get(name)
    if isinstance(answer, dict) and {"ok", "state", "reasons"} <= answer.keys():
        return answer
    match one.stage:
        case "running":
            detail = f"{one.title} does not answer"
            return {
                "ok": name == "startup",
                "state": "running",
                "reasons": [{"code": "loop_blocked", "detail": detail}],
            }
        case "stopping":
            detail, code, state = f"{one.title} is stopping", "draining", "stopping"
        case "absent":
            detail, code, state = f"{one.title} is not running: {one.detail}", "starting", "initializing"
        case "starting":
            detail, code, state = f"{one.title} is starting", "starting", "initializing"
    return {"ok": name == "live", "state": state, "reasons": [{"code": code, "detail": detail}]}


def health(
    seen: Sequence[Seen], *, worker_id: str, uptime_seconds: float, stopping: bool, paused: bool
) -> dict[str, Any]:
    """``GET /health``: the shape of one worker's, over all; ``processes`` has each one's."""
    processes = [_process(one) for one in seen]
    told = [process for process in processes if process["pid"] is not None and "messages" in process]
    first: Mapping[str, Any] = told[0] if told else {}
    return {
        "status": _worst(_WORST_FIRST, [process["status"] for process in processes], "degraded"),
        "worker": ", ".join(dict.fromkeys(str(process["worker"]) for process in processes)) or None,
        "worker_id": worker_id,
        "version": facts.version(),
        "pid": os.getpid(),
        "state": _state([process["state"] for process in processes], stopping=stopping),
        "paused": paused,
        "uptime_seconds": round(uptime_seconds, 3),
        "guarantee": _worst(_GUARANTEES_WEAKEST_FIRST, [process["guarantee"] for process in told], None),
        "broker": _broker(told),
        "consumers": _consumers(told),
        "checks": [check for process in told for check in process["checks"]],
        "messages": _sums(process["messages"] for process in told),
        "config": first.get("config"),
        "processes": processes,
    }


def _process(one: Seen) -> dict[str, Any]:
    answer = None if one.answer is None else one.answer.get("health")
    if isinstance(answer, dict):
        return {"process": one.number, **answer}
    status, state = ("failed", "running") if one.stage == "running" else ("degraded", "initializing")
    detail = one.detail or ("does not answer" if one.stage == "running" else one.stage)
    return {
        "process": one.number,
        "status": status,
        "worker": one.name,
        "worker_id": None,
        "pid": one.pid,
        "state": "stopping" if one.stage == "stopping" else state,
        "detail": detail,
    }


def reloaded(seen: Sequence[Seen]) -> dict[str, Any]:
    """What came of a reload: applied if every process that could be asked says so, else the first one's reason."""
    asked = [one for one in seen if one.stage == "running"]
    said = [(one, _said_of_reload(one)) for one in asked]
    against = [answer for _, answer in said if answer["result"] != "applied"]
    first: Mapping[str, Any] = against[0] if against else {"result": "applied", "cause": None}
    return {
        "result": first["result"],
        "generation": max((answer["generation"] for _, answer in said), default=None),
        "cause": first["cause"],
        "changes": next((answer["changes"] for _, answer in said if answer.get("changes")), []),
        "processes": [{"process": one.number, "worker": one.name, **answer} for one, answer in said],
    }


def _said_of_reload(one: Seen) -> dict[str, Any]:
    answer = None if one.answer is None else one.answer.get("reload")
    return (
        answer
        if isinstance(answer, dict)
        else {"result": "refused", "generation": 0, "cause": f"{one.title} does not answer"}
    )


def _worst(order: Sequence[str], said: Iterable[Any], otherwise: str | None) -> str | None:
    there = set(said)
    return next((one for one in order if one in there), otherwise)


def _state(said: Iterable[str], *, stopping: bool) -> str:
    return "stopping" if stopping else _worst(_STATES_WORST_FIRST, said, None) or "initializing"


def _broker(told: Sequence[Mapping[str, Any]]) -> Any:
    """Of the worker that is cut off, if there is one."""
    brokers = [process["broker"] for process in told]
    return next((broker for broker in brokers if not broker["connected"]), brokers[0] if brokers else None)


def _consumers(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By queue: registered if each is, counts summed, the latest and the oldest of what is timed."""
    queues: dict[str, dict[str, Any]] = {}
    for consumer in (consumer for process in told for consumer in process["consumers"]):
        there = queues.get(consumer["queue"])
        queues[consumer["queue"]] = dict(consumer) if there is None else _both(there, consumer)
    return list(queues.values())


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "queue": one["queue"],
        "registered": one["registered"] and other["registered"],
        "in_flight": one["in_flight"] + other["in_flight"],
        "buffered": one["buffered"] + other["buffered"],
        "last_delivery_at": _latest(one["last_delivery_at"], other["last_delivery_at"]),
        "oldest_in_flight_seconds": _latest(one["oldest_in_flight_seconds"], other["oldest_in_flight_seconds"]),
    }


def _latest(one: Any, other: Any) -> Any:
    said = [value for value in (one, other) if value is not None]
    return max(said) if said else None


def _sums(rows: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        for name, count in row.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def table(seen: Sequence[Seen]) -> str:
    """Who runs, on one line for people."""
    return "; ".join(f"{one.title} {one.stage}{f': {one.detail}' if one.detail else ''}" for one in seen)
