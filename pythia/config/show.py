"""A configuration as people and programs may see it: effective values with their origins, secrets masked; its schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from pythia.config.keys import keys_of
from pythia.config.problems import displayable
from pythia.config.process import Origin
from pythia.config.sources import origins

if TYPE_CHECKING:
    from pythia.config.schema import WorkerConfig

_INTERNAL = ("default_in_words", "declared_by_class", "presence_matters", "url")


@dataclass(frozen=True, slots=True)
class Row:
    """One key: ``value`` has types of JSON."""

    key: str
    value: Any
    origin: Origin


def effective(config: WorkerConfig) -> list[Row]:
    """Every key with its effective value, secrets masked, and where it was said."""
    said = origins(config)
    return [Row(name, displayable(key, key.of(config)), said[name]) for name, key in keys_of(type(config)).items()]


def redacted(config: WorkerConfig) -> dict[str, Any]:
    """The effective values nested in their sections, secrets masked; ready for JSON."""
    tree: dict[str, Any] = {}
    for row in effective(config):
        *sections, last = row.key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = row.value
    return tree


def json_schema(cls: type[WorkerConfig]) -> dict[str, Any]:
    """The JSON Schema of the file, for editors. Each key also says its ``environment`` name and ``reload`` class."""
    schema = cls.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for name, key in keys_of(cls).items():
        described = _property(schema, name)
        for internal in _INTERNAL:
            described.pop(internal, None)
        described["environment"] = key.env
        described["reload"] = key.reload.value
        if isinstance(key.default, SecretStr):
            described["default"] = displayable(key, key.default)
    return schema


def _property(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Where the schema describes the key ``name``; the default of each section on the way is its keys' business."""
    described: dict[str, Any] = schema
    for part in name.split("."):
        described.pop("default", None)
        described = _resolved(schema, described)["properties"][part]
    return described


def _resolved(schema: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    for option in (described, *described.get("allOf", ()), *described.get("anyOf", ())):
        if "$ref" in option:
            found: dict[str, Any] = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return found
    return described
