"""SAQ, which keeps no results here; it publishes its own jobs first."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue, Worker

from benchmarks.consume.work import PREFETCH, Meter, asked, order_of


async def main() -> None:
    url, name, count, workload = asked()
    meter = Meter(count, workload)
    queue = Queue.from_url(url, name=name)

    async def work(_: Any, *, order: dict[str, Any]) -> None:
        await meter.handle(order)

    await queue.connect()
    for _ in range(count):
        await queue.enqueue("work", order=order_of(workload), ttl=-1, timeout=0)
    worker = Worker(queue, [("work", work)], concurrency=PREFETCH)
    running = asyncio.create_task(worker.start())
    await meter.done.wait()
    await worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
