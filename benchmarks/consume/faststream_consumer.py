"""FastStream without its log, acknowledging after the work, on uvloop, as its command line does: runs in the peer's own environment."""

from __future__ import annotations

from typing import Any

import uvloop
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.redis import RedisBroker, StreamSub

from benchmarks.consume.work import IO_AT_ONCE, PREFETCH, Meter, asked

GROUP, ME = "bench", "one"


async def main() -> None:
    url, name, count, workload = asked()
    meter = Meter(count, workload)
    broker: Any
    if url.startswith("amqp"):
        at_once = IO_AT_ONCE if workload.startswith("io") else PREFETCH
        broker = RabbitBroker(url, default_channel=Channel(prefetch_count=at_once), logger=None)
        subscriber = broker.subscriber(
            RabbitQueue(name, durable=True, declare=False), ack_policy=AckPolicy.NACK_ON_ERROR
        )
    else:
        broker = RedisBroker(url, logger=None)
        stream = StreamSub(name, group=GROUP, consumer=ME, max_records=PREFETCH)
        subscriber = broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR)

    @subscriber
    async def handle(body: dict[str, Any]) -> None:
        await meter.handle(body)

    await broker.start()
    await meter.done.wait()
    await broker.stop()


if __name__ == "__main__":
    uvloop.run(main())
