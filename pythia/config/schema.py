"""``WorkerConfig``: every setting of a worker in one frozen value."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pythia.config.checks import cross_problems
from pythia.config.keys import keys_of, setting
from pythia.config.problems import Problem, config_error, problems_of, show
from pythia.config.process import Layer, Origin, worker_table
from pythia.config.sections import (
    HOT,
    RESTART,
    RESUBSCRIBE,
    BatchSection,
    BrokerSection,
    Codecs,
    Count,
    DedupSection,
    HealthSection,
    HttpSection,
    LimitsSection,
    LogSection,
    MetricsSection,
    Name,
    RabbitMQSection,
    RedisSection,
    ReloadSection,
    RetrySection,
    Seconds,
    distinct,
)
from pythia.config.sources import Sources, argument_layer, class_layer, merge, nested, read_sources

_MOST_IN_FLIGHT = 65_535  # AMQP's prefetch is 16 bits


def _derived_id(data: dict[str, Any]) -> str:
    return f"{data.get('worker_name', 'worker')}-{socket.gethostname()}-{os.getpid()}"


class WorkerConfig(BaseSettings):
    """What a worker is told. Frozen, comparable, picklable; no secret in its text.

    ``WorkerConfig(**overrides)`` reads the file and the environment; an override is a key (``concurrency=5``) or a section
    (``http={"port": 0}``). Two are equal when the sources said the same: a class's attributes, which are the same wherever
    the class is, do not count. Subclass it for settings of your own; they are read and checked the same way.

    Raises:
        ConfigError: something is unknown, malformed or out of range; every such thing is listed.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_by_name=True)

    pythia_shares_sources: ClassVar[bool] = (
        False  # others' keys stand in the same sources: only misspelt ones are errors
    )

    worker_name: Name = setting(
        "worker",
        RESTART,
        "label `worker` of metrics; stem of consumer names",
        shown="the class's name in kebab-case",
        examples=["orders"],
        declared=True,
    )
    worker_id: Name = setting(
        _derived_id,
        RESTART,
        "stable within a process",
        shown="`{name}-{host}-{pid}`",
        presence=True,
        examples=["orders-1"],
    )
    queue: Name = setting("default", RESUBSCRIBE, "what is consumed", declared=True)
    queues: Annotated[tuple[Name, ...], AfterValidator(distinct)] = setting(
        (), RESUBSCRIBE, "several of them; wins over `queue`", declared=True
    )
    concurrency: Count = setting(
        10, HOT, "most handlers at once, in each process", ge=1, le=_MOST_IN_FLIGHT, declared=True
    )
    prefetch: Count | None = setting(
        None,
        RESUBSCRIBE,
        "most unsettled deliveries held; at least `concurrency`",
        ge=1,
        le=_MOST_IN_FLIGHT,
        shown="automatic",
        examples=[20],
    )
    handler_timeout_seconds: Seconds = setting(
        300.0, HOT, "a handler that runs longer has failed, counted; 0: none", ge=0, declared=True
    )
    lease_seconds: Seconds = setting(
        30.0, RESUBSCRIBE, "SQLite, Redis: a delivery is ours this long, renewed from outside the handler", ge=1
    )
    max_age_seconds: Seconds = setting(
        86_400.0, HOT, "an older message goes to the dead letters as `expired`; 0: none is too old", ge=0
    )
    drain_timeout_seconds: Seconds = setting(
        25.0, HOT, "from SIGTERM to the exit; keep it 5 s or more below the platform's grace", gt=0
    )
    startup_timeout_seconds: Seconds = setting(
        0.0, RESTART, "for the broker and `on_startup` together; 0: wait for ever", ge=0
    )
    health_check_interval: Seconds = setting(30.0, HOT, "seconds between calls of `health_check`", gt=0)
    sink: Name | None = setting(None, HOT, "queue for what handlers return", declared=True, examples=["receipts"])
    codecs: Codecs = setting(
        ("json", "text", "bytes"), HOT, "body formats that are decoded; `msgpack` can be added; pickle never"
    )

    broker: BrokerSection = BrokerSection()
    rabbitmq: RabbitMQSection = RabbitMQSection()
    redis: RedisSection = RedisSection()
    retry: RetrySection = RetrySection()
    batch: BatchSection = BatchSection()
    dedup: DedupSection = DedupSection()
    limits: LimitsSection = LimitsSection()
    health: HealthSection = HealthSection()
    http: HttpSection = HttpSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    reloading: ReloadSection = Field(default=ReloadSection(), alias="reload")  # `reload` is the method's name

    processes: Count = setting(1, HOT, "how many processes; `pythia run` only", ge=1, le=1024)
    workers: dict[str, dict[str, Any]] = setting(
        dict, RESTART, "`target`, and any key of this page, for each of several workers in one service", shown="none"
    )

    _sources: Sources = PrivateAttr(default_factory=Sources)
    _said: Layer = PrivateAttr(default_factory=dict)

    def __init__(self, **overrides: Any) -> None:
        arguments, problems = argument_layer(type(self), overrides)
        sources, more = read_sources(type(self), Sources(arguments=arguments, worker=worker_table()))
        self._pythia_fill(sources, [*problems, *more])

    @classmethod
    def load(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """The same, from this file in the place of the one that flag, variable or default path name."""
        arguments, problems = argument_layer(cls, overrides)
        sources, more = read_sources(cls, Sources(path=Path(path), arguments=arguments))
        return cls._pythia_made(sources, [*problems, *more])

    def reload(self) -> Self:
        """A new one from the same sources, read again: the file, the environment, the files of secrets."""
        return self._pythia_made(*read_sources(type(self), self._sources))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002 - the signature is pydantic's; everything in it is frozen
        """A copy in which ``update`` is said as arguments are: checked like them, and kept by a reload."""
        arguments, problems = argument_layer(type(self), update or {})
        return self._pythia_made(replace(self._sources, arguments={**self._sources.arguments, **arguments}), problems)

    @property
    def pythia_of_worker(self) -> bool:
        """Whether what a worker class declares is in it."""
        return bool(self._sources.declared)

    @property
    def pythia_table(self) -> str | None:
        """The name of its table of ``[workers.NAME]``, if it is of one."""
        return self._sources.worker

    def with_class_defaults(self, declared: Mapping[str, Any], *, where: str = "") -> Self:
        """A copy in which keys that no argument, flag, variable or file set have the values that a worker class declares.

        ``declared`` has keys, and ``"retry"`` a mapping of them; ``handler_timeout_seconds`` None is none. ``where`` is the
        class's name. Nothing is read again. The copy equals what it came from, and remembers the class when reloaded.
        """
        layer = class_layer(type(self), declared, where)
        if layer == self._sources.declared:
            return self  # frozen: another worker of the class may have the same
        return self._pythia_made(replace(self._sources, declared=layer))

    def for_worker(self, name: str) -> Self:
        """The configuration of one of ``[workers.NAME]``: the table's keys laid over the file that they stand in.

        Raises:
            KeyError: there is no such table.
        """
        if name not in self.workers:
            raise KeyError(name)
        return self._pythia_made(replace(self._sources, worker=name))

    @property
    def queue_names(self) -> tuple[str, ...]:
        """What is consumed: ``queues``, else the one ``queue``."""
        return self.queues or (self.queue,)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One source: the layers arrive merged, because pydantic-settings' own cannot say where a value came from."""
        return (init_settings,)

    @classmethod
    def _pythia_made(cls, sources: Sources, problems: Sequence[Problem] = ()) -> Self:
        config = cls.__new__(cls)
        config._pythia_fill(sources, problems)  # noqa: SLF001 - one of our own
        return config

    def _pythia_fill(self, sources: Sources, problems: Sequence[Problem]) -> None:
        entries, more = merge(type(self), sources)
        found = [*problems, *more]
        try:
            super().__init__(**nested(entries))
        except ValidationError as error:
            found += problems_of(type(self), error, entries)
        else:
            self._sources, self._said = sources, entries
            found += cross_problems(self, of_table=sources.worker is not None)
        if found:
            raise config_error(found)

    def pythia_origins(self) -> Mapping[str, Origin]:
        """Where each key that is not at its default was said; ``pythia.config.origins`` has the rest too."""
        return {name: entry.origin for name, entry in self._said.items()}

    def _pythia_identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {}
        for name, key in keys_of(type(self)).items():
            said = name in self._said and self._said[name].origin.layer not in ("class", "default")
            if said or not (key.declared_by_class or name == "worker_id"):
                identity[name] = key.of(self)
        return identity

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WorkerConfig) or type(self) is not type(other):
            return NotImplemented
        return self._pythia_identity() == other._pythia_identity()

    def __hash__(self) -> int:
        return hash((type(self), self.broker, self.http, self.log, self.limits))

    def __repr__(self) -> str:
        keys = keys_of(type(self))
        said = (f"{name}={show(keys[name], keys[name].of(self))}" for name in self._said)
        return f"{type(self).__name__}({', '.join(said)})"

    __str__ = __repr__
