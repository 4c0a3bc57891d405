"""A worker as its operator sees it: what its probes and metrics say, and what its log has told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.acceptance.service_kit import Place, Service, until
from tests.faults.effects import HANDLER

QUEUE = "watched"
QUICK = {"PYTHIA_LEASE_SECONDS": "2", "PYTHIA_BROKER__HEARTBEAT_SECONDS": "2", "PYTHIA_QUEUE": QUEUE}
HEALED_SECONDS = 5.0

WORKER = (
    HANDLER
    + """
class App(Worker):
    concurrency = 4

    async def process_message(self, message):
        note("start", message)
        while isinstance(message.body, str) and not os.path.exists(message.body):  # the name of a file to wait for
            await asyncio.sleep(0.01)
        note("end", message)
"""
)


def place_of(folder: Path, url: str, module: str = WORKER) -> Place:
    """Where workers of ``module`` run against ``url``."""
    place = Place(folder, module)
    place.url = url
    return place


def readiness(service: Service) -> tuple[int, dict[str, str]]:
    """The status of ``/readyz``, and its reasons with their details."""
    status, body = service.ask("/readyz")
    return status, {reason["code"]: reason.get("detail", "") for reason in json.loads(body)["reasons"]}


def is_ready(service: Service) -> bool:
    return readiness(service)[0] == 200


def says(service: Service, *codes: str) -> bool:
    """Whether it is not ready, for one of these reasons."""
    status, reasons = readiness(service)
    return status == 503 and bool(reasons.keys() & set(codes))


def metric(service: Service, name: str, **labels: str) -> float | None:
    """The value of the first sample with these labels; None: there is none."""
    for line in service.ask("/metrics")[1].splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
            return float(found[2])
    return None


def consumer_up(service: Service, queue: str = QUEUE) -> float | None:
    return metric(service, "pythia_consumer_up", queue=queue)


def handled(place: Place) -> set[str]:
    """The ids of the messages whose handlers came to their end."""
    return {line.split()[1] for line in place.ledger() if line.startswith("end ")}


def runs(place: Place) -> list[str]:
    """The ids of the messages that handlers began, once for each time."""
    return [line.split()[1] for line in place.ledger() if line.startswith("start ")]


def handles(place: Place, body: Any = 1, deadline: float = HEALED_SECONDS, queue: str = QUEUE) -> str:
    """Publish one message and wait until it was handled; its id."""
    (name,) = place.publish(queue, [body])
    until(lambda: name in handled(place), f"{name} is handled", deadline=deadline)
    return name


def events(service: Service, *names: str) -> list[str]:
    """The log's events of these names, in order."""
    return [line["event"] for line in service.lines if line.get("event") in names]


def told(service: Service, event: str) -> list[Mapping[str, Any]]:
    return service.events(event)
