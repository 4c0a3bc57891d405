"""SQLite: every transaction that changes something, before and after its COMMIT, named by what it holds.

What lies inside a COMMIT is the library's own: its rollback journal is what SQLite's tests are about.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from pythia.brokers.sqlite.store import Store
from tests.crashes.points import Points

SILENT = frozenset({"enter", "beat", "leave", "touch", "know"})  # who consumes, what queues are called
RENEWAL = "renewal of the lease"


def instrument(points: Points) -> None:
    """Watch every file that this process opens from now on."""
    holding = _Holding()
    connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            if statement == "BEGIN IMMEDIATE":
                cursor = super().execute(statement, *args)
                holding.began(self.total_changes)
                return cursor
            if statement != "COMMIT" or (name := holding.name(self.total_changes)) is None:
                return super().execute(statement, *args)
            passing = points.passing_first if name == RENEWAL else points.passing
            passing(f"sqlite: {name}: before COMMIT")
            cursor = super().execute(statement, *args)
            passing(f"sqlite: {name}: committed")
            return cursor

    sqlite3.connect = lambda *args, **kwargs: connect(*args, **{"factory": Watched, **kwargs})
    _name_the_work(holding)


class _Holding:
    """What the transaction that is open holds."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._changes = 0

    def began(self, changes: int) -> None:
        self._parts, self._changes = [], changes

    def add(self, part: str) -> None:
        if part not in self._parts:
            self._parts.append(part)

    def name(self, changes: int) -> str | None:
        """None: nothing about a message."""
        parts = [part for part in self._parts if part not in SILENT]
        if parts:
            return " and ".join([part for part in parts if part != RENEWAL] or [RENEWAL])
        return None if self._parts or changes == self._changes else "a change without a name"


def _name_the_work(holding: _Holding) -> None:
    def named(name: str, part: Callable[[tuple[Any, ...], Any, int], str | None]) -> None:
        method = getattr(Store, name)

        def noted(store: Store, *args: Any, **kwargs: Any) -> Any:
            before = store.connection.total_changes
            answer = method(store, *args, **kwargs)
            found = part(args, answer, store.connection.total_changes - before)
            if found is not None:
                holding.add(found)
            return answer

        setattr(Store, name, noted)

    named("claim", lambda _args, rows, _changes: "claim" if rows else None)
    named("advance", lambda _args, _answer, changes: "what is due or ran out comes back" if changes else None)
    named("settle", lambda args, _answer, _changes: " and ".join(one.kind.replace("_", " ") for one in args[0]))
    named("release", lambda args, _answer, _changes: "release" if list(args[0]) else None)
    named("renew", lambda args, _answer, _changes: RENEWAL if list(args[0]) else None)
    named("put", lambda _args, _answer, _changes: "publish")
    for name in SILENT:
        named(name, lambda _args, _answer, _changes, name=name: name)
