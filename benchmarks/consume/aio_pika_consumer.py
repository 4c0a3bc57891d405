"""aio-pika's ``queue.consume`` as its documentation shows it, with an ack each after the work. The prefetch bounds what runs at once."""

from __future__ import annotations

import asyncio

import aio_pika

from benchmarks.consume.work import IO_AT_ONCE, PREFETCH, Meter, asked


async def main() -> None:
    url, name, count, workload = asked()
    meter = Meter(count, workload)
    connection = await aio_pika.connect_robust(url)
    channel = await connection.channel()
    await channel.set_qos(IO_AT_ONCE if workload == "io" else PREFETCH)
    queue = await channel.get_queue(name)

    async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        await meter.handle(message.body)
        await message.ack()

    await queue.consume(handle)
    await meter.done.wait()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
