"""What a queue on SQLite must do at the least: claim 50 rows, commit, delete them, commit, in Pythia's journal mode."""

from __future__ import annotations

import json
import sqlite3
import time

from benchmarks.consume.work import BODY, Meter, asked
from pythia.brokers.sqlite.file import safe_journal

AT_ONCE = 50


def main() -> None:
    path, _, count, _ = asked()
    meter = Meter(count, "no-op")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={safe_journal(sqlite3.sqlite_version_info)}")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE m (seq INTEGER PRIMARY KEY, state INTEGER, owner INTEGER, lease REAL, body BLOB)")
    db.execute("CREATE INDEX ready ON m (seq) WHERE state = 0")
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO m (state, body) VALUES (0, ?)", [(BODY,)] * count)
    db.execute("COMMIT")
    while not meter.done.is_set():
        db.execute("BEGIN IMMEDIATE")
        rows = db.execute(
            "UPDATE m SET state = 2, owner = 1, lease = ? WHERE seq IN"
            f" (SELECT seq FROM m WHERE state = 0 ORDER BY seq LIMIT {AT_ONCE}) RETURNING seq, body",
            (time.monotonic() + 30,),
        ).fetchall()
        db.execute("COMMIT")
        for _, body in rows:
            json.loads(body)
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM m WHERE seq = ? AND owner = 1 AND state = 2", [row[:1] for row in rows])
        db.execute("COMMIT")
        for _ in rows:
            meter.count()


if __name__ == "__main__":
    main()
