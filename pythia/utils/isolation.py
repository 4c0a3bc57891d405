"""What a worker under test must neither take from this machine nor leave behind in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog

from pythia.config import WorkerConfig


def isolated_config(config_class: type[WorkerConfig], overrides: Mapping[str, Any]) -> WorkerConfig:
    """``config_class`` made of ``overrides`` alone: no file, no environment variable of whoever runs the tests.

    The broker is ``memory://``, HTTP is off and nothing below ``critical`` is logged, unless ``overrides`` say otherwise.

    Raises:
        ConfigError: an override that cannot be used.
    """
    defaults = {"broker.url": "memory://", "http.enabled": False, "log.level": "critical"}
    with _silent_environment():
        return config_class.load(os.devnull, **{**defaults, **overrides})


@contextmanager
def _silent_environment() -> Iterator[None]:
    """While entered, no variable says anything about Pythia; nothing may be awaited in it."""
    spoken = {name: value for name, value in os.environ.items() if name == "LOG_LEVEL" or name.startswith("PYTHIA_")}
    for name in spoken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(spoken)


class LoggingBefore:
    """How structlog and ``logging`` were set up when this was made; a worker that runs sets both up for the process."""

    def __init__(self) -> None:
        root = logging.getLogger()
        self._level, self._handlers = root.level, list(root.handlers)
        self._structlog = structlog.get_config() if structlog.is_configured() else None

    def restore(self) -> None:
        root = logging.getLogger()
        root.setLevel(self._level)
        for handler in [handler for handler in root.handlers if handler not in self._handlers]:
            root.removeHandler(handler)
        if self._structlog is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**self._structlog)
