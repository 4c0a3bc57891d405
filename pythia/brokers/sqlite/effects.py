"""Which effects were done: the idempotency store of a queue file, as SQL over one connection."""

from __future__ import annotations

import sqlite3

from pythia.broker import Claim

_SWEPT_AT_ONCE = 100  # rows; with every claim some of what expired goes

_PUT = "INSERT INTO effects VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET owner = ?2, done = ?3, expires = ?4"


def claim(connection: sqlite3.Connection, key: str, owner: str, ttl: float, now: float) -> Claim:
    """Whether ``owner`` may run the effect ``key``; a claim lasts ``ttl`` seconds."""
    _sweep(connection, now)
    match _found(connection, key, now):
        case (_, True):
            return Claim.DONE
        case (other, False) if other != owner:
            return Claim.BUSY
    connection.execute(_PUT, (key, owner, 0, now + ttl))
    return Claim.OURS


def done(connection: sqlite3.Connection, key: str, owner: str, ttl: float, now: float) -> bool:
    """Remember for ``ttl`` seconds that the effect was done; False when the claim is another's by now."""
    found = _found(connection, key, now)
    if found is not None and found[0] != owner:
        return False
    connection.execute(_PUT, (key, owner, 1, now + ttl))
    return True


def release(connection: sqlite3.Connection, key: str, owner: str) -> None:
    """Give a claim back, if it is ours and nothing was done."""
    connection.execute("DELETE FROM effects WHERE key = ? AND owner = ? AND done = 0", (key, owner))


def _found(connection: sqlite3.Connection, key: str, now: float) -> tuple[str, bool] | None:
    row = connection.execute("SELECT owner, done FROM effects WHERE key = ? AND expires > ?", (key, now)).fetchone()
    return None if row is None else (row[0], bool(row[1]))


def _sweep(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(
        f"DELETE FROM effects WHERE key IN (SELECT key FROM effects WHERE expires <= ? LIMIT {_SWEPT_AT_ONCE})", (now,)
    )
