"""A queue file is opened as it should be, or refused in one line and left as it was."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pythia.brokers.sqlite import SqliteBroker, file
from pythia.brokers.sqlite.file import APPLICATION_ID, SCHEMA_VERSION, network_of, open_file, safe_journal
from pythia.errors import BrokerUnavailable, StoreError
from pythia.message import Envelope


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


def make(path: Path) -> None:
    open_file(path, timeout=1.0).connection.close()


def value(path: Path, pragma: str) -> object:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    finally:
        connection.close()


def run(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refused(path: Path) -> str:
    """The one line with which ``path`` is refused, and left as it was."""
    before = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None
    with pytest.raises(StoreError) as caught:
        open_file(path, timeout=0.2)
    assert before == (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 35, 0), "truncate"),
        ((3, 40, 1), "truncate"),
        ((3, 44, 5), "truncate"),
        ((3, 44, 6), "wal"),
        ((3, 44, 9), "wal"),
        ((3, 45, 0), "truncate"),
        ((3, 45, 6), "truncate"),
        ((3, 50, 6), "truncate"),
        ((3, 50, 7), "wal"),
        ((3, 51, 0), "truncate"),
        ((3, 51, 2), "truncate"),
        ((3, 51, 3), "wal"),
        ((3, 52, 0), "wal"),
        ((4, 0, 0), "wal"),
    ],
)
def test_wal_is_chosen_only_where_the_library_is_sound(version, mode):
    assert safe_journal(version) == mode


def test_wal_is_never_chosen_on_a_network_file_system():
    assert safe_journal((3, 52, 0), network=True) == "truncate"


def test_a_new_file_is_made_with_our_name_and_version(path):
    opened = open_file(path, timeout=1.0)
    assert opened.connection.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL"
    assert opened.connection.execute("PRAGMA mmap_size").fetchone()[0] == 0
    opened.connection.close()
    assert (value(path, "application_id"), value(path, "user_version")) == (APPLICATION_ID, SCHEMA_VERSION)


def test_an_empty_file_is_a_new_one(path):
    path.touch()
    make(path)
    assert value(path, "application_id") == APPLICATION_ID


def test_a_file_may_be_opened_again_and_by_two_at_once(path):
    first, second = open_file(path, timeout=1.0), open_file(path, timeout=1.0)
    first.connection.close()
    second.connection.close()


def test_the_detail_names_the_absolute_path_and_the_journal_mode(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    opened = open_file(Path("queue.db"), timeout=1.0)
    opened.connection.close()
    assert opened.detail == f"{path}, journal mode {opened.journal}, SQLite {sqlite3.sqlite_version}"


def test_a_network_file_system_is_named_in_the_detail(path, monkeypatch):
    monkeypatch.setattr(file, "network_of", lambda _path: "nfs4")
    opened = open_file(path, timeout=1.0)
    opened.connection.close()
    assert "nfs4" in opened.detail
    assert opened.journal == "truncate"


def test_the_file_system_is_the_one_of_the_longest_mount_point():
    mounts = "/dev/sda / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\n/dev/sdb /data/fast ext4 rw 0 0\nh:/y /a\\040b cifs rw 0 0\n"
    assert network_of(Path("/data/q.db"), mounts) == "nfs4"
    assert network_of(Path("/data/fast/q.db"), mounts) is None
    assert network_of(Path("/database/q.db"), mounts) is None
    assert network_of(Path("/a b/q.db"), mounts) == "cifs"


def test_a_missing_directory_is_named(tmp_path):
    assert "create it first" in refused(tmp_path / "missing" / "queue.db")


def test_a_directory_is_no_queue(tmp_path):
    assert "is a directory" in refused(tmp_path)


def test_a_pipe_is_no_queue(path):
    os.mkfifo(path)
    assert "not a regular file" in refused(path)


@pytest.mark.parametrize("content", [b"hello, I am a diary\n" * 100, b"SQLite format 2\0" + b"x" * 5000])
def test_another_kind_of_file_is_refused(path, content):
    path.write_bytes(content)
    assert "not a SQLite database" in refused(path)


def test_a_header_alone_is_refused(path):
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 200)
    refused(path)


def test_somebody_elses_database_is_refused(path):
    run(path, "CREATE TABLE recipes (name TEXT)")
    assert "not a Pythia queue" in refused(path)


def test_another_applications_empty_database_is_refused(path):
    run(path, "PRAGMA application_id=4711", "PRAGMA user_version=3")
    assert "not a Pythia queue" in refused(path)


def test_a_newer_file_is_refused_with_both_versions(path):
    make(path)
    run(path, "PRAGMA user_version=99")
    line = refused(path)
    assert "version 99" in line
    assert f"knows {SCHEMA_VERSION}" in line


def test_an_older_file_without_a_way_on_is_refused_with_both_versions(path, monkeypatch):
    make(path)
    monkeypatch.setattr(file, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(file, "MIGRATIONS", {1: "CREATE TABLE one (a);"})
    line = refused(path)
    assert "version 2" in line
    assert "version 3" in line
    assert value(path, "user_version") == 1


def test_an_older_file_is_migrated_step_by_step(path, monkeypatch):
    make(path)
    monkeypatch.setattr(file, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(file, "MIGRATIONS", {1: "CREATE TABLE one (a);\nCREATE TABLE two (a);", 2: "DROP TABLE one;"})
    make(path)
    assert value(path, "user_version") == 3
    run(path, "SELECT a FROM two")


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    make(path)
    monkeypatch.setattr(file, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(file, "MIGRATIONS", {1: "CREATE TABLE one (a);\nCREATE TABLE one (a);"})
    refused(path)
    assert value(path, "user_version") == 1


async def fill(path: Path) -> None:
    broker = SqliteBroker(path)
    await broker.connect()
    await broker.publish("q", [Envelope(b"x" * 300, id=str(n)) for n in range(500)])
    await broker.close()


async def test_a_damaged_page_is_found_at_the_start(path):
    await fill(path)
    content = bytearray(path.read_bytes())
    content[8 * 4096 : 9 * 4096] = b"\x5a" * 4096
    path.write_bytes(content)
    assert "corrupt" in refused(path)


async def test_a_truncated_file_is_found_at_the_start(path):
    await fill(path)
    path.write_bytes(path.read_bytes()[: 10 * 4096])
    assert "corrupt" in refused(path)


def as_a_user_without_rights(monkeypatch, *denied: Path) -> None:
    """Root may write everything; the question that the code asks is answered as for anybody else."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in denied and allowed(path, mode))


def test_a_read_only_file_is_refused(path, monkeypatch):
    make(path)
    as_a_user_without_rights(monkeypatch, path)
    assert f"queue file {path} is read-only" in refused(path)


def test_a_read_only_directory_is_refused(path, monkeypatch):
    make(path)
    as_a_user_without_rights(monkeypatch, path.parent)
    assert f"directory {path.parent} is read-only" in refused(path)


def test_a_file_cannot_be_made_in_a_read_only_directory(path, monkeypatch):
    as_a_user_without_rights(monkeypatch, path.parent)
    assert "cannot be created" in refused(path)


def test_a_read_only_file_system_is_refused(tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", mount], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting needs rights that this user has not")
    try:
        make(mount / "queue.db")
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        assert "read-only" in refused(mount / "queue.db")
        assert "read-only" in refused(mount / "new.db")
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_disk_without_room_for_the_schema_is_refused(tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", mount], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting needs rights that this user has not")
    try:
        (mount / "ballast").write_bytes(b"x" * 57344)
        with pytest.raises(StoreError, match="disk is full"):
            open_file(mount / "queue.db", timeout=0.2)
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_locked_file_is_worth_waiting_for(path):
    make(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BrokerUnavailable, match="locked by another process"):
        open_file(path, timeout=0.05)
    holder.close()
    make(path)


@pytest.fixture
def sound_library(monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 52, 0))


@pytest.fixture
def flawed_library(monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))


def test_a_sound_library_makes_a_wal_file_and_keeps_it(path, sound_library):
    make(path)
    assert value(path, "journal_mode") == "wal"
    assert open_file(path, timeout=1.0).journal == "wal"


def test_a_file_with_a_rollback_journal_keeps_it_under_a_sound_library(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    make(path)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 52, 0))
    opened = open_file(path, timeout=1.0)
    assert opened.journal == "truncate", "an older library may have it open, and would follow into the WAL"
    opened.connection.close()


def test_a_wal_file_that_nobody_has_open_is_converted_by_a_flawed_library(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 52, 0))
    make(path)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    opened = open_file(path, timeout=1.0)
    assert opened.journal == "truncate"
    opened.connection.close()
    assert value(path, "journal_mode") == "delete", "the WAL is off in the file itself"


def test_a_wal_file_that_another_process_has_open_is_refused_by_a_flawed_library(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 52, 0))
    held = open_file(path, timeout=1.0)
    held.connection.execute("SELECT count(*) FROM messages").fetchone()
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    with pytest.raises(StoreError, match="WAL mode") as caught:
        open_file(path, timeout=0.1)
    held.connection.close()
    assert re.search(r"3\.51\.3", str(caught.value))


def test_a_library_without_returning_is_refused(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreError, match=r"3\.35"):
        open_file(path, timeout=0.1)
    assert not path.exists()


async def test_connect_brings_the_refusal_to_whoever_asked(tmp_path):
    broker = SqliteBroker(tmp_path / "missing" / "queue.db")
    for _ in range(2):
        with pytest.raises(StoreError, match="create it first"):
            await broker.connect()
    with pytest.raises(BrokerUnavailable, match="connect"):
        await broker.ping()
    await broker.close()


def test_opening_the_file_once_more_leaves_the_locks_of_this_process_alone(path):
    """A descriptor of the file that is opened beside SQLite drops them all when it is closed, in the middle of a commit."""
    open_file(path, timeout=1.0).connection.close()
    writing = sqlite3.connect(path, isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerUnavailable):
        open_file(path, timeout=0.0)
    other = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
    )
    done = subprocess.run([sys.executable, "-c", other, str(path)], capture_output=True, text=True, check=False)
    assert "database is locked" in done.stderr
    writing.close()
