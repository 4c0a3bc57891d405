"""What can be done to the file of an embedded queue: locked by somebody else, and its disk filled."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pythia.proof.nemesis import Evidence, Shown
from pythia.proof.schedule import FULL_KIND, LOCK_KIND, Kind, Planned

DISK_MEGABYTES = 256
_LOCK_SECONDS = 10.0  # until we have the lock that others use all the time
_BLOCK = b"\0" * (1 << 16)


class QueueFile:
    """The file of a queue, on a disk that may be filled when it is a small one of our own."""

    def __init__(self, path: Path, *, own_disk: bool = False) -> None:
        self._path = path
        self._own_disk = own_disk

    @property
    def kinds(self) -> Sequence[Kind]:
        return (LOCK_KIND, FULL_KIND) if self._own_disk else (LOCK_KIND,)

    def strike(self, planned: Planned) -> contextlib.AbstractContextManager[Evidence]:
        return self._locked(planned) if planned.kind == LOCK_KIND.name else self._full()

    @contextmanager
    def _locked(self, planned: Planned) -> Iterator[Evidence]:
        connection = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            yield lambda: Shown(f"locked for {planned.seconds:.1f} s") if connection.in_transaction else None
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    @contextmanager
    def _full(self) -> Iterator[Evidence]:
        filler = self._path.with_name("filler")
        try:
            _fill(filler)
            yield lambda: Shown(f"{_free(self._path.parent)} bytes free") if _free(self._path.parent) < 4096 else None
        finally:
            filler.unlink(missing_ok=True)


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for block in (_BLOCK, b"\0" * 512):
            with contextlib.suppress(OSError):
                while True:
                    _write(file.fileno(), block)


def _write(file: int, block: bytes) -> None:
    if os.write(file, block) < len(block):
        raise OSError(errno.ENOSPC, "full")


def _free(folder: Path) -> int:
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A small disk in memory, mounted at ``folder``, where we may; None where we may not."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform != "linux" or os.geteuid() != 0 or not _mounted(folder):
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=False, capture_output=True)  # noqa: S603 - ours


def _mounted(folder: Path) -> bool:
    options = ["-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "pythia-verify", str(folder)]
    try:
        done = subprocess.run(["/bin/mount", *options], check=False, capture_output=True)  # noqa: S603 - a folder of ours
    except OSError:
        return False
    return done.returncode == 0
