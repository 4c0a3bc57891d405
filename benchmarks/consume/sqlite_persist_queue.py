"""persist-queue's queue with acks, as its documentation shows it."""

from __future__ import annotations

import json

from persistqueue import SQLiteAckQueue

from benchmarks.consume.work import BODY, Meter, asked


def main() -> None:
    path, _, count, _ = asked()
    meter = Meter(count, "no-op")
    queue = SQLiteAckQueue(path, auto_commit=True)
    for _ in range(count):
        queue.put(BODY)
    while not meter.done.is_set():
        body = queue.get()
        json.loads(body)
        meter.count()
        queue.ack(body)


if __name__ == "__main__":
    main()
