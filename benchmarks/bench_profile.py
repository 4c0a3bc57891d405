"""Where each microsecond of a message goes: RabbitMQ and Redis streams, no-op handlers, every guarantee on.

    python benchmarks/bench_profile.py [--only rabbitmq,redis] [--rounds 3] [--count 40000] [--functions N] [--write-docs]

The worker's main thread is looked at once a millisecond of its CPU time; a sample counts for the innermost function of Pythia's, with
all that it calls of others'. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_consume import RABBITMQ_URL, REDIS_URL, said_by  # noqa: E402 - the path is set just above
from benchmarks.consume import fill, page, parts  # noqa: E402

BROKERS = {"rabbitmq": ("RabbitMQ", RABBITMQ_URL), "redis": ("Redis streams", REDIS_URL)}
QUEUE = "pythia-bench-profile"


def profiled(broker: str, count: int) -> tuple[float, Sequence[parts.Row]]:
    """Microseconds of CPU a message, and what was seen.

    Raises:
        RuntimeError: the worker failed.
    """
    _, url = BROKERS[broker]
    with fill.filled(url, QUEUE, "classic", count):
        figures, rows = map(json.loads, said_by("profiled", url, QUEUE, str(count), "no-op"))
    return figures["cpu"], [(module, function, samples) for module, function, samples in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="rabbitmq,redis", help="brokers, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=40_000, help="messages")
    parser.add_argument("--functions", type=int, default=0, help="print so many of the dearest functions of each")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    chosen = parser.parse_args()
    brokers = chosen.only.split(",")
    runs = {broker: [profiled(broker, chosen.count) for _ in range(chosen.rounds)] for broker in brokers}
    table = written(runs)
    print(table)
    for broker, seen in runs.items():
        everything: Counter[tuple[str, str]] = Counter()
        for _, rows in seen:
            for module, function, samples in rows:
                everything[module, function] += samples
        for (module, function), samples in everything.most_common(chosen.functions):
            print(f"{broker} {samples / everything.total():6.1%}  {module} {function}")
    if chosen.write_docs:
        page.write_between(ROOT / "docs" / "performance.md", "profile", table)
    return 0


def written(runs: dict[str, list[tuple[float, Sequence[parts.Row]]]]) -> str:
    """µs of CPU a message, a row for each part and a column for each broker."""
    columns = [[parts.by_part(rows, cpu) for cpu, rows in seen] for seen in runs.values()]
    lines = [
        f"| µs of CPU a message | {' | '.join(BROKERS[broker][0] for broker in runs)} |",
        f"|---|{'--:|' * len(runs)}",
    ]
    for part in parts.PARTS:
        cells = [f"{median(each[part] for each in column):.1f}" for column in columns]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    totals = [f"{median(cpu for cpu, _ in seen):.1f}" for seen in runs.values()]
    return "\n".join([*lines, f"| all | {' | '.join(totals)} |"])


if __name__ == "__main__":
    sys.exit(main())
