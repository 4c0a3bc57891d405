"""What a configuration class can be told: its keys, read off its fields.

A key is dotted (``broker.url``); its environment name, its reload class and whether it is secret follow from the field.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ENV_PREFIX = "PYTHIA_"


class ReloadClass(StrEnum):
    """What it takes to change a key on a running worker, from the least to the most."""

    HOT = "H"  # applied between two messages
    RESUBSCRIBE = "Q"  # the consumers begin anew
    RECONNECT = "C"  # the connection begins anew
    RESTART = "R"  # the process begins anew

    @property
    def word(self) -> str:
        """``hot``, ``resubscribe``, ``reconnect`` or ``restart``."""
        return self.name.lower()


def setting(
    default: Any,
    reload: ReloadClass,
    meaning: str,
    *,
    shown: str | None = None,
    declared: bool = False,
    presence: bool = False,
    url: bool = False,
    **constraints: Any,
) -> Any:
    """A pydantic field with what Pythia knows about a key.

    ``shown`` is the default in words, where it is computed. ``declared``: a worker class may declare it. ``presence``: that
    it is set at all says something beyond its value.
    """
    extra: dict[str, Any] = {"reload": reload.value}
    extra |= {"default_in_words": shown} if shown else {}
    extra |= {"url": True} if url else {}
    extra |= {"declared_by_class": True} if declared else {}
    extra |= {"presence_matters": True} if presence or declared else {}
    if callable(default):
        return Field(default_factory=default, description=meaning, json_schema_extra=extra, **constraints)
    return Field(default, description=meaning, json_schema_extra=extra, **constraints)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One setting of one configuration class."""

    name: str  # as in the file: "broker.url"
    attributes: tuple[str, ...]  # as in Python
    field: FieldInfo
    meaning: str
    extra: Mapping[str, Any]

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.replace(".", "__").upper()

    @property
    def reload(self) -> ReloadClass:
        """A user's own key is hot unless its ``json_schema_extra`` says otherwise: it is read where it is used."""
        return ReloadClass(self.extra.get("reload", ReloadClass.HOT))

    @property
    def declared_by_class(self) -> bool:
        return bool(self.extra.get("declared_by_class"))

    @property
    def presence_matters(self) -> bool:
        return bool(self.extra.get("presence_matters"))

    @property
    def is_url(self) -> bool:
        return bool(self.extra.get("url"))

    @property
    def default_in_words(self) -> str | None:
        words = self.extra.get("default_in_words")
        return None if words is None else str(words)

    @property
    def default(self) -> Any:
        """None too when it is computed, and when the key is required."""
        if self.field.default_factory is dict:
            return {}
        default = self.field.get_default(call_default_factory=False)
        return None if default is PydanticUndefined else default

    @cached_property
    def members(self) -> tuple[Any, ...]:
        return tuple(_members(self.field.annotation))

    @cached_property
    def secret(self) -> bool:
        return _mentions(self.field.annotation, SecretStr)

    @cached_property
    def optional(self) -> bool:
        return type(None) in self.members

    @cached_property
    def shape(self) -> Literal["list", "table", "scalar"]:
        """How its text in the environment is to be read."""
        for member in self.members:
            origin = get_origin(member) or member
            if isinstance(origin, type) and not issubclass(origin, str | bytes):
                if issubclass(origin, Mapping):
                    return "table"
                if issubclass(origin, list | tuple | set | frozenset) or origin.__module__ == "collections.abc":
                    return "list"
        return "scalar"

    def of(self, config: BaseModel) -> Any:
        """Its value in ``config``; None inside an optional section that is not there."""
        value: Any = config
        for attribute in self.attributes:
            value = None if value is None else getattr(value, attribute)
        return value


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif origin is Annotated:
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def _mentions(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_mentions(inner, wanted) for inner in get_args(annotation))


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for member in _members(field.annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


_KEYS: WeakKeyDictionary[type[BaseModel], Mapping[str, Key]] = WeakKeyDictionary()


def keys_of(cls: type[BaseModel]) -> Mapping[str, Key]:
    """Every key of ``cls``, in the order of its fields, sections opened."""
    if cls not in _KEYS:
        _KEYS[cls] = {key.name: key for key in _walk(cls, "", ())}
    return _KEYS[cls]


def sections_of(cls: type[BaseModel]) -> set[str]:
    """The names of the sections, inner ones dotted."""
    found = {key.section for key in keys_of(cls).values()} - {""}
    return found | {name.rpartition(".")[0] for name in found if "." in name}


def _walk(cls: type[BaseModel], prefix: str, attributes: tuple[str, ...]) -> Iterator[Key]:
    for name, field in cls.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        section = _section(field)
        if section is not None:
            yield from _walk(section, f"{dotted}.", (*attributes, name))
        else:
            yield _key(cls, dotted, (*attributes, name))


def _key(cls: type[BaseModel], dotted: str, attributes: tuple[str, ...]) -> Key:
    """A field's key. What its class does not say, because it only gives another default, is its ancestors'."""
    name = attributes[-1]
    models = [ancestor for ancestor in cls.__mro__ if issubclass(ancestor, BaseModel)]
    told = [model.model_fields[name] for model in models if name in model.model_fields]
    extra = next((field.json_schema_extra for field in told if isinstance(field.json_schema_extra, dict)), {})
    meaning = next((field.description for field in told if field.description), "")
    return Key(name=dotted, attributes=attributes, field=told[0], meaning=meaning, extra=extra)
