"""Pythia, with every guarantee on; what follows the workload are settings, as ``rabbitmq.deliveries=driver``."""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.consume.work import IO_AT_ONCE, PREFETCH, SLOW_EVERY, Meter, asked
from pythia import Message, Worker, WorkerConfig


def main(kind: type[Meter] = Meter) -> None:
    url, queue, count, workload = asked()
    meter = kind(count, workload)

    class Measured(Worker):
        async def process_message(self, message: Message[Any]) -> None:
            await meter.handle(message.body)
            if meter.done.is_set():
                self.stop()

    at_once = IO_AT_ONCE if workload == "io" else 10
    if workload.endswith("mixed"):  # or "not mixed": with the same slots
        at_once += count // SLOW_EVERY
    settings: dict[str, Any] = {
        "broker.url": url,
        "queue": queue,
        "concurrency": at_once,
        "prefetch": max(PREFETCH, 2 * at_once),
        "http.enabled": False,
        "log.level": "error",
    }
    settings |= dict(said.split("=", 1) for said in sys.argv[5:])
    sys.exit(Measured(WorkerConfig.load(os.devnull, **settings)).run())


if __name__ == "__main__":
    main()
