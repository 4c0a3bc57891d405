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
STEADY_RATE = 200  # messages a second
_ORDER = {"order": 4711, "customer": "c-1234", "items": [1, 2, 3], "note": "x" * 190}
BODY = json.dumps(_ORDER).encode()
LARGE_BODY = json.dumps({**_ORDER, "note": "x" * 10_000}).encode()
CPU_STEPS = 20_000  # of a loop, for a handler that computes
SLOW_EVERY, SLOW_SECONDS = 20, 1.0  # of *mixed*, where the others are no-ops, and alone are measured


def body_of(workload: str) -> bytes:
    """What is published for it."""
    return LARGE_BODY if workload == "10 KB" else BODY


def order_of(workload: str) -> dict[str, Any]:
    """The same, for those that write their messages themselves."""
    order: dict[str, Any] = json.loads(body_of(workload))
    return order


def body_sent_now() -> bytes:
    """One that says when it was sent (monotonic: the same clock for all processes of a machine)."""
    return json.dumps({**_ORDER, "sent": time.monotonic()}).encode()


class Meter:
    """Counts messages, and measures from the end of the warm-up to the last one: wall time, and CPU time of this process."""

    def __init__(self, count: int, workload: str) -> None:
        self._mixed = workload == "mixed"
        self._begun = 0
        count -= count // SLOW_EVERY if self._mixed else 0
        self._left = count
        self._measured = count - count // WARM_UP
        self._io = workload == "io"
        self._computes = workload == "CPU-bound"
        self._waits: list[float] | None = (
            [] if workload == "steady" else None
        )  # seconds from the sending to the handler
        self._began = 0.0
        self._cpu = 0.0
        self._first: float | None = None
        self.done = asyncio.Event()

    async def handle(self, body: Any) -> None:
        """One message, decoded or not."""
        if isinstance(body, bytes | bytearray):
            body = json.loads(body)
        assert body["order"] == 4711
        if self._waits is not None:
            self._waits.append(time.monotonic() - body["sent"])
        self._begun += 1
        if self._begun == 1:
            self._first = time.time()
        if self._mixed and self._begun % SLOW_EVERY == 0:
            await asyncio.sleep(SLOW_SECONDS)
            return
        if self._io:
            await asyncio.sleep(IO_SECONDS)
        self._compute_and_count()

    def handle_at_once(self, order: Any) -> None:
        """One message, where handlers are plain functions."""
        assert order["order"] == 4711
        if self._io:
            time.sleep(IO_SECONDS)
        self._compute_and_count()

    def _compute_and_count(self) -> None:
        if self._computes:
            sum(range(CPU_STEPS))
        self.count()

    def count(self) -> None:
        """It is done with."""
        self._left -= 1
        if self._left == self._measured:
            self.began()
            self._began, self._cpu = time.monotonic(), time.process_time()
        elif self._left == 0:
            self._tell()
            self.ended()
            self.done.set()

    def began(self) -> None:
        """The warm-up is over."""

    def ended(self) -> None:
        """The last one was measured."""

    def _tell(self) -> None:
        seconds, cpu = time.monotonic() - self._began, time.process_time() - self._cpu
        figures = {"rate": self._measured / seconds, "cpu": 1e6 * cpu / self._measured, "rss": _peak_megabytes()}
        if self._first is not None and self._waits is None:
            figures["first"] = self._first
        if self._waits is not None:
            waits = sorted(self._waits[-self._measured :])
            figures |= {"p50": 1e3 * waits[len(waits) // 2], "p99": 1e3 * waits[len(waits) * 99 // 100]}
        print(json.dumps(figures), flush=True)


def _peak_megabytes() -> float:
    """Of this program alone: what ``getrusage`` says includes who started it."""
    said = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(said[1]) / 1024 if said else 0.0


def asked() -> tuple[str, str, int, str]:
    """URL, queue, count and workload, as the command line has them."""
    url, queue, count, workload = sys.argv[1:5]
    return url, queue, int(count), workload
