"""Every layer of a configuration, read and merged key by key, with the origin of each value.

Argument > process flag > environment > file > class attribute > default. Arguments and class attributes are kept with the
configuration, so that a reload says them again; the others are read anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings

from pythia.config.environment import CONFIG_FILE_VARIABLE, UnreadableError, decode, read_environment
from pythia.config.keys import Key, keys_of, sections_of
from pythia.config.problems import Problem, config_error, shorten, show, unknown
from pythia.config.process import LAYERS, Entry, Layer, Origin, config_file, flag_name, process_flags
from pythia.config.tomlfile import TomlFile, read_toml
from pythia.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pythia.config.schema import WorkerConfig

DEFAULT_FILE = Path("config/pythia.toml")
_ARGUMENT = Origin("argument")
_DEFAULT = Origin("default")
_DEFAULT_TABLES = Entry(MappingProxyType({}), _DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What each layer said when it was read, and what it takes to read them again."""

    path: Path | None = None  # of `load`; None: flag, variable, or the default path
    found: Path | None = None  # the file that was read
    worker: str | None = None  # whose table of [workers.NAME] is laid over the layer that it was written in
    defaults: Layer = field(default_factory=dict)
    declared: Layer = field(default_factory=dict)
    file: Layer = field(default_factory=dict)
    environment: Layer = field(default_factory=dict)
    flags: Layer = field(default_factory=dict)
    arguments: Layer = field(default_factory=dict)

    def layers(self) -> list[Layer]:
        """The weakest first."""
        return [self.defaults, self.declared, self.file, self.environment, self.flags, self.arguments]


def read_sources(cls: type[BaseModel], known: Sources) -> tuple[Sources, list[Problem]]:
    """Read file, environment and flags; path, worker, arguments and class attributes are those of ``known``.

    Raises:
        ConfigError: the file cannot be read or parsed. What is wrong with single keys is in the result instead.
    """
    strangers = _strangers(cls)
    found, file, file_problems = _file_layer(cls, known, strangers)
    environment, environment_problems = read_environment(cls, os.environ, strangers)
    flags, flag_problems = _flag_layer(cls)
    read = replace(known, found=found, defaults=_default_layer(cls), file=file, environment=environment, flags=flags)
    problems = [*file_problems, *environment_problems, *flag_problems]
    if getattr(cls, "pythia_shares_sources", False):
        problems = [problem for problem in problems if not problem.unknown or problem.nearest is not None]
    return read, problems


def merge(cls: type[BaseModel], sources: Sources) -> tuple[Layer, list[Problem]]:
    """The strongest entry of each key, and what is wrong with the worker's table, if there is one."""
    if sources.worker is None:
        return _merged(sources.layers()), []
    layers, problems = _with_table(cls, sources.layers(), sources.worker)
    merged = dict(_merged(layers))
    merged.pop("workers", None)  # they are the service's; this is one of them
    if getattr(cls, "pythia_shares_sources", False):
        problems = [problem for problem in problems if not problem.unknown or problem.nearest is not None]
    return merged, problems


def _merged(layers: list[Layer]) -> Layer:
    merged: dict[str, Entry] = {}
    for layer in layers:
        merged.update(layer)
    queue, queues = merged.get("queue"), merged.get("queues")
    if queue and queues and LAYERS.index(queue.origin.layer) > LAYERS.index(queues.origin.layer):
        del merged["queues"]  # it wins over `queue` where both are said in one place, not over a stronger voice
    return merged


def nested(entries: Layer) -> dict[str, Any]:
    """The values, in their sections."""
    tree: dict[str, Any] = {}
    for name, entry in entries.items():
        *sections, last = name.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = entry.value
    return tree


def flatten(
    cls: type[BaseModel],
    tree: Mapping[str, Any],
    origin: Callable[[str], Origin],
    strangers: frozenset[str] = frozenset(),
) -> tuple[dict[str, Entry], list[Problem]]:
    """The entries of a nested mapping, and what in it is no key of ``cls``. A dotted name counts as nested."""
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    keys, sections = keys_of(cls), sections_of(cls)
    left = [(str(name), value) for name, value in reversed(list(tree.items()))]
    while left:
        name, value = left.pop()
        if name in keys:
            entries[name] = Entry(_sealed(cls, keys[name], value), origin(name))
        elif name in sections:
            inner = _as_table(value)
            if inner is None:
                problems.append(Problem(key=name, source=str(origin(name)), sentence="must be a table of settings"))
            else:
                left += [(f"{name}.{part}", deeper) for part, deeper in reversed(list(inner.items()))]
        elif name not in strangers:
            problems.append(unknown(name, [*keys, *sections], key=name, source=str(origin(name))))
    return entries, problems


def _sealed(cls: type[BaseModel], key: Key, value: Any) -> Any:
    """Secrets are wrapped on arrival, so that nothing on the way can print one."""
    if key.name == "workers" and isinstance(value, Mapping):
        secrets = {name for member in _family(cls) for name, key in keys_of(member).items() if key.secret}
        return {name: _sealed_table(table, secrets, "") for name, table in value.items()}
    return SecretStr(value) if key.secret and key.shape == "scalar" and isinstance(value, str) else value


def _sealed_table(value: Any, secrets: set[str], name: str) -> Any:
    if isinstance(value, Mapping):
        return {part: _sealed_table(inner, secrets, f"{name}.{part}".lstrip(".")) for part, inner in value.items()}
    return SecretStr(value) if name in secrets and isinstance(value, str) else value


def _as_table(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {fields[name].alias or name: getattr(value, name) for name in sorted(value.model_fields_set)}
    return value if isinstance(value, Mapping) else None


def argument_layer(cls: type[BaseModel], overrides: Mapping[str, Any]) -> tuple[dict[str, Entry], list[Problem]]:
    """The arguments of a constructor, as a layer, and those that are no keys."""
    return flatten(cls, overrides, lambda _key: _ARGUMENT)


def class_layer(cls: type[BaseModel], declared: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """What a worker class declares, as a layer; ``where`` is the class's name.

    Raises:
        ConfigError: one of them is no key that a class may declare.
    """
    entries, problems = flatten(cls, declared, lambda _key: Origin("class", where))
    keys = keys_of(cls)
    problems += [
        Problem(key=name, source=str(entry.origin), sentence="is not for a class to declare")
        for name, entry in entries.items()
        if not keys[name].declared_by_class
    ]
    if problems:
        raise config_error(problems)
    timeout = entries.get("handler_timeout_seconds")
    if timeout is not None and timeout.value is None:
        entries["handler_timeout_seconds"] = Entry(0, timeout.origin)  # None in Python, 0 where there is no None
    return entries


def _default_layer(cls: type[BaseModel]) -> Layer:
    """What a configuration class says by giving a section another default; the section's other keys keep theirs."""
    sections = {field.alias or name: field.default for name, field in cls.model_fields.items()}
    tree = {name: default for name, default in sections.items() if isinstance(default, BaseModel)}
    return flatten(cls, tree, lambda _key: _DEFAULT)[0]


def _flag_layer(cls: type[BaseModel]) -> tuple[Layer, list[Problem]]:
    entries, problems = flatten(cls, process_flags(), lambda key: Origin("flag", flag_name(key)))
    keys = keys_of(cls)
    for name, entry in list(entries.items()):
        if isinstance(entry.value, str):
            try:
                entries[name] = Entry(decode(keys[name], entry.value), entry.origin)
            except UnreadableError as error:
                value = shorten(show(keys[name], entry.value))
                problems.append(Problem(key=name, source=str(entry.origin), value=value, sentence=str(error)))
                del entries[name]
    return entries, problems


def _file_layer(
    cls: type[BaseModel], known: Sources, strangers: frozenset[str]
) -> tuple[Path | None, Layer, list[Problem]]:
    """The file's path, what it says, and what is wrong with that. One that was read before must be there again."""
    file = _find_file(known.path)
    if file is None and known.found is not None:
        raise ConfigError(
            f"the configuration file {known.found} was read before and is not there any more: without it everything would "
            "have its default; an empty file says that this is meant",
            source=str(known.found),
        )
    if file is None:
        return None, {}, []
    entries, problems = flatten(cls, file.tree, lambda key: Origin("file", str(file.path), file.line(key)), strangers)
    return file.path, entries, problems


def _find_file(path: Path | None) -> TomlFile | None:
    if path is not None:
        return read_toml(path, "given to load()")
    flag = config_file()
    if flag is not None:
        return read_toml(flag, "--config")
    variable = os.environ.get(CONFIG_FILE_VARIABLE)
    if variable == "":
        raise ConfigError(
            f"{CONFIG_FILE_VARIABLE} names no file: set it to a path, or unset it", source=CONFIG_FILE_VARIABLE
        )
    if variable is not None:
        return read_toml(Path(variable), CONFIG_FILE_VARIABLE)
    return read_toml(DEFAULT_FILE, "the default path") if _exists(DEFAULT_FILE) else None


def _exists(path: Path) -> bool:
    """Whether something is there: a file that may not be looked at is, and reading it then says so."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _strangers(cls: type[BaseModel]) -> frozenset[str]:
    """Keys and sections of the other configuration classes in this process.

    They share file and environment with ``cls``; a plain ``WorkerConfig()`` beside a ``ShopConfig`` must not take its keys
    for misspelt ones.
    """
    names: set[str] = set()
    for other in _family(cls):
        names |= keys_of(other).keys() | sections_of(other)
    return frozenset(names - keys_of(cls).keys() - sections_of(cls))


def _family(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The configuration class that ``cls`` comes from, and all that come from it."""
    left = [[ancestor for ancestor in cls.__mro__ if issubclass(ancestor, BaseSettings)][-2]]
    while left:
        member = left.pop()
        left += member.__subclasses__()
        yield member


def _with_table(cls: type[BaseModel], layers: list[Layer], worker: str) -> tuple[list[Layer], list[Problem]]:
    """The layers with ``[workers.<worker>]`` laid over the layer that it was written in; a reload may not find it any more."""
    place = max((index for index, layer in enumerate(layers) if "workers" in layer), default=None)
    tables = _DEFAULT_TABLES if place is None else layers[place]["workers"]
    if place is None or not isinstance(tables.value, Mapping) or not isinstance(tables.value.get(worker), Mapping):
        return layers, [Problem(key=f"workers.{worker}", source=str(tables.origin), sentence="is not there any more")]
    table = {name: value for name, value in tables.value[worker].items() if name != "target"}
    origin = replace(tables.origin, where=f"[workers.{worker}] of {tables.origin.where or 'an argument'}", line=None)
    entries, problems = flatten(cls, {"worker_name": worker, **table}, lambda _key: origin, _strangers(cls))
    return [*layers[: place + 1], entries, *layers[place + 1 :]], problems


def origins(config: WorkerConfig) -> Mapping[str, Origin]:
    """Where each key of ``config`` was said, defaults included, in the order of the keys."""
    said = config.pythia_origins()
    return MappingProxyType({name: said.get(name, _DEFAULT) for name in keys_of(type(config))})


def was_set(config: WorkerConfig, key: str) -> bool:
    """Whether an operator or the code said ``key`` (argument, flag, environment, file), whatever its value.

    Raises:
        KeyError: there is no such key.
    """
    return origins(config)[key].layer not in ("default", "class")
