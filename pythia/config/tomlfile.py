"""The configuration file: its tree, and on which line each key stands."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythia.errors import ConfigError

MOST_BYTES = 1_000_000  # a file that is taken for ours by mistake may be of any size

_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"""\s*((?:[A-Za-z0-9_\-."' ]|\t)+?)\s*=""")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_\-]+))\s*(?:\.|$)""")
_FENCE = re.compile(r"\"\"\"|'''")
_PLACE = re.compile(r"^(.*?)\s*\(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A file that was read: its path as it was named, its content, its lines by dotted key."""

    path: Path
    tree: Mapping[str, Any]
    lines: Mapping[str, int]

    def line(self, key: str) -> int | None:
        """Where ``key`` stands, or the nearest table around it; None when it cannot be told."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key.rpartition(".")[0]
        return None


def read_toml(path: Path, named_by: str) -> TomlFile:
    """Read and parse ``path``; ``named_by`` says who asked for it.

    Raises:
        ConfigError: no such file, not readable, a pipe, too large, not UTF-8, not TOML (with line and column).
    """
    text = _read(path, named_by)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(path, text, str(error)) from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: it is nested too deep", source=str(path)) from None
    return TomlFile(path, tree, dict(_lines(text)))


def _read(path: Path, named_by: str) -> str:
    try:
        data = _bytes(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigError(
            f"the configuration file {path} ({named_by}) cannot be read: {why}", source=str(path)
        ) from None
    if data is None:
        raise ConfigError(
            f"the configuration file {path} ({named_by}) is a pipe, which cannot be read again", source=str(path)
        )
    if len(data) > MOST_BYTES:
        raise ConfigError(
            f"the configuration file {path} ({named_by}) is larger than {MOST_BYTES:,} bytes", source=str(path)
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} ({named_by}) is not UTF-8 text: byte {error.start}", source=str(path)) from None


def _bytes(path: Path) -> bytes | None:
    """No more than makes it too large; None: a pipe. Never waits for somebody to write: a reload reads on the event loop."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(MOST_BYTES + 1)


def _syntax(path: Path, text: str, message: str) -> ConfigError:
    place = _PLACE.match(message)
    reason, line, column = place.groups() if place else (message, None, None)
    if line is None:
        line, column = str(text.count("\n") + 1), str(len(text.rpartition("\n")[2]) + 1)
    return ConfigError(f"{path} line {line}, column {column}: not valid TOML: {reason}", source=f"{path} line {line}")


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """A hint for people, so a scan and no second parser: tables and assignments, multi-line texts skipped."""
    table, fence = "", None
    for number, line in enumerate(text.split("\n"), start=1):
        if fence is not None:
            fence = None if fence in line else fence
            continue
        if header := _HEADER.match(line):
            table = _dotted(header[1])
            yield table, number
        elif assignment := _ASSIGNMENT.match(line):
            yield f"{table}.{_dotted(assignment[1])}".lstrip("."), number
            fence = _opened(line)


def _dotted(text: str) -> str:
    return ".".join(quoted or single or bare for quoted, single, bare in _PART.findall(text))


def _opened(line: str) -> str | None:
    """The fence of a multi-line text that begins on this line and does not end on it."""
    fence: str | None = None
    for found in _FENCE.findall(line):
        fence = found if fence is None else (None if found == fence else fence)
    return fence
