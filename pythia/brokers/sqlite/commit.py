"""Group commit: many changes in one transaction, one trip to the disk, an outcome for each."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pythia.brokers.sqlite import trouble
from pythia.brokers.sqlite.calls import Change, Question, Setback
from pythia.brokers.sqlite.store import Store

LOCK_SECONDS = 5.0  # how long a transaction waits for other processes
_KNOCK_SECONDS = (0.0005, 0.003)  # between two tries for the lock: SQLite's own waits grow until a process may starve


@dataclass(frozen=True, slots=True)
class _Failed:
    """A change that was rolled back alone."""

    error: Exception


class _Undone(Exception):
    """The whole transaction came to nothing (or, ``in_doubt``, perhaps not); ``divisible``: each change may be tried alone."""

    def __init__(self, error: Exception, *, in_doubt: bool = False, divisible: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.in_doubt = in_doubt
        self.divisible = divisible


class Transactions:
    """The transactions of one connection. ``trouble`` is the last thing that went wrong, None once a commit succeeded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection = store.connection
        self.commits = 0
        self.trouble: Exception | None = None

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes and tell each what became of it. Never raises."""
        try:
            results = self._transact(changes)
        except _Undone as undone:
            self._undone(changes, undone)
            return
        self.commits += 1
        self.trouble = None
        for change, result in zip(changes, results, strict=True):
            if isinstance(result, _Failed):
                self._fail(change, result.error)
            else:
                change.landed(result)

    def ask(self, question: Question) -> None:
        """Read a consistent picture. Never raises."""
        try:
            self._connection.execute("BEGIN")
            value = question.work(self._store)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            question.failed(Setback(error))
        else:
            question.landed(value)
        finally:
            self._roll_back()  # nothing was written

    def data_version(self) -> int | None:
        """A number that changes when another connection commits; None when it cannot be read just now."""
        try:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None

    def _transact(self, changes: Sequence[Change]) -> list[Any]:
        try:
            self._begin()
        except sqlite3.Error as error:
            raise _Undone(error) from error
        try:
            results = [self._attempt(change, alone=len(changes) == 1) for change in changes]
        except Exception as error:
            self._roll_back()
            raise _Undone(error, divisible=not trouble.lasts(error)) from error
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            code = trouble.code_of(error)
            raise _Undone(error, in_doubt=code == trouble.IOERR, divisible=code == trouble.FULL) from error
        return results

    def _begin(self) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        self._connection.execute("PRAGMA busy_timeout=0")
        try:
            while not self._began(last=time.monotonic() >= deadline):
                time.sleep(random.uniform(*_KNOCK_SECONDS))  # noqa: S311 - not a secret
        finally:
            self._connection.execute(f"PRAGMA busy_timeout={int(LOCK_SECONDS * 1000)}")

    def _began(self, *, last: bool) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if last or trouble.code_of(error) != trouble.BUSY:
                raise
            return False
        return True

    def _attempt(self, change: Change, *, alone: bool) -> Any:
        """Carry out one change under a savepoint; without one when there is nobody to protect."""
        if alone:
            return change.work(self._store)
        self._connection.execute("SAVEPOINT change")
        try:
            result = change.work(self._store)
        except Exception as error:
            if not self._connection.in_transaction or trouble.lasts(error):
                raise  # SQLite has rolled everything back
            self._connection.execute("ROLLBACK TO change")
            result = _Failed(error)
        self._connection.execute("RELEASE change")
        return result

    def _undone(self, changes: Sequence[Change], undone: _Undone) -> None:
        if undone.divisible and len(changes) > 1:
            for change in changes:
                self.commit((change,))
            return
        for change in changes:
            self._fail(change, undone.error, in_doubt=undone.in_doubt)

    def _fail(self, change: Change, error: Exception, *, in_doubt: bool = False) -> None:
        if isinstance(error, sqlite3.Error):
            self.trouble = error
        change.failed(Setback(error, in_doubt))

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # it is over, one way or the other
                self._connection.execute("ROLLBACK")
