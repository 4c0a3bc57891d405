"""What is to be run (``Post``), and what one process of it is told (``Order``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A worker and how many processes run it. ``key`` tells posts apart over a reload."""

    key: str
    target: str  # module:attribute
    processes: int = 1
    table: str | None = None  # of [workers.NAME]
    config: bytes | None = None  # a pickled WorkerConfig, given in code


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every process of a service is told alike."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    flag_names: Mapping[str, str] = field(default_factory=dict)
    config_file: str | None = None
    main: Mapping[str, Any] | None = None  # how to make the ``__main__`` that the workers were defined beside
    worker_id: str | None = None  # one that somebody set: each process adds its number
    http: str | None = None  # where the supervisor answers
    burst: bool = False
    max_messages: int | None = None
    fail_fast: bool = False

    @property
    def ends_by_itself(self) -> bool:
        """Whether a process that ends with 0 is done, and not to be started again."""
        return self.burst or self.max_messages is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one process is told, over its wire."""

    post: Post
    common: Common
    slot: int
    paused: bool = False
