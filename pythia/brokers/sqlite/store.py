"""What can be asked of a queue file, as plain SQL over one connection: no thread, no waiting, no transaction of its own.

Whoever calls wraps it in one (the writer thread does). Ownership is decided by the rows alone: a settlement names sequence
number, owner and fence, and finds no row when any of them has moved on.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Sequence
from typing import Any

from pythia.broker import DONE, Output, QueueDepth, Settled, Settlement
from pythia.brokers.sqlite import dead, rows
from pythia.brokers.sqlite.clock import SqliteClock
from pythia.errors import PublishError
from pythia.message import Delivery, Envelope

Token = tuple[int, int, int]
"""Sequence number, owner, fence: the name of one delivery."""

_UNFIT = (TypeError, ValueError, OverflowError, RecursionError, sqlite3.DataError, sqlite3.ProgrammingError)
"""What Python and SQLite raise for a value that no column can hold: an int of 65 bits, text that is not Unicode, 2 GB."""

_MOVED_AT_ONCE = 1000  # rows; a million that become due together must not hold everybody else up

_INSERT = f"INSERT INTO messages (queue, first_seen, due, rank, state, {rows.ENVELOPE}) VALUES (?1, ?2, ?3, ?4, "
_VALUES = ", ".join(f"?{number}" for number in range(6, 17))
_PUT = f"{_INSERT} ?5, {_VALUES})"
_BLOCKED = "EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND ordering_key = ?7)"
_PUT_IN_LINE = f"{_INSERT} CASE WHEN {_BLOCKED} THEN 3 ELSE ?5 END, {_VALUES})"

_OURS = "WHERE seq = ? AND owner = ? AND fence = ? AND state = 2"
_REMOVE = f"DELETE FROM messages {_OURS}"
_RELEASE = f"UPDATE messages SET state = 0, owner = NULL, lease_until = NULL {_OURS}"
_LATER = f"UPDATE messages SET state = ?, due = ?, attempt = attempt + ?, owner = NULL, lease_until = NULL {_OURS}"
_RENEW = f"UPDATE messages SET lease_until = ? {_OURS}"
_CLAIM = f"""
    UPDATE messages SET state = 2, owner = ?, lease_until = ?, fence = fence + 1, deliveries = deliveries + 1
    WHERE seq IN (SELECT seq FROM messages WHERE state = 0 AND queue = ? ORDER BY rank DESC, seq LIMIT ?)
    RETURNING {rows.CLAIMED}"""
_NEXT_IN_LINE = """
    UPDATE messages SET state = (due > ?) WHERE seq =
    (SELECT min(seq) FROM messages WHERE queue = ? AND ordering_key = ? AND state = 3)"""
_EXPIRED = "UPDATE messages SET state = 0, owner = NULL, lease_until = NULL WHERE state = 2 AND"
_PRESENT = """
    INSERT INTO consumers (id, queue, name, host, pid, boot, lease_until) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until RETURNING id"""
_OLDEST = """
    WITH RECURSIVE ranks (rank) AS (
        SELECT max(rank) FROM messages WHERE state = 0 AND queue = ?1
        UNION ALL
        SELECT (SELECT max(rank) FROM messages WHERE state = 0 AND queue = ?1 AND rank < ranks.rank)
        FROM ranks WHERE ranks.rank IS NOT NULL)
    SELECT min((SELECT due FROM messages WHERE state = 0 AND queue = ?1 AND rank = ranks.rank ORDER BY seq LIMIT 1))
    FROM ranks WHERE ranks.rank IS NOT NULL"""
_WAITING = """
    SELECT count(*) FROM messages head JOIN messages tail ON tail.queue = head.queue AND tail.ordering_key = head.ordering_key
    WHERE head.queue = ? AND head.state = 1 AND head.due > ? AND head.ordering_key IS NOT NULL AND tail.state = 3"""


class Store:
    """The queues of one file, over one open connection."""

    def __init__(self, connection: sqlite3.Connection, clock: SqliteClock) -> None:
        self.connection = connection
        self.clock = clock

    # -- in -----------------------------------------------------------------------------------------------------------

    def put(self, queue: str, envelopes: Sequence[Envelope], delay: float = 0.0) -> None:
        """Store messages, ready after ``delay`` seconds.

        Raises:
            PublishError: a value that cannot be stored.
        """
        self.know(queue)
        now = self.clock.time()
        due, state = (now + delay, 1) if delay > 0 else (now, 0)
        in_line = any(envelope.ordering_key is not None for envelope in envelopes)
        try:
            self.connection.executemany(
                _PUT_IN_LINE if in_line else _PUT,
                [(queue, due, due, e.priority or 0, state, *rows.envelope_row(e)) for e in envelopes],
            )
        except _UNFIT as error:
            raise PublishError(
                f"a message for queue {queue!r} cannot be stored: {error}",
                queue=queue,
                id=envelopes[0].id,
                in_doubt=False,
            ) from error

    def touch(self) -> None:
        """Write what is there already, so that a file that cannot be written says so."""
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        self.connection.execute(f"PRAGMA user_version = {version:d}")

    def know(self, queue: str) -> None:
        """Remember the name of a queue."""
        self.connection.execute("INSERT OR IGNORE INTO queues VALUES (?)", (queue,))

    # -- out ----------------------------------------------------------------------------------------------------------

    def claim(self, owner: int, queue: str, limit: int, lease: float) -> list[Delivery]:
        """Lease up to ``limit`` ready rows to ``owner``: the highest priority first, the oldest first within it."""
        until = self.clock.boottime() + lease
        claimed = self.connection.execute(_CLAIM, (owner, until, queue, limit)).fetchall()
        return rows.deliveries_of(claimed, queue, owner)

    def advance(self) -> None:
        """Bring the file up to the time: some of what is due becomes ready, what expired goes back."""
        self.connection.execute(
            "UPDATE messages SET state = 0 WHERE seq IN"
            f" (SELECT seq FROM messages WHERE state = 1 AND due <= ? ORDER BY due LIMIT {_MOVED_AT_ONCE})",
            (self.clock.time(),),
        )
        self.connection.execute(f"{_EXPIRED} lease_until <= ?", (self.clock.boottime(),))

    def next_moment(self) -> float | None:
        """Seconds until the next row becomes due or the next lease expires; None when nothing will happen by itself."""
        due, until = self.connection.execute(
            "SELECT (SELECT min(due) FROM messages WHERE state = 1), (SELECT min(lease_until) FROM messages WHERE state = 2)"
        ).fetchone()
        waits = [] if due is None else [due - self.clock.time()]
        waits += [] if until is None else [until - self.clock.boottime()]
        return max(0.0, min(waits)) if waits else None

    # -- settling -----------------------------------------------------------------------------------------------------

    def settle(self, batch: Sequence[Settlement]) -> list[Settled]:
        """Carry out settlements with their outputs; one answer an item."""
        plain = [settlement.delivery.token for settlement in batch if _is_plain(settlement)]
        removed = self._remove_all(plain)
        return [DONE if removed and _is_plain(settlement) else self._settle(settlement) for settlement in batch]

    def release(self, tokens: Sequence[Token]) -> None:
        """Give rows back uncounted; those that are another's by now stay as they are."""
        self.connection.executemany(_RELEASE, tokens)

    def renew(self, tokens: Sequence[Token], lease: float) -> list[Token]:
        """Make leases last for ``lease`` seconds from now; the tokens whose row is another's by now."""
        until = self.clock.boottime() + lease
        return [token for token in tokens if not self.connection.execute(_RENEW, (until, *token)).rowcount]

    def _remove_all(self, tokens: Sequence[Token]) -> bool:
        """Remove rows in one go if every one of them is ours; else change nothing."""
        self.connection.execute("SAVEPOINT plain")
        ours = self.connection.executemany(_REMOVE, tokens).rowcount == len(tokens) if tokens else False
        if not ours:
            self.connection.execute("ROLLBACK TO plain")
        self.connection.execute("RELEASE plain")
        return ours

    def _settle(self, settlement: Settlement) -> Settled:
        if not self._dispose(settlement):
            return Settled.STALE
        self._put_out(settlement.outputs)
        envelope = settlement.delivery.envelope
        if envelope.ordering_key is not None and settlement.kind in ("ack", "drop", "dead_letter"):
            self._next_in_line(settlement.delivery.queue, envelope.ordering_key)
        return Settled.DONE

    def _dispose(self, settlement: Settlement) -> bool:
        """Do to the row what the settlement says; whether it was still ours."""
        token: Token = settlement.delivery.token
        match settlement.kind:
            case "ack" | "drop":
                return self._changed(_REMOVE, token)
            case "dead_letter":
                now = self.clock.time()
                return dead.bury(self.connection, token, settlement, now) and self._changed(_REMOVE, token)
            case "release":
                return self._changed(_RELEASE, token)
            case "retry" | "defer" as kind:
                due = self.clock.time() + max(0.0, settlement.delay)
                return self._changed(_LATER, (int(settlement.delay > 0), due, int(kind == "retry"), *token))

    def _changed(self, statement: str, values: Sequence[Any]) -> bool:
        return self.connection.execute(statement, values).rowcount == 1

    def _put_out(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self.put(output.queue, (output.envelope,))

    def _next_in_line(self, queue: str, key: str) -> None:
        self.connection.execute(_NEXT_IN_LINE, (self.clock.time(), queue, key))

    # -- consumers ----------------------------------------------------------------------------------------------------

    def enter(self, queue: str, name: str, lease: float) -> int:
        """Register a consumer; its number, which no other will ever have."""
        self.know(queue)
        self.forget_the_dead()
        return self._present(None, queue, name, lease)

    def beat(self, owner: int, queue: str, name: str, lease: float) -> None:
        """Say that a consumer lives, even to those who have given it up."""
        self._present(owner, queue, name, lease)

    def _present(self, owner: int | None, queue: str, name: str, lease: float) -> int:
        until = self.clock.boottime() + lease
        values = (owner, queue, name, socket.gethostname(), os.getpid(), self.clock.boot, until)
        ((number,),) = self.connection.execute(_PRESENT, values).fetchall()
        return int(number)

    def leave(self, owner: int) -> None:
        """Give back what a consumer holds, and forget it."""
        self.connection.execute(f"{_EXPIRED} owner = ?", (owner,))
        self.connection.execute("DELETE FROM consumers WHERE id = ?", (owner,))

    def forget_the_dead(self) -> None:
        """Give back what consumers of an earlier boot held, and forget consumers that stopped beating and hold nothing."""
        self.connection.execute(
            f"{_EXPIRED} owner NOT IN (SELECT id FROM consumers WHERE boot = ?)", (self.clock.boot,)
        )
        self.connection.execute(
            "DELETE FROM consumers WHERE (lease_until <= ? OR boot <> ?)"
            " AND id NOT IN (SELECT owner FROM messages WHERE state = 2)",
            (self.clock.boottime(), self.clock.boot),
        )

    # -- what is there ------------------------------------------------------------------------------------------------

    def depth(self, queue: str) -> QueueDepth:
        """Counts as they are at this moment, whether or not anybody has moved the rows yet."""
        wall, boot = self.clock.time(), self.clock.boottime()
        delayed = self._count("state = 1 AND due > ? AND queue = ?", wall, queue)
        in_flight = self._count("state = 2 AND lease_until > ? AND queue = ?", boot, queue)
        ready = self._count("state = 0 AND queue = ?", queue)
        ready += self._count("state = 1 AND due <= ? AND queue = ?", wall, queue)
        ready += self._count("state = 2 AND lease_until <= ? AND queue = ?", boot, queue)
        blocked = self._count("state = 3 AND queue = ? AND ordering_key IS NOT NULL", queue)
        waiting = self._one(_WAITING, queue, wall) if blocked else 0
        due = self._one(_OLDEST, queue)
        return QueueDepth(
            queue=queue,
            ready=ready + blocked - waiting,
            in_flight=in_flight,
            delayed=delayed + waiting,
            dead=dead.count(self.connection, queue),
            oldest_age_seconds=None if due is None else max(0.0, wall - due),
            consumers=self._one(
                "SELECT count(*) FROM consumers WHERE queue = ? AND lease_until > ? AND boot = ?",
                queue,
                boot,
                self.clock.boot,
            ),
            durable=True,
        )

    def queues(self) -> list[str]:
        return [name for (name,) in self.connection.execute("SELECT name FROM queues ORDER BY name")]

    def _count(self, condition: str, *values: object) -> int:
        return int(self._one(f"SELECT count(*) FROM messages WHERE {condition}", *values))

    def _one(self, query: str, *values: object) -> Any:
        return self.connection.execute(query, values).fetchone()[0]


def _is_plain(settlement: Settlement) -> bool:
    """Whether settling it is nothing but the removal of its row."""
    return (
        settlement.kind in ("ack", "drop")
        and not settlement.outputs
        and settlement.delivery.envelope.ordering_key is None
    )
