"""What SQLite's errors mean: wait for it to heal, or never.

Both become one line that names the file and what to do. Nothing of the driver leaves this package.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pythia.errors import BrokerError, BrokerUnavailable, StoreError

FULL, IOERR, BUSY = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY

_PASSING = {
    BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked",
    FULL: "cannot grow: the disk is full; free some space",
    IOERR: "cannot be read or written: the disk answers with an I/O error",
    sqlite3.SQLITE_READONLY: "cannot be written: it, its directory or its file system is read-only for this user",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened, or its journal not be created beside it",
    sqlite3.SQLITE_NOMEM: "cannot be worked on: out of memory",
    sqlite3.SQLITE_PROTOCOL: "cannot be locked",
    sqlite3.SQLITE_PERM: "may not be used by this user",
    sqlite3.SQLITE_INTERRUPT: "was interrupted",
}

_LASTING = {
    sqlite3.SQLITE_CORRUPT: "is corrupt; put it aside and restore a copy (it was not changed)",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; name another file (it was not changed)",
}


def code_of(error: BaseException) -> int:
    """SQLite's primary result code, 0 when the error is not SQLite's."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def passes(error: BaseException) -> bool:
    """Whether waiting may heal it: nothing was changed, and the same may be asked again."""
    return code_of(error) in _PASSING and not _moved(error)


def lasts(error: BaseException) -> bool:
    """Whether this file is beyond use for this process."""
    return code_of(error) in _LASTING or _moved(error)


def in_words(error: BaseException, path: Path) -> BrokerError:
    """One line for the operator."""
    if _moved(error):
        return replaced(path)
    code = code_of(error)
    if code in _PASSING:
        return BrokerUnavailable(f"queue file {path} {_PASSING[code]} ({error})")
    return StoreError(f"queue file {path} {_LASTING.get(code, 'cannot be used')} ({error})")


def replaced(path: Path) -> StoreError:
    """The file's name stands for another file by now, or for none."""
    return StoreError(
        f"queue file {path} was deleted or replaced while it was open: messages written now would be lost with it; "
        "put the file back, or start again with the new one"
    )


def _moved(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED
