"""From what is wrong with a configuration to the lines that an operator can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from pythia.config.keys import Key, keys_of
from pythia.config.process import Layer
from pythia.config.urls import redact_url
from pythia.errors import ConfigError

MASK = "***"
_COMMON = "pythia_"  # in front of every variable, so it says nothing about which was meant
_LONGEST_VALUE = 80
_SHORTEST_SECRET = 4  # a shorter text is no secret, and masking it would garble the sentence

_FOLLOWS = "default_factory_not_called"  # a computed default, for want of a value that is reported itself

_SENTENCES = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, ready to print."""

    sentence: str
    key: str | None = None
    source: str | None = None
    value: str | None = None  # as it may be shown
    nearest: str | None = None
    unknown: bool = False  # it is no key at all

    def __str__(self) -> str:
        """``key = value (source): sentence; did you mean nearest?``, as far as each is known."""
        subject = self.key or self.source or ""
        subject += f" = {self.value}" if self.value is not None else ""
        subject += f" ({self.source})" if self.key and self.source else ""
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{subject}: {self.sentence}{hint}" if subject else f"{self.sentence}{hint}"


def config_error(problems: Sequence[Problem]) -> ConfigError:
    """One error for all of them; its fields are the first one's."""
    first = problems[0]
    text = str(first)
    if len(problems) > 1:
        text = "\n  ".join([f"{len(problems)} settings cannot be used:", *map(str, problems)])
    return ConfigError(text, key=first.key, source=first.source, value=first.value, nearest=first.nearest)


def unknown(name: str, candidates: Iterable[str], *, key: str | None, source: str) -> Problem:
    """``name`` is no key. Its value is not shown: it may be a secret under a misspelt name."""
    return Problem(
        key=key, source=source, sentence="there is no such key", nearest=nearest(name, candidates), unknown=True
    )


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant, of equals the first; dots, dashes and underscores count as the same."""
    plain: dict[str, str] = {}
    for candidate in candidates:
        plain.setdefault(_plain(candidate), candidate)
    found = get_close_matches(_plain(name), plain, n=1, cutoff=0.65)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("__", "_").replace(".", "_").replace("-", "_").removeprefix(_COMMON)


def problems_of(cls: type[BaseModel], error: ValidationError, entries: Layer) -> list[Problem]:
    """One problem a key, whatever number of complaints pydantic has about it."""
    complaints: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] != _FOLLOWS:
            complaints.setdefault(_key_at(cls, detail["loc"]), []).append(detail)
    return [_problem(cls, key, details, entries) for key, details in complaints.items()]


def _key_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> str:
    for length in range(len(location), 0, -1):
        name = ".".join(str(part) for part in location[:length])
        if name in keys_of(cls):
            return name
    return ".".join(str(part) for part in location)


def _problem(cls: type[BaseModel], name: str, details: Sequence[ErrorDetails], entries: Layer) -> Problem:
    key, entry = keys_of(cls).get(name), entries.get(name)
    if any(detail["type"] == "missing" for detail in details):
        return Problem(key=name, sentence=_missing(key, name))
    depth = name.count(".") + 1 if name else 0
    sentences = dict.fromkeys(_sentence(detail, depth) for detail in details)
    return Problem(
        key=name or None,
        source=str(entry.origin) if entry else None,
        value=shorten(show(key, entry.value)) if key and entry else None,
        sentence=_masked(" or ".join(sentences), entry.value if key and key.secret and entry else None),
    )


def _missing(key: Key | None, name: str) -> str:
    if key is None:
        return f"is required: set it in [{name}] of the configuration file"
    file = f" (or {key.env}_FILE, a file that holds it)" if key.secret else ""
    return f"is required: set {key.env}{file}, or {name} in the configuration file"


def _sentence(detail: ErrorDetails, depth: int) -> str:
    context: Mapping[str, Any] = detail.get("ctx", {})
    template = "{error}" if "error" in context else _SENTENCES.get(detail["type"])
    plain = detail["msg"] if template is None else template.format(**{name: _number(v) for name, v in context.items()})
    item = next((part for part in detail["loc"][depth:] if isinstance(part, int)), None)
    return plain if item is None else f"item {item + 1} {plain}"


def _number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _masked(sentence: str, secret: object) -> str:
    """A user's own validator may quote the secret that it refuses."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    return sentence.replace(text, MASK) if isinstance(text, str) and len(text) >= _SHORTEST_SECRET else sentence


def show(key: Key, value: Any) -> str:
    """A value as people may see it: secrets masked, numbers short, texts quoted."""
    return render(displayable(key, value))


def displayable(key: Key, value: Any) -> Any:
    """The value with secrets masked, in types that JSON knows where it has them."""
    if key.secret:
        return _concealed(key, value)
    return _plain_value(value)


def _concealed(key: Key, value: Any) -> Any:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is None:
        return None
    return redact_url(text) if key.is_url and isinstance(text, str) and "://" in text else MASK


def _plain_value(value: Any) -> Any:
    match value:
        case SecretStr():
            return MASK
        case float():
            return _number(value)
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(name): _plain_value(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain_value(inner) for inner in value]
    return str(value)


def render(value: Any) -> str:
    """One displayable value as it would stand in the file."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ", ".join(render(inner) for inner in value) + "]"
        case dict():
            return "{" + ", ".join(f" {name} = {render(inner)}" for name, inner in value.items()).lstrip() + "}"
        case None:
            return "none"
    return str(value)


def shorten(text: str) -> str:
    """At most a line's worth, without control characters."""
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return clean if len(clean) <= _LONGEST_VALUE else clean[: _LONGEST_VALUE - 1] + "…"
