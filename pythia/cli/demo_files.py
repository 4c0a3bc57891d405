"""What the installed distributions recorded about their files, for ``pythia demo``."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pythia.examples.integrity import RecordedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The files that can be verified, and what cannot."""

    files: Sequence[RecordedFile]
    without_digest: int  # recorded files: RECORD itself, bytecode
    distributions: int
    without_record: int  # distributions whose RECORD is missing or cannot be read


def installed_files(directory: Path | None) -> Installed:
    """Read the records of every distribution in ``directory``, or of those that this interpreter sees.

    It reads RECORD itself: from Python 3.12 on, ``Distribution.files`` leaves out the files that have vanished.
    """
    files: dict[RecordedFile, None] = {}  # what is on sys.path twice is verified once
    bare: set[str] = set()
    distributions = without_record = 0
    for distribution in _distributions(directory):
        distributions += 1
        rows = _record(distribution)
        if rows is None:
            without_record += 1
            continue
        root, name = os.path.realpath(str(distribution.locate_file(""))), _name(rows)
        for path, digest in _entries(rows):
            whole = os.path.normpath(os.path.join(root, path))  # noqa: PTH118 - pathlib keeps the `..` of `../../bin/x`
            algorithm, _, value = digest.partition("=")
            if value:
                files[_file(whole, algorithm, value, name)] = None
            else:
                bare.add(whole)
    return Installed(
        files=tuple(files), without_digest=len(bare), distributions=distributions, without_record=without_record
    )


def _file(path: str, algorithm: str, digest: str, distribution: str) -> RecordedFile:
    return RecordedFile(path=path, algorithm=algorithm, digest=digest.rstrip("="), distribution=distribution)


def _distributions(directory: Path | None) -> Iterable[metadata.Distribution]:
    return metadata.distributions() if directory is None else metadata.distributions(path=[str(directory)])


def _record(distribution: metadata.Distribution) -> list[list[str]] | None:
    try:
        text = distribution.read_text("RECORD")
        return None if text is None else list(csv.reader(text.splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _entries(rows: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Path and digest of each row; a short row has no digest."""
    for row in rows:
        if row and row[0]:
            yield row[0], row[1] if len(row) > 1 else ""


def _name(rows: Iterable[Sequence[str]]) -> str:
    """``rich-13.9.4``: every RECORD names itself; its folder is the distribution's name and version."""
    own = (row[0] for row in rows if row and row[0].endswith(".dist-info/RECORD"))
    return next(own, "?").removesuffix(".dist-info/RECORD")
