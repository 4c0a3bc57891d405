"""What a message costs, from the broker's bytes to the handler and back: Pythia beside raw clients and FastStream.

    python benchmarks/bench_consume.py [--only rabbitmq,redis,sqlite] [--rounds 3] [--count 20000]
                                       [--json FILE] [--html FILE] [--write-docs] [--gate]

Each contestant runs in a process of its own, on a queue that was filled before; rounds are interleaved, ratios are taken within a
round, and of all rounds the median counts. ``--gate`` ends with 1 when a ratio of ``ratios.json`` is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.consume import fill, page, ratios, rounds  # noqa: E402 - the path is set just above
from benchmarks.consume.work import body_of  # noqa: E402
from benchmarks.peers.contestants import is_installed, python_of, versions_of  # noqa: E402

SECONDS = 300
RABBITMQ_URL = os.environ.get("PYTHIA_TEST_RABBITMQ_URL", "amqp://guest:guest@localhost:5672/")
REDIS_URL = os.environ.get("PYTHIA_TEST_REDIS_URL", "redis://localhost:6379/0")
SLOW, SLOWER = 4, 10  # so many times fewer messages for who is slow
STEADY = 1000  # messages that come at an even pace
PEERS = {  # whose version is told, by environment
    "faststream": ("faststream", "aio-pika", "redis", "uvloop"),
    "taskiq": ("taskiq", "taskiq-aio-pika", "taskiq-redis", "uvloop"),
    "celery": ("celery", "kombu"),
    "dramatiq": ("dramatiq",),
    "arq": ("arq", "redis"),
    "saq": ("saq", "redis"),
    "sqlite": ("huey", "gigq", "persist-queue"),
}


def consume(module: str, *words: str, python: Path | str = sys.executable) -> rounds.Figures:
    """What the consumer says of itself, and how long it took from nothing to its first message.

    Raises:
        RuntimeError: it failed.
    """
    began = time.time()
    figures: rounds.Figures = json.loads(said_by(module, *words, python=python)[0])
    if (first := figures.pop("first", None)) is not None:
        figures["start"] = 1e3 * (first - began)
    return figures


def said_by(module: str, *words: str, python: Path | str = sys.executable) -> list[str]:
    """The lines of JSON that the consumer prints; some print a banner, too.

    Raises:
        RuntimeError: it failed.
    """
    command = [str(python), "-m", f"benchmarks.consume.{module}", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    said = [line for line in ended.stdout.splitlines() if line.startswith(("{", "["))]
    if ended.returncode or not said:
        raise RuntimeError(f"{module} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return said


def on_rabbitmq(kind: str, workload: str, count: int) -> rounds.Contest:
    """One queue type and one workload."""
    name, fewer = f"pythia-bench-{os.getpid()}", 1 if workload == "steady" else SLOW

    def of(module: str, *more: str, peer: str | None = None, fewer: int = 1) -> rounds.Run:
        def run() -> rounds.Figures:
            if workload == "steady":
                filled = fill.rabbitmq_steadily(RABBITMQ_URL, name, kind, count // fewer)
            else:
                filled = fill.rabbitmq(RABBITMQ_URL, name, kind, count // fewer, body_of(workload))
            with filled:
                python = sys.executable if peer is None else python_of(peer)
                return consume(module, RABBITMQ_URL, name, str(count // fewer), workload, *more, python=python)

        return run

    contestants = {
        "Pythia": of("pythia_worker", f"rabbitmq.queue_type={kind}"),
        "aio-pika": of("aio_pika_consumer", fewer=fewer),
        "FastStream": of("faststream_consumer", peer="faststream", fewer=fewer),
    }
    if workload == "no-op":
        if kind == "classic":  # which they declare
            contestants |= others(RABBITMQ_URL, name, workload, count, ("taskiq", "Celery", "Dramatiq"))
        contestants["Pythia, by the driver"] = of(
            "pythia_worker", f"rabbitmq.queue_type={kind}", "rabbitmq.deliveries=driver", fewer=SLOW
        )
    elif workload == "io":
        contestants |= others(RABBITMQ_URL, name, workload, count, ("taskiq", "Dramatiq"))
        contestants["asyncio's ceiling"] = lambda: consume("ceiling", "", "", str(count), workload)
    return rounds.Contest(f"RabbitMQ, {kind} queue", workload, contestants)


def mixed_with_slow_ones(broker: str, url: str, count: int) -> rounds.Contest:
    """The no-op handlers among some that take a second, beside the same ones by themselves, with slots for all."""
    name = f"pythia-bench-{os.getpid()}"

    def of(workload: str) -> rounds.Run:
        def run() -> rounds.Figures:
            with fill.filled(url, name, "quorum", count):
                return consume("pythia_worker", url, name, str(count), workload)

        return run

    return rounds.Contest(broker, "mixed", {"Pythia": of("mixed"), "none slow": of("not mixed")})


def on_redis(workload: str, count: int) -> rounds.Contest:
    """A stream."""
    name, fewer = f"pythia-bench-{os.getpid()}", 1 if workload == "steady" else SLOW

    def of(module: str, *, peer: str | None = None, fewer: int = 1) -> rounds.Run:
        def run() -> rounds.Figures:
            theirs = peer is not None
            if workload == "steady":
                filled = fill.stream_steadily(REDIS_URL, name, count // fewer, for_faststream=theirs)
            else:
                filled = fill.stream(REDIS_URL, name, count // fewer, body_of(workload), for_faststream=theirs)
            with filled:
                python = sys.executable if peer is None else python_of(peer)
                return consume(module, REDIS_URL, name, str(count // fewer), workload, python=python)

        return run

    contestants = {
        "Pythia": of("pythia_worker"),
        "redis-py": of("redis_py_consumer", fewer=fewer),
        "FastStream": of("faststream_consumer", peer="faststream", fewer=fewer),
    }
    if workload == "no-op":
        contestants |= others(REDIS_URL, name, workload, count, ("taskiq", "Celery", "Dramatiq", "arq", "SAQ"))
    return rounds.Contest("Redis, stream", workload, contestants)


def others(url: str, name: str, workload: str, count: int, peers: Sequence[str]) -> dict[str, rounds.Run]:
    """Those that have a form of message of their own, and fill their queues themselves."""

    def of(peer: str) -> rounds.Run:
        def run() -> rounds.Figures:
            with fill.emptied(url, name):
                module, python = f"{peer.lower()}_consumer", python_of(peer.lower())
                figures = consume(module, url, name, str(count // SLOWER), workload, python=python)
                figures.pop("start", None)  # it published them all first
                return figures

        return run

    return {peer: of(peer) for peer in peers}


def on_sqlite(count: int) -> rounds.Contest:
    """A file, with ``synchronous=FULL``, no-op; published before by each one's own producer."""

    def of(module: str, *, peer: str | None = None, fewer: int = 1) -> rounds.Run:
        def run() -> rounds.Figures:
            with tempfile.TemporaryDirectory() as place:
                python = sys.executable if peer is None else python_of(peer)
                return consume(module, f"{place}/q.db", "bench", str(count // fewer), "no-op", python=python)

        return run

    contestants = {
        "Pythia": of("sqlite_pythia"),
        "raw, batches of 50": of("sqlite_raw"),
        "huey": of("sqlite_huey", peer="sqlite", fewer=10),
        "GigQ": of("sqlite_gigq", peer="sqlite", fewer=20),
        "persist-queue": of("sqlite_persist_queue", peer="sqlite", fewer=20),
    }
    return rounds.Contest("SQLite, synchronous=FULL", "no-op", contestants)


def contests(only: Sequence[str], count: int) -> list[rounds.Contest]:
    """All that was asked for."""
    found = []
    if "rabbitmq" in only:
        found += [on_rabbitmq(kind, "no-op", count) for kind in ("classic", "quorum")]
        found.append(on_rabbitmq("classic", "io", max(2000, count // 2)))
        found += [on_rabbitmq("classic", workload, max(2000, count // 4)) for workload in ("10 KB", "CPU-bound")]
        found.append(on_rabbitmq("classic", "steady", STEADY))
        found.append(mixed_with_slow_ones("RabbitMQ, quorum queue", RABBITMQ_URL, count // 2))
    if "redis" in only:
        found += [on_redis("no-op", count), on_redis("10 KB", max(2000, count // 4)), on_redis("steady", STEADY)]
        found.append(mixed_with_slow_ones("Redis, stream", REDIS_URL, count // 2))
    if "sqlite" in only:
        found.append(on_sqlite(count))
    return found


def told_versions() -> list[str]:
    """Of ourselves and what we stand on, and of each peer that was installed to be measured."""
    names = ("pythia-worker", "aio-pika", "aiormq", "redis", "hiredis", "msgspec", "uvloop")
    ours = versions_of(sys.executable, *(name for name in names if ratios.installed(name)))
    peers = [f"{peer}: {versions_of(python_of(peer), *told)}" for peer, told in PEERS.items() if is_installed(peer)]
    return [f"ours: {ours}", *peers]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="rabbitmq,redis,sqlite", help="brokers, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000, help="messages; a quarter of them for slow contestants")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--html", metavar="FILE", type=Path)
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a ratio of ratios.json is missed")
    chosen = parser.parse_args()
    results = [rounds.held(contest, chosen.rounds, print) for contest in contests(chosen.only.split(","), chosen.count)]
    verdicts, versions = ratios.judged(results, ratios.read()), told_versions()
    print("\n".join(versions))
    print(page.text(results, verdicts))
    if chosen.json:
        chosen.json.write_text(json.dumps(page.plain(results, verdicts, versions), indent=1))
    if chosen.html:
        chosen.html.write_text(page.html(results, verdicts, versions))
    if chosen.write_docs:
        page.write_into(ROOT / "docs" / "performance.md", results, verdicts, versions)
    return 1 if chosen.gate and not all(verdict.holds for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
