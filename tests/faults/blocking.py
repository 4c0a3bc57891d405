"""A handler that blocks its event loop for longer than its lease, while another process waits for the message."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from tests.acceptance.service_kit import NOTE, Place, until

WORKER = (
    NOTE
    + """
class App(Worker):
    async def process_message(self, message):
        note("begin", message.id, os.getpid())
        time.sleep(message.body)
        note("end", message.id, os.getpid())
"""
)
BLOCKING_LINE = next(at for at, line in enumerate(WORKER.splitlines(), 1) if "time.sleep" in line)


@dataclass(slots=True)
class Seen:
    """What was seen of the blocked process from outside."""

    id: str
    ledger: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)  # of each route, while blocked
    slowest_seconds: float = 0.0
    reason: dict[str, str] = field(default_factory=dict)  # what /livez said while blocked
    told: list[dict[str, object]] = field(default_factory=list)  # the log's lines about it
    messages: dict[str, int] = field(default_factory=dict)  # /health afterwards


def watch_blocked(place: Place, *, sleep: float, lease: float) -> Seen:
    """Run two workers, let the first one's handler block for ``sleep`` seconds, ask its probes meanwhile."""
    environment = {"PYTHIA_LEASE_SECONDS": f"{lease:g}"}
    with place.running("--port", "0", **environment) as first:
        seen = Seen(place.publish("default", [sleep])[0])
        until(place.ledger, "the handler runs")
        with place.running(**environment) as second:
            seen.told = first.wait_for("loop.blocked")
            for path in ("/livez", "/readyz", "/metrics", "/health", "/livez"):
                began = time.monotonic()
                seen.status[path], body = first.ask(path)
                seen.slowest_seconds = max(seen.slowest_seconds, time.monotonic() - began)
                if path == "/livez":
                    seen.reason = next(iter(json.loads(body)["reasons"]), {})
            assert len(place.ledger()) == 1, "the loop was no longer blocked when it was asked"
            until(lambda: len(place.ledger()) > 1, "the handler has ended", deadline=sleep + 30)
            until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "it is settled")
            until(lambda: first.health()["messages"]["ack"] == 1, "by the first worker")
            seen.messages = first.health()["messages"]
            assert [first.stop(), second.stop()] == [0, 0]
        seen.ledger = place.ledger()
        seen.expected = [f"begin {seen.id} {first.pid}", f"end {seen.id} {first.pid}"]
    return seen
