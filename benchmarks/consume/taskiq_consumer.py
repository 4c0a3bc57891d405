"""taskiq on its brokers for RabbitMQ and Redis streams, acknowledging after the work, on uvloop, as its command line does; it
publishes its own tasks first."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from taskiq import AcknowledgeType, AsyncBroker
from taskiq.api import run_receiver_task
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue
from taskiq_redis import RedisStreamBroker

from benchmarks.consume.work import IO_AT_ONCE, PREFETCH, Meter, asked, order_of


async def main() -> None:
    url, queue, count, workload = asked()
    meter = Meter(count, workload)
    broker: AsyncBroker
    if url.startswith("amqp"):
        dead = Queue(name=f"{queue}.dead_letter")
        places = {"exchange": Exchange(name=queue), "task_queues": [Queue(name=queue)], "dead_letter_queue": dead}
        broker = AioPikaBroker(url, qos=PREFETCH, **places)
    else:
        broker = RedisStreamBroker(url, queue_name=queue, consumer_id="0", unacknowledged_lock_timeout=1.0)
    broker.is_worker_process = True  # what it publishes to, it also reads

    @broker.task(task_name="work")
    async def work(order: dict[str, Any]) -> None:
        await meter.handle(order)

    await broker.startup()
    for _ in range(count):
        await work.kiq(order_of(workload))
    at_once = IO_AT_ONCE if workload == "io" else PREFETCH
    receiving = asyncio.create_task(
        run_receiver_task(broker, max_async_tasks=at_once, ack_time=AcknowledgeType.WHEN_EXECUTED)
    )
    await asyncio.wait({receiving, asyncio.create_task(meter.done.wait())}, return_when=asyncio.FIRST_COMPLETED)
    os._exit(0)  # on Redis its receiver goes on when it is cancelled


if __name__ == "__main__":
    uvloop.run(main())
