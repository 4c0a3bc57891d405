"""redis-py's XREADGROUP as its documentation shows it, with an XACK each after the work."""

from __future__ import annotations

import asyncio

import redis.asyncio
from redis.exceptions import ResponseError

from benchmarks.consume.work import PREFETCH, Meter, asked

GROUP, ME = "bench", "one"


async def main() -> None:
    url, stream, count, workload = asked()
    meter = Meter(count, workload)
    client = redis.asyncio.Redis.from_url(url, socket_timeout=None)
    try:
        await client.xgroup_create(stream, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    while not meter.done.is_set():
        for _, entries in await client.xreadgroup(GROUP, ME, {stream: ">"}, count=PREFETCH, block=1000):
            for entry, fields in entries:
                await meter.handle(fields[b"body"])
                await client.xack(stream, GROUP, entry)
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main())
