"""The environment's layer: which variables are ours, what their text means, and which are misspelt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from pythia.config.keys import ENV_PREFIX, Key, keys_of
from pythia.config.problems import Problem, shorten, show, unknown
from pythia.config.process import Entry, Layer, Origin

CONFIG_FILE_VARIABLE = "PYTHIA_CONFIG_FILE"

_ALIASES = {"PYTHIA_BROKER_URL": "broker.url", "LOG_LEVEL": "log.level"}
_NOT_SETTINGS = {CONFIG_FILE_VARIABLE, "PYTHIA_JOBS_DB"}
_INJECTED = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?$")
_INJECTED_LINK = re.compile(r"(tcp|udp|sctp)://")
_LONGEST_SECRET = 65_536


class UnreadableError(Exception):
    """A text that does not have the shape of its key; its message is the sentence."""


def read_environment(
    cls: type[BaseModel], environ: Mapping[str, str], strangers: frozenset[str]
) -> tuple[Layer, list[Problem]]:
    """What the environment says to ``cls``. ``strangers`` are keys of other configuration classes: not ours, not misspelt."""
    layer: dict[str, Entry] = {}
    problems: list[Problem] = []
    for key in keys_of(cls).values():
        try:
            entry = _entry(key, environ)
        except _ProblemError as bad:
            problems.append(bad.problem)
        else:
            if entry is not None:
                layer[key.name] = entry
    return layer, [*problems, *_misspelt(cls, environ, strangers)]


class _ProblemError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _names(key: Key) -> list[str]:
    """The variables that may hold ``key``, the one that wins first."""
    return [key.env, *(alias for alias, name in _ALIASES.items() if name == key.name)]


def _entry(key: Key, environ: Mapping[str, str]) -> Entry | None:
    for name in _names(key):
        file = f"{name}_FILE"
        if key.secret and file in environ:
            if name in environ:
                raise _ProblemError(
                    Problem(key=key.name, source=f"{name} in the environment", sentence=f"{file} is set too: unset one")
                )
            return _from_file(key, file, environ[file])
        if name in environ:
            return _from_text(key, Origin("environment", name), environ[name])
    return None


def _from_text(key: Key, origin: Origin, text: str) -> Entry:
    try:
        return Entry(decode(key, text), origin)
    except UnreadableError as error:
        problem = Problem(key=key.name, source=str(origin), value=shorten(show(key, text)), sentence=str(error))
        raise _ProblemError(problem) from None


def _from_file(key: Key, name: str, path: str) -> Entry:
    origin = Origin("environment", name)
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LONGEST_SECRET + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise _ProblemError(
            Problem(key=key.name, source=str(origin), sentence=f"the file {path!r} cannot be read: {why}")
        ) from None
    if len(content) > _LONGEST_SECRET:
        raise _ProblemError(
            Problem(key=key.name, source=str(origin), sentence=f"the file {path!r} is too long for a secret")
        )
    return _from_text(key, origin, text.removesuffix("\n").removesuffix("\r"))


def decode(key: Key, text: str) -> Any:
    """What the text of a variable or a flag means to ``key``.

    A list is comma-separated or JSON, a table is JSON, and nothing at all is none where the key may be none.

    Raises:
        UnreadableError: it looks like JSON and is not, or is JSON of another shape.
    """
    if key.optional and text == "":
        return None
    match key.shape:
        case "scalar":
            return SecretStr(text) if key.secret else text
        case "list":
            return decode_list(text)
        case "table":
            return _decode_json(text, dict, "must be a JSON object")


def decode_list(text: str) -> list[Any]:
    """The items of a comma-separated text, spaces around them and empty ones dropped; or of a JSON list."""
    if text.lstrip().startswith("["):
        items: list[Any] = _decode_json(text, list, "must be a comma-separated list or a JSON list")
        return items
    return [item for item in (part.strip() for part in text.split(",")) if item]


def _decode_json(text: str, shape: type, sentence: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableError(sentence) from None
    if not isinstance(value, shape):
        raise UnreadableError(sentence)
    return value


def _misspelt(cls: type[BaseModel], environ: Mapping[str, str], strangers: frozenset[str]) -> Iterator[Problem]:
    known = variables(cls)
    others = {ENV_PREFIX + name.replace(".", "__").upper() for name in strangers}
    others |= {f"{name}_FILE" for name in others}
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and name not in known and name not in others and not _foreign(name, value):
            yield unknown(name, known, key=None, source=f"{name} in the environment")


def variables(cls: type[BaseModel]) -> list[str]:
    """Every variable that says something to ``cls``."""
    names = [(name, key.secret) for key in keys_of(cls).values() for name in _names(key)]
    return [name for name, _ in names] + [f"{name}_FILE" for name, secret in names if secret]


def _foreign(name: str, value: str) -> bool:
    """Whether the variable is for another part of Pythia, or was injected for a service that is called so."""
    if name in _NOT_SETTINGS or name.startswith("PYTHIA_TEST_"):
        return True
    linked = name.endswith("_PORT") and _INJECTED_LINK.match(value) is not None
    return linked or _INJECTED.search(name) is not None
