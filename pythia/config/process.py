"""Where a setting came from, and the layer that belongs to the whole process: the command line's flags.

Flags are kept here and not in one object, so that a ``WorkerConfig()`` built later, in a reload hook say, sees them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

LayerName = Literal["default", "class", "file", "environment", "flag", "argument"]

LAYERS: tuple[LayerName, ...] = ("default", "class", "file", "environment", "flag", "argument")  # the later one wins


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was said. ``where`` is a variable, a file's path, a flag or a class; "" for arguments and defaults."""

    layer: LayerName
    where: str = ""
    line: int | None = None  # of a file

    def __str__(self) -> str:
        match self.layer:
            case "default":
                return "default"
            case "class":
                return f"class {self.where}" if self.where else "the worker's class"
            case "file":
                return self.where if self.line is None else f"{self.where} line {self.line}"
            case "environment":
                return f"{self.where} in the environment"
            case "flag":
                return self.where
            case "argument":
                return "argument"


class Entry(NamedTuple):
    """One value that a layer gives to one key."""

    value: Any
    origin: Origin


Layer = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class _Process:
    flags: Mapping[str, Any]
    names: Mapping[str, str]
    config_file: Path | None = None
    worker: str | None = None


_process = _Process(MappingProxyType({}), MappingProxyType({}))


def set_process_flags(flags: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Replace the process's flags. Keys are dotted (``"broker.url"``); a text is read as it would be in the environment.

    ``names`` says how a flag is written (``{"http.port": "--port"}``), for error messages and origins.
    """
    global _process  # noqa: PLW0603 - the layer is the process's; replaced as a whole, so a reader never sees half of it
    _process = replace(_process, flags=MappingProxyType(dict(flags)), names=MappingProxyType(dict(names)))


def process_flags() -> Mapping[str, Any]:
    """The flags of this process by dotted key; a spawned child has none until it sets them."""
    return _process.flags


def flag_name(key: str) -> str:
    """How the flag that set ``key`` is written."""
    return _process.names.get(key, "--" + key.replace(".", "-").replace("_", "-"))


def set_config_file(path: str | Path | None) -> None:
    """The file of ``--config``: it wins over ``PYTHIA_CONFIG_FILE`` and the default path. None: no flag."""
    global _process  # noqa: PLW0603 - see set_process_flags
    _process = replace(_process, config_file=None if path is None else Path(path))


def config_file() -> Path | None:
    """What ``--config`` named."""
    return _process.config_file


def set_worker_table(name: str | None) -> None:
    """This process runs the worker of ``[workers.NAME]``: every configuration that is built from now on has that table in it."""
    global _process  # noqa: PLW0603 - see set_process_flags
    _process = replace(_process, worker=name)


def worker_table() -> str | None:
    """Whose table of ``[workers.NAME]`` is this process's own."""
    return _process.worker


def flag_names() -> Mapping[str, str]:
    """How the flags of this process are written, by dotted key."""
    return _process.names
