"""What a process has in hand at this moment, in a small file that outlives it, whatever ends it.

A *hand* is a file mapped into memory, with a slot for each message whose handling has begun: writing it is a copy of some
bytes, no system call, and the kernel keeps what a killed process wrote. Nothing is ever synced: a machine that lost its
power has no process that died of a message. Beside it lies a file for the process's last words. The owner holds a lock on its
hand as long as it lives; it is a record lock, which a forked child does not inherit. ``left`` says that the owner went in
peace.

Closing any descriptor of a file gives up the record locks of the whole process on it: so nobody here opens a hand of its
own process a second time.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pythia.core.lastwords import OUT_OF_MEMORY, OomKills, cause_of

SLOT_BYTES = 128
LONGEST_KEY = SLOT_BYTES - 1
NO_SLOT = -1

_HEADER = struct.Struct("<8sIB3xQQQ")  # magic, pid, left, oom kills: group, in it, on the host
_MAGIC = b"PYTHIA-1"
_HEADER_BYTES = 64
_LEFT_AT = 12
_SUFFIX, _WORDS = ".hand", ".words"

_ours: set[Path] = set()  # hands of this process
_one_at_a_time = threading.Lock()  # record locks do not keep threads apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a process ended that did not leave in peace. ``cause`` None: nothing says that it died by itself."""

    pid: int
    in_hand: tuple[str, ...]
    cause: str | None


class Hand:
    """The hand of this process."""

    def __init__(self, directory: Path, slots: int, kills: OomKills) -> None:
        """Made under ``locked``, so that nobody takes it for one that was left.

        Raises:
            OSError: it cannot be made; nothing is left behind.
        """
        self.path = directory / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        size = _HEADER_BYTES + slots * SLOT_BYTES
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _fill(self._file, size)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self.words = os.open(self.path.with_suffix(_WORDS), flags, 0o600)
        except OSError:
            os.close(self._file)
            self.path.unlink()
            raise
        _ours.add(self.path)
        self._map = mmap.mmap(self._file, size)
        self._map[: _HEADER.size] = _HEADER.pack(_MAGIC, os.getpid(), 0, kills.group, kills.in_group, kills.on_host)
        self._free = [_HEADER_BYTES + number * SLOT_BYTES for number in range(slots)]

    def take(self, key: bytes) -> int:
        """A message is in hand from now on; give the answer to ``let_go``. More than there are slots for are not noted."""
        if not self._free:
            return NO_SLOT
        slot = self._free.pop()
        self._map[slot + 1 : slot + 1 + len(key)] = key
        self._map[slot] = len(key)
        return slot

    def let_go(self, slot: int) -> None:
        if slot != NO_SLOT:
            self._map[slot] = 0
            self._free.append(slot)

    def beat(self, kills: OomKills) -> None:
        """How many the kernel had killed while this process lived; and nobody who tidies up takes the hand for old."""
        left = self._map[_LEFT_AT]
        self._map[: _HEADER.size] = _HEADER.pack(_MAGIC, os.getpid(), left, kills.group, kills.in_group, kills.on_host)
        os.utime(self._file)

    def leave(self) -> None:
        """In peace. What is in hand is nobody's fault; the files are gone."""
        self._map[_LEFT_AT] = 1
        _remove(self.path)
        os.close(self.words)
        os.close(self._file)  # the map stays: a handler that does not end may still let go
        _ours.discard(self.path)


def _fill(file: int, size: int) -> None:
    """Zeros, written: a page of the map that a full disk cannot give would be a SIGBUS."""
    if os.write(file, bytes(size)) != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Nobody else of this user on this host looks at hands or at who is suspected meanwhile: some milliseconds."""
    with _one_at_a_time:
        file = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def any_left(directory: Path) -> bool:
    """Whether a process is gone and its hand is still there; to be looked at again under ``locked``."""
    return any(_is_left(path) for path in _hands(directory))


def collect(directory: Path, kills: OomKills) -> list[Death]:
    """Take up the hands of those that are gone. Under ``locked``."""
    left = [path for path in _hands(directory) if _is_left(path)]
    deaths = [death for path in left if (death := _read(path, kills)) is not None]
    for path in left:
        _remove(path)
    return deaths


def _hands(directory: Path) -> list[Path]:
    return [path for path in directory.glob(f"*{_SUFFIX}") if path not in _ours]


def _is_left(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # somebody else took it up
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # its owner lives
    finally:
        os.close(file)
    return True


def _read(path: Path, kills: OomKills) -> Death | None:
    """What the hand says; None of one that left in peace, or was never written."""
    try:
        content = path.read_bytes()
        words = path.with_suffix(_WORDS).read_bytes()
    except OSError:
        return None
    if len(content) < _HEADER_BYTES or not content.startswith(_MAGIC):
        return None
    _, pid, left, group, in_group, on_host = _HEADER.unpack_from(content)
    if left:
        return None
    before = OomKills(group=group, in_group=in_group, on_host=on_host)
    cause = cause_of(words) or (OUT_OF_MEMORY if kills.moved_since(before) else None)
    return Death(pid=pid, in_hand=tuple(_keys(content)), cause=cause)


def _keys(content: bytes) -> Iterator[str]:
    for at in range(_HEADER_BYTES, len(content) - SLOT_BYTES + 1, SLOT_BYTES):
        if length := content[at]:
            yield content[at + 1 : at + 1 + length].decode(errors="replace")


def _remove(path: Path) -> None:
    for file in (path.with_suffix(_WORDS), path):
        with suppress(OSError):
            file.unlink(missing_ok=True)
