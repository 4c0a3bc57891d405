"""Configuration: one frozen value, read from arguments, flags, environment, file and class, in that order.

The names load on first use, so that ``redact_url`` costs no pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pythia.config.imports import import_error_class
    from pythia.config.keys import ReloadClass
    from pythia.config.process import (
        Origin,
        config_file,
        flag_names,
        process_flags,
        set_config_file,
        set_process_flags,
        set_worker_table,
    )
    from pythia.config.reload import Change, Plan, departures, diff, plan
    from pythia.config.schema import WorkerConfig
    from pythia.config.show import effective, json_schema, redacted
    from pythia.config.sources import origins, was_set
    from pythia.config.urls import redact_url

_HOME = {
    "WorkerConfig": "schema",
    "ReloadClass": "keys",
    "Origin": "process",
    "config_file": "process",
    "flag_names": "process",
    "process_flags": "process",
    "set_config_file": "process",
    "set_process_flags": "process",
    "set_worker_table": "process",
    "origins": "sources",
    "was_set": "sources",
    "Change": "reload",
    "Plan": "reload",
    "departures": "reload",
    "diff": "reload",
    "plan": "reload",
    "effective": "show",
    "json_schema": "show",
    "redacted": "show",
    "import_error_class": "imports",
    "redact_url": "urls",
}

__all__ = [
    "Change",
    "Origin",
    "Plan",
    "ReloadClass",
    "WorkerConfig",
    "config_file",
    "departures",
    "diff",
    "effective",
    "flag_names",
    "import_error_class",
    "json_schema",
    "origins",
    "plan",
    "process_flags",
    "redact_url",
    "redacted",
    "set_config_file",
    "set_process_flags",
    "set_worker_table",
    "was_set",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pythia.config' has no attribute {name!r}")
    value = getattr(import_module(f"pythia.config.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
