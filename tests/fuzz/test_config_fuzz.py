"""Any file and any environment is a configuration, or a ConfigError that an operator can act on; never anything else, and
never with a secret in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pythia.config import WorkerConfig
from pythia.config.keys import keys_of
from pythia.errors import ConfigError

KEYS = keys_of(WorkerConfig)
NAMES = sorted(KEYS)
SECRETS = sorted(name for name, key in KEYS.items() if key.secret)
VARIABLES = sorted({key.env for key in KEYS.values()} | {f"{KEYS[name].env}_FILE" for name in SECRETS})
CANARY = "c4n4ry%2F5%3A"

JUNK = st.sampled_from(
    [
        "",
        " ",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        "None",
        "null",
        "[]",
        "{}",
        "[1",
        '"',
        "a,b",
        ",",
        "9" * 5000,
        "\x1b[2J",
        "☃",
        "sqlite://",
        "amqp://[",
        "redis://:@:0/99?mode=x",
        "http://x",
        "file:///etc/passwd",
        "sqlite:///\x1b",
        "amqp://h:99999/",
    ]
)
TEXTS = JUNK | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)

BYTES = st.binary(max_size=200) | TEXTS.map(str.encode)
TABLES = st.dictionaries(st.sampled_from(NAMES) | TEXTS, VALUES, min_size=1, max_size=4)
ENVIRONMENTS = st.dictionaries(st.sampled_from(VARIABLES), TEXTS, min_size=1, max_size=3)
ARGUMENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3)
PLACES = st.sampled_from(["file", "environment", "argument", "list"])
TEMPLATES = st.sampled_from(
    ["{}", "amqp://u:{}@h/v", "redis://:{}@h:x/0", "http://u:{}@h", "redis://h/0?password={}", "//u:{}@h"]
) | TEXTS.filter(lambda text: "://" not in text).map(lambda text: re.sub("[{}]", "", text) + "{}")
"""Where in a value the secret stands."""


@pytest.fixture(autouse=True)
def _empty_directory(workdir: Path) -> None:
    """No file is found."""


@contextmanager
def environment(said: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(said)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def loaded(path: Path | str = os.devnull, **arguments: Any) -> ConfigError | None:
    """The refusal, if it is one; a configuration can be shown and printed."""
    try:
        config = WorkerConfig.load(path, **arguments)
    except ConfigError as error:
        assert str(error).strip()
        assert error.key is None or isinstance(error.key, str)
        return error
    for text in (repr(config), str(config), repr(config.model_dump())):
        assert CANARY not in text
    return None


FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(raw=BYTES)
def test_any_bytes_are_a_file_or_refused(workdir: Path, raw: bytes) -> None:
    file = workdir / "fuzz.toml"
    file.write_bytes(raw)
    error = loaded(file)
    assert error is None or error.key or error.source


def _toml(value: Any) -> str:
    """A value as TOML; None as a text, since it has none."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{_quoted(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    escaped = "".join(char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text)
    return f'"{escaped}"'


@FEW
@given(said=TABLES)
def test_any_value_of_any_key_in_a_file_is_taken_or_refused_by_its_name(workdir: Path, said: dict[str, Any]) -> None:
    file = workdir / "fuzz.toml"
    lines = [f"{name if name in KEYS else _quoted(name)} = {_toml(value)}" for name, value in said.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    error = loaded(file)
    assert error is None or error.key is not None or error.source is not None


@FEW
@given(said=ENVIRONMENTS)
def test_any_value_of_any_variable_is_taken_or_refused_by_its_name(said: dict[str, str]) -> None:
    with environment(said):
        error = loaded()
    assert error is None or error.key is not None or error.source is not None


@FEW
@given(said=ARGUMENTS)
def test_any_argument_is_taken_or_refused_by_its_name(said: dict[str, Any]) -> None:
    error = loaded(**said)
    assert error is None or error.key is not None


@FEW
@given(name=st.sampled_from(SECRETS), template=TEMPLATES, where=PLACES)
def test_no_refusal_shows_a_secret(workdir: Path, name: str, template: str, where: str) -> None:
    secret = template.format(CANARY)
    file = workdir / "fuzz.toml"
    file.write_text(f"{name} = {_toml(secret)}\nconcurrency = 'no number'", encoding="utf-8")
    match where:
        case "file":
            error = loaded(file)
        case "environment":
            with environment({KEYS[name].env: secret, "PYTHIA_CONCURRENCY": "no number"}):
                error = loaded()
        case "argument":
            error = loaded(**{name: secret, "concurrency": "no number"})
        case _:
            error = loaded(**{name: [secret], "concurrency": "no number"})
    assert error is not None
    assert "c4n4ry" not in f"{error} {error!r} {error.value} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_thousand_configurations_of_each_kind(workdir: Path) -> None:
    def often(check: Any, **strategies: Any) -> Any:
        return MANY(given(**strategies)(check.hypothesis.inner_test))

    often(test_any_bytes_are_a_file_or_refused, raw=BYTES)(workdir=workdir)
    often(test_any_value_of_any_key_in_a_file_is_taken_or_refused_by_its_name, said=TABLES)(workdir=workdir)
    often(test_any_value_of_any_variable_is_taken_or_refused_by_its_name, said=ENVIRONMENTS)()
    often(test_any_argument_is_taken_or_refused_by_its_name, said=ARGUMENTS)()
    secrets = {"name": st.sampled_from(SECRETS), "template": TEMPLATES, "where": PLACES}
    often(test_no_refusal_shows_a_secret, **secrets)(workdir=workdir)
