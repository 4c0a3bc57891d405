"""huey on SQLite with fsync, one worker; it deletes a task when it takes it."""

from __future__ import annotations

import json

from huey import SqliteHuey

from benchmarks.consume.work import BODY, Meter, asked


def main() -> None:
    path, _, count, _ = asked()
    meter = Meter(count, "no-op")
    huey = SqliteHuey(filename=path, fsync=True, results=False)

    @huey.task()
    def work(body: str) -> None:
        json.loads(body)
        meter.count()

    for _ in range(count):
        work(BODY.decode())
    while not meter.done.is_set():
        huey.execute(huey.dequeue())


if __name__ == "__main__":
    main()
