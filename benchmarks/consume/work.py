"""What every consumer does with a message, and how it is measured; imports nothing of anybody's."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

PREFETCH = 200
IO_AT_ONCE, IO_SECONDS = 100, 0.01
WARM_UP = 10  # the first tenth is not measured
BODY = json.dumps({"order": 4711, "customer": "c-1234", "items": [1, 2, 3], "note": "x" * 190}).encode()


class Meter:
    """Counts messages, and measures from the end of the warm-up to the last one: wall time, and CPU time of this process."""

    def __init__(self, count: int, workload: str) -> None:
        self._left = count
        self._measured = count - count // WARM_UP
        self._io = workload == "io"
        self._began = 0.0
        self._cpu = 0.0
        self.done = asyncio.Event()

    async def handle(self, body: Any) -> None:
        """One message, decoded or not."""
        if isinstance(body, bytes | bytearray):
            body = json.loads(body)
        assert body["order"] == 4711
        if self._io:
            await asyncio.sleep(IO_SECONDS)
        self.count()

    def count(self) -> None:
        """It is done with."""
        self._left -= 1
        if self._left == self._measured:
            self._began, self._cpu = time.monotonic(), time.process_time()
        elif self._left == 0:
            self._tell()
            self.done.set()

    def _tell(self) -> None:
        seconds, cpu = time.monotonic() - self._began, time.process_time() - self._cpu
        print(
            json.dumps(
                {
                    "rate": self._measured / seconds,
                    "cpu": 1e6 * cpu / self._measured,
                    "rss": _peak_megabytes(),
                }
            ),
            flush=True,
        )


def _peak_megabytes() -> float:
    """Of this program alone: what ``getrusage`` says includes who started it."""
    said = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(said[1]) / 1024 if said else 0.0


def asked() -> tuple[str, str, int, str]:
    """URL, queue, count and workload, as the command line has them."""
    url, queue, count, workload = sys.argv[1:5]
    return url, queue, int(count), workload
