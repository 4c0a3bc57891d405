"""Where the workers of this user answer: a small file for each process, so that a command finds one by its pid.

A service announces its URL when its HTTP server listens and withdraws it when that ends. The files lie in a directory that
belongs to this user and to nobody else, since a command sends the admin token to the URL that it finds there. A file that
outlived its process (SIGKILL) is recognised by the process's start time and swept away.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def announce(url: str) -> bool:
    """Say that this process answers at ``url``; whether it could be said. Never raises: a worker runs without it too."""
    pid = os.getpid()
    try:
        directory = _directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(directory):
            return False
        draft = directory / f"{pid}.draft"
        draft.write_text(json.dumps({"url": url, "started": _started(pid)}))
        draft.replace(directory / f"{pid}.json")
    except OSError:
        return False
    return True


@contextmanager
def announced(url: str) -> Iterator[None]:
    """While entered, this process is known to answer at ``url``."""
    announce(url)
    try:
        yield
    finally:
        withdraw()


def withdraw() -> None:
    """Take back what this process announced. Idempotent; never raises."""
    _forget(os.getpid())


def running() -> dict[int, str]:
    """The URL of every worker of this user that runs on this machine, by pid."""
    directory = _directory()
    if not _is_ours(directory):
        return {}
    pids = sorted(int(file.stem) for file in directory.glob("*.json") if file.stem.isdecimal())
    return {pid: url for pid in pids if (url := find(pid)) is not None}


def find(pid: int) -> str | None:
    """The URL at which process ``pid`` answers; None if it does not run, or announced nothing."""
    directory = _directory()
    if not _is_ours(directory):
        return None
    try:
        said = json.loads((directory / f"{pid}.json").read_text())
        url, started = said["url"], said["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not _runs(pid) or started != _started(pid):
        _forget(pid)
        return None
    return str(url)


def lasting_directory() -> Path | None:
    """Where this user's workers keep what should outlive their processes: ``pythia`` in ``XDG_STATE_HOME`` if that is set, else
    with the files above. Made if need be; None if somebody else could write to it, or it cannot be made."""
    home = os.environ.get("XDG_STATE_HOME")
    directory = Path(home) / "pythia" if home else _directory()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return directory if _is_ours(directory) else None


def _directory() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"pythia-{os.getuid()}"


def _is_ours(directory: Path) -> bool:
    """Anybody may create a directory in the temporary one; we trust it only if nobody else can write to it."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _forget(pid: int) -> None:
    try:
        (_directory() / f"{pid}.json").unlink(missing_ok=True)
    except OSError:
        return


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # somebody else's, but it runs
    return True


def _started(pid: int) -> str | None:
    """When the process began, in the kernel's ticks; None where there is no /proc. Tells a reused pid apart."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return after_name[19]
