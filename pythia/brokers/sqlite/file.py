"""Opening a queue file, and refusing one that must not be touched.

Nothing is ever deleted, recreated or repaired here: a file that is not ours, newer than we are, corrupt or out of reach is
an error in one line that names it and what to do. SQLite alone opens the file: whoever closes a descriptor of it drops the
locks that every connection of this process has on it, in the middle of their transactions.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pythia.brokers.sqlite.trouble import BUSY, code_of, in_words
from pythia.errors import BrokerError, StoreError

APPLICATION_ID = 0x50595448  # "PYTH"
SCHEMA_VERSION = 1
MIGRATIONS: dict[int, str] = {}  # SQL that leads from this version to the next

_CHECKED_BYTES = 64 << 20  # a larger file is not read through at every start
_NEEDED_VERSION = (3, 35, 0)  # UPDATE … RETURNING
_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "virtiofs",
)


@dataclass(frozen=True, slots=True)
class QueueFile:
    """An open file: its connection (of the thread that opened it), and what is true of it."""

    path: Path
    connection: sqlite3.Connection
    journal: str
    network: str | None
    identity: tuple[int, int]

    @property
    def detail(self) -> str:
        """One line for ``check`` and the banner."""
        words = f"{self.path}, journal mode {self.journal}, SQLite {sqlite3.sqlite_version}"
        if self.network is None:
            return words
        return f"{words}; on {self.network}, where locks may not hold between machines: use a local disk"

    def is_in_place(self) -> bool:
        """Whether the path still names this file."""
        try:
            return _identity(self.path) == self.identity
        except OSError:
            return False


def safe_journal(version: tuple[int, int, int], *, network: bool = False) -> str:
    """The journal mode for a new file.

    Before 3.51.3 (and the fixes of 3.50.7 and 3.44.6) SQLite can corrupt a WAL file that several connections write and
    checkpoint at once; a WAL cannot be shared over a network. A rollback journal has neither flaw.
    """
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return "wal" if fixed and not network else "truncate"


def open_file(path: Path, *, timeout: float) -> QueueFile:
    """Open the queue file at ``path``, made when there is none (an empty file is none); waits ``timeout`` for its lock.

    Raises:
        StoreError: it cannot be used. BrokerUnavailable: it is locked for longer than ``timeout``.
    """
    path = path.absolute()
    _refuse_what_is_no_file(path)
    if sqlite3.sqlite_version_info < _NEEDED_VERSION:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old for {path}: 3.35 or newer is needed")
    try:
        connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, cached_statements=256)
    except sqlite3.Error as error:
        raise _at_start(error, path) from error
    try:
        return _prepared(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise _at_start(error, path) from error
    except BaseException:
        connection.close()
        raise


def _prepared(path: Path, connection: sqlite3.Connection) -> QueueFile:
    network = network_of(path)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA mmap_size=0")
    connection.execute("PRAGMA temp_store=MEMORY")
    empty = _refuse_what_is_not_ours(path, connection)
    if not empty and path.stat().st_size < _CHECKED_BYTES:
        _refuse_what_is_damaged(path, connection)
    journal = _set_journal(path, connection, empty=empty, wanted=safe_journal(_version(), network=network is not None))
    _bring_up_to_date(path, connection)
    return QueueFile(path, connection, journal, network, _identity(path))


def _refuse_what_is_no_file(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError(f"queue file {path}: there is no directory {path.parent}; create it first")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        _refuse_read_only(path.parent, f"queue file {path} cannot be created: directory {path.parent}")
        return
    except OSError as error:
        raise StoreError(f"queue file {path} cannot be reached: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise StoreError(f"queue file {path} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise StoreError(f"queue file {path} is not a regular file; name another one")
    _refuse_read_only(path, f"queue file {path}")
    _refuse_read_only(path.parent, f"queue file {path} needs a journal beside it, and directory {path.parent}")


def _refuse_read_only(path: Path, subject: str) -> None:
    if not os.access(path, os.W_OK):
        raise StoreError(f"{subject} is read-only for this user; make it writable or name another file")


def _refuse_what_is_not_ours(path: Path, connection: sqlite3.Connection) -> bool:
    """Whether the file is empty, ours to fill."""
    empty = bool(connection.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID and not (empty and application == 0):
        raise StoreError(f"{path} is a SQLite database, but not a Pythia queue; name another file (it was not changed)")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"queue file {path} has version {version}, this Pythia knows {SCHEMA_VERSION}: upgrade Pythia, or name another file"
        )
    return empty


def _refuse_what_is_damaged(path: Path, connection: sqlite3.Connection) -> None:
    found = " ".join(str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]).split())
    if found != "ok":
        raise StoreError(f"queue file {path} is corrupt; put it aside and restore a copy (it was not changed): {found}")


def _set_journal(path: Path, connection: sqlite3.Connection, *, empty: bool, wanted: str) -> str:
    """The mode that the file has from now on.

    A file that began with a rollback journal keeps it: another process with an older library may have it open, and would
    follow into the WAL without a word.
    """
    current = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    if current == "wal" == wanted:
        return current
    mode = wanted if empty else "truncate"
    try:
        return str(connection.execute(f"PRAGMA journal_mode={mode}").fetchone()[0])
    except sqlite3.OperationalError as error:
        if code_of(error) != BUSY or current != "wal":
            raise
        raise StoreError(
            f"queue file {path} is in WAL mode, which SQLite {sqlite3.sqlite_version} may corrupt, and another process has it"
            " open: stop that process once, or use SQLite 3.51.3 or newer"
        ) from error


def _bring_up_to_date(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _refuse_what_is_not_ours(path, connection):
            _run(connection, Path(__file__).with_name("schema.sql").read_text(encoding="utf-8"))
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        _migrate(path, connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise StoreError(
                f"queue file {path} has version {version}, from which this Pythia (version {SCHEMA_VERSION}) cannot go on:"
                " empty it with the Pythia that made it, or name another file"
            )
        _run(connection, MIGRATIONS[version])
        version += 1
        connection.execute(f"PRAGMA user_version={version}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; ``executescript`` would commit the transaction that they belong to."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def network_of(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network file system that ``path`` is on; None for a local one, or where nobody can tell."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    best, kind = "", ""
    where = f"{path.parent.resolve()}/"
    for line in mounts.splitlines():
        point = line.split()[1].replace("\\040", " ")
        if len(point) >= len(best) and where.startswith(point.rstrip("/") + "/"):
            best, kind = point, line.split()[2]
    return kind if kind in _NETWORK else None


def _version() -> tuple[int, int, int]:
    major, minor, patch = sqlite3.sqlite_version_info
    return major, minor, patch


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _at_start(error: sqlite3.Error, path: Path) -> BrokerError:
    """At the start only a lock is worth waiting for; what is full or read-only then is the operator's."""
    words = in_words(error, path)
    return words if code_of(error) == BUSY else StoreError(str(words))
