"""How fast the SQLite broker claims and settles, beside a raw ``sqlite3`` loop on the same disk in the same run.

    python benchmarks/bench_sqlite_queue.py [--messages 20000] [--rounds 5] [--directory DIR] [--json]

Rounds are interleaved and medians compared, so that a busy machine slows both alike: read the ratio, not the rate. The raw
loop does what a queue must at the least: claim 50 rows, commit, delete them, commit, all with ``synchronous=FULL``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pythia.broker import ConsumeOptions, Settlement
from pythia.brokers.sqlite import SqliteBroker
from pythia.brokers.sqlite.file import safe_journal
from pythia.message import Envelope

BODY = b'{"order": 4711, "items": [1, 2, 3], "note": "' + b"x" * 100 + b'"}'
RAW_BATCH, BATCH = 50, 64


def raw(path: Path, messages: int) -> dict[str, float]:
    """Messages a second of the raw loop."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={safe_journal(sqlite3.sqlite_version_info)}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE m (seq INTEGER PRIMARY KEY, state INTEGER, owner INTEGER, lease REAL, body BLOB)")
    connection.execute("CREATE INDEX ready ON m (seq) WHERE state = 0")
    started = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO m (state, body) VALUES (0, ?)", [(BODY,)] * messages)
    connection.execute("COMMIT")
    published = time.perf_counter()
    for _ in range(0, messages, RAW_BATCH):
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(
            "UPDATE m SET state = 2, owner = 1, lease = ? WHERE seq IN"
            f" (SELECT seq FROM m WHERE state = 0 ORDER BY seq LIMIT {RAW_BATCH}) RETURNING seq, body",
            (time.monotonic() + 30,),
        ).fetchall()
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM m WHERE seq = ? AND owner = 1 AND state = 2", [row[:1] for row in rows])
        connection.execute("COMMIT")
    finished = time.perf_counter()
    connection.close()
    return {"publish": messages / (published - started), "consume": messages / (finished - published)}


async def ours(path: Path, messages: int) -> dict[str, float]:
    """Messages a second of the broker, used as the engine uses it: one batch is settled while the next is received."""
    broker = SqliteBroker(path)
    await broker.connect()
    envelopes = [Envelope(BODY, id=f"{number:032x}") for number in range(messages)]
    started = time.perf_counter()
    await broker.publish("q", envelopes)
    published = time.perf_counter()
    options = ConsumeOptions(prefetch=4 * BATCH, lease=30.0, max_hold=None, consumer="bench")
    async with broker.consume("q", options) as consumer:
        left, settling = messages, None
        while left:
            deliveries = await consumer.receive(BATCH)
            left -= len(deliveries)
            if settling is not None:
                await settling
            settling = asyncio.ensure_future(consumer.settle([Settlement(delivery, "ack") for delivery in deliveries]))
        if settling is not None:
            await settling
    finished = time.perf_counter()
    await broker.close()
    return {"publish": messages / (published - started), "consume": messages / (finished - published)}


def measure(messages: int, rounds: int, directory: str | None) -> dict[str, dict[str, float]]:
    """Medians of the interleaved rounds."""
    contenders: dict[str, Callable[[Path], dict[str, float]]] = {
        "raw": lambda path: raw(path, messages),
        "pythia": lambda path: asyncio.run(ours(path, messages)),
    }
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            with tempfile.TemporaryDirectory(dir=directory) as place:
                seen[name].append(run(Path(place) / f"{name}{number}.db"))
    return {
        name: {what: median(run[what] for run in runs) for what in ("publish", "consume")}
        for name, runs in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", help="where the files are made: its disk is what is measured")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.messages, chosen.rounds, chosen.directory)
    ratio = {what: found["pythia"][what] / found["raw"][what] for what in ("publish", "consume")}
    if chosen.json:
        print(json.dumps({**found, "ratio": ratio, "sqlite": sqlite3.sqlite_version}))
        return
    print(
        f"SQLite {sqlite3.sqlite_version}, journal mode {safe_journal(sqlite3.sqlite_version_info)}, medians of {chosen.rounds}"
    )
    for what, label in (("publish", "publish in one flight"), ("consume", "claim and settle")):
        print(
            f"{label:24} raw {found['raw'][what]:9,.0f}/s   pythia {found['pythia'][what]:9,.0f}/s   {ratio[what]:.2f} × raw"
        )


if __name__ == "__main__":
    main()
