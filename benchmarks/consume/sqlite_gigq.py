"""GigQ as its documentation shows it: a queue on a file, and one worker."""

from __future__ import annotations

import json
from typing import Any

from gigq import Job, JobQueue, Worker

from benchmarks.consume.work import BODY, Meter, asked

METER: list[Meter] = []


def work(body: str) -> dict[str, Any]:
    json.loads(body)
    METER[0].count()
    return {}


def main() -> None:
    path, _, count, _ = asked()
    METER.append(Meter(count, "no-op"))
    queue = JobQueue(path)
    for number in range(count):
        queue.submit(Job(name=f"job {number}", function=work, params={"body": BODY.decode()}))
    worker = Worker(path)
    while not METER[0].done.is_set():
        worker.process_one()


if __name__ == "__main__":
    main()
