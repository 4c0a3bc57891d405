"""What the sampler saw, as the parts of a message's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

Row = tuple[str, str, int]  # module, function, samples

PARTS = {  # by the beginnings of modules' names; the first that fits
    "broker: bytes in, acks out": ("pythia/brokers/", "pythia/broker"),
    "body": ("pythia/core/codecs",),
    "message object": ("pythia/message",),
    "slot, lane, handler's context": (
        "pythia/core/handling", "pythia/core/lanes", "pythia/core/slots", "pythia/core/stepping", "pythia/core/context",
    ),
    "outcome and settlement": (
        "pythia/core/held", "pythia/core/processor", "pythia/core/outcome", "pythia/core/settler",
        "pythia/core/subscription",
    ),
    "counters": ("pythia/core/report", "pythia/core/tally"),
    "note of what is in hand": ("pythia/core/suspects", "pythia/core/journal"),
    "the benchmark's handler": ("benchmarks/",),
    "asyncio by itself": ("pythia/service", "asyncio"),  # which run() waits for
    "the rest of the engine": ("",),
}  # fmt: skip


def by_part(rows: Iterable[Row], cpu: float) -> Mapping[str, float]:
    """The microseconds of each part, of ``cpu`` in all; every sample counts once."""
    seen: Counter[str] = Counter()
    for module, _, samples in rows:
        seen[part_of(module)] += samples
    total = seen.total() or 1
    return {part: cpu * seen[part] / total for part in PARTS}


def part_of(module: str) -> str:
    """Where a module's time belongs."""
    return next(part for part, beginnings in PARTS.items() if module.startswith(beginnings))
