"""asyncio alone: as many tasks as there are handlers, each of which only sleeps."""

from __future__ import annotations

import asyncio

from benchmarks.consume.work import IO_AT_ONCE, IO_SECONDS, Meter, asked


async def main() -> None:
    _, _, count, _ = asked()
    meter, left = Meter(count, "no-op"), count

    async def sleep() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await asyncio.sleep(IO_SECONDS)
            meter.count()

    await asyncio.gather(*(sleep() for _ in range(IO_AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main())
