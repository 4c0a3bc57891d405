"""arq, which keeps no results here; it publishes its own jobs first."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from arq import Worker, create_pool, func
from arq.connections import RedisSettings

from benchmarks.consume.work import PREFETCH, Meter, asked, order_of


async def main() -> None:
    url, queue, count, workload = asked()
    meter = Meter(count, workload)
    settings = RedisSettings.from_dsn(url)

    async def work(_: dict[Any, Any], order: dict[str, Any]) -> None:
        await meter.handle(order)

    pool = await create_pool(settings, default_queue_name=queue)
    for _ in range(count):
        await pool.enqueue_job("work", order_of(workload))
    worker = Worker(
        functions=[func(work, name="work")],
        queue_name=queue,
        redis_pool=pool,
        max_jobs=PREFETCH,
        poll_delay=0.01,
        keep_result=0,
        log_results=False,
        handle_signals=False,
    )
    running = asyncio.create_task(worker.async_run())
    await meter.done.wait()
    running.cancel()
    await asyncio.gather(running, *worker.tasks.values(), return_exceptions=True)
    with contextlib.suppress(asyncio.CancelledError):  # it waits for its tasks, as this one just did
        await worker.close()


if __name__ == "__main__":
    asyncio.run(main())
