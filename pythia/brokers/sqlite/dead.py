"""Dead letters of a queue file, as SQL over one connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from pythia.broker import DeadLetter, Failure, Settlement, no_such_letter
from pythia.brokers.sqlite import rows
from pythia.message import Envelope

_LETTER = (
    "name, reason, detail, attempts, error_type, error_message, traceback, worker, worker_id, dead_at, first_seen, queue,"
    f" {rows.ENVELOPE}"
)
_BURY = f"""
    INSERT INTO dead_letters ({_LETTER})
    SELECT CASE WHEN EXISTS (SELECT 1 FROM dead_letters d WHERE d.queue = messages.queue AND d.name = messages.id)
        THEN id || '~' || seq ELSE id END,
        ?, ?, coalesce(?, attempt), ?, ?, ?, ?, ?, ?, first_seen, queue, {rows.ENVELOPE}
    FROM messages WHERE seq = ? AND owner = ? AND fence = ? AND state = 2"""


def bury(connection: sqlite3.Connection, token: tuple[int, int, int], settlement: Settlement, now: float) -> bool:
    """Copy a message that is still ours, with all that is known about its failure; whether it was ours."""
    values = (*_failure_row(settlement.record), now, *token)
    return connection.execute(_BURY, values).rowcount == 1


def count(connection: sqlite3.Connection, queue: str) -> int:
    """How many there are."""
    return int(connection.execute("SELECT count(*) FROM dead_letters WHERE queue = ?", (queue,)).fetchone()[0])


def listed(connection: sqlite3.Connection, queue: str, limit: int, after: str | None) -> list[DeadLetter]:
    """Oldest first, from the one behind ``after``.

    Raises:
        BrokerError: there is no such dead letter any more.
    """
    found = connection.execute(
        f"SELECT {_LETTER} FROM dead_letters WHERE queue = ? AND seq > ? ORDER BY seq LIMIT ?",
        (queue, _place_of(connection, queue, after), limit),
    )
    return [_letter_of(row) for row in found]


def got(connection: sqlite3.Connection, queue: str, name: str) -> DeadLetter | None:
    """The one of that name."""
    row = connection.execute(
        f"SELECT {_LETTER} FROM dead_letters WHERE queue = ? AND name = ?", (queue, name)
    ).fetchone()
    return None if row is None else _letter_of(row)


def exhumed(connection: sqlite3.Connection, queue: str, names: Sequence[str], now: float) -> list[Envelope]:
    """Take dead letters away; their messages, dated now, so that a replay of something old does not expire on arrival."""
    letters = [letter for name in dict.fromkeys(names) if (letter := got(connection, queue, name)) is not None]
    purge(connection, queue, [letter.id for letter in letters])
    for letter in letters:
        letter.envelope.timestamp = now
    return [letter.envelope for letter in letters]


def purge(connection: sqlite3.Connection, queue: str, names: Sequence[str]) -> int:
    """Delete dead letters; how many there were."""
    statement = "DELETE FROM dead_letters WHERE queue = ? AND name = ?"
    return connection.executemany(statement, [(queue, name) for name in names]).rowcount if names else 0


def _place_of(connection: sqlite3.Connection, queue: str, name: str | None) -> int:
    if name is None:
        return 0
    row = connection.execute("SELECT seq FROM dead_letters WHERE queue = ? AND name = ?", (queue, name)).fetchone()
    if row is None:
        raise no_such_letter(name, queue)
    return int(row[0])


def _failure_row(record: Failure | None) -> tuple[Any, ...]:
    if record is None:
        return (None,) * 8
    return (
        record.reason,
        record.detail,
        record.attempts,
        record.error_type,
        record.error_message,
        record.traceback,
        record.worker or None,
        record.worker_id or None,
    )


def _letter_of(row: Sequence[Any]) -> DeadLetter:
    name, reason, detail, attempts, kind, text, traceback, worker, worker_id, dead_at, first_seen, queue = row[:12]
    envelope = rows.envelope_of(row[12:])
    return DeadLetter(
        id=name,
        envelope=envelope,
        reason=reason,
        detail=detail,
        attempts=attempts,
        error_type=kind,
        error_message=text,
        traceback=traceback,
        published_at=first_seen if envelope.timestamp is None else envelope.timestamp,
        first_seen_at=first_seen,
        dead_at=dead_at,
        worker=worker,
        worker_id=worker_id,
        origin_queue=queue,
    )
