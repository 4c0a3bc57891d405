"""What no single key can tell: settings that contradict one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pythia.config.keys import keys_of
from pythia.config.problems import Problem, render
from pythia.errors import ConfigError

if TYPE_CHECKING:
    from pythia.config.schema import WorkerConfig

_AMQP = ("amqp", "amqps")
_CONSUMER_TIMEOUT_MARGIN = 90.0  # seconds between our deadline for a handler and the server's for a delivery


def cross_problems(config: WorkerConfig, *, of_table: bool) -> Iterator[Problem]:
    """What is wrong with the whole of ``config``, whose keys are each right. ``of_table``: it is one of its own workers."""
    yield from _prefetch(config)
    yield from _dedup_store(config)
    yield from _consumer_timeout(config)
    if not of_table:
        for name, table in config.workers.items():
            yield from _table(config, name, table)


def _problem(config: WorkerConfig, key: str, sentence: str) -> Problem:
    origin = config.pythia_origins().get(key)
    value = render(_number(keys_of(type(config))[key].of(config)))
    return Problem(key=key, source=str(origin) if origin else "default", value=value, sentence=sentence)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _prefetch(config: WorkerConfig) -> Iterator[Problem]:
    if not (config.pythia_of_worker or "concurrency" in config.pythia_origins()):
        return  # the class that is to be run may declare another one
    if config.prefetch is not None and config.prefetch < config.concurrency:
        yield _problem(
            config,
            "prefetch",
            f"must be at least concurrency ({config.concurrency}), or {config.concurrency - config.prefetch} handlers "
            "would never have a message; leave it out to have it chosen",
        )


def _dedup_store(config: WorkerConfig) -> Iterator[Problem]:
    if config.dedup.enabled and config.dedup.store_url is None and config.broker.scheme in _AMQP:
        yield _problem(
            config,
            "dedup.enabled",
            "needs dedup.store_url (PYTHIA_DEDUP__STORE_URL), a sqlite:/// or redis:// URL: RabbitMQ has no store for "
            "idempotency keys",
        )


def _consumer_timeout(config: WorkerConfig) -> Iterator[Problem]:
    limit = config.rabbitmq.consumer_timeout_seconds - _CONSUMER_TIMEOUT_MARGIN
    if config.broker.scheme in _AMQP and config.handler_timeout_seconds > limit:
        yield _problem(
            config,
            "handler_timeout_seconds",
            f"must stay {_CONSUMER_TIMEOUT_MARGIN:.0f} s below rabbitmq.consumer_timeout_seconds "
            f"({_number(config.rabbitmq.consumer_timeout_seconds)}): beyond it the server takes every delivery back",
        )


def _table(config: WorkerConfig, name: str, table: Mapping[str, Any]) -> Iterator[Problem]:
    key = f"workers.{name}"
    origin = config.pythia_origins().get("workers")
    source = str(origin) if origin else None
    target = table.get("target")
    if not isinstance(target, str) or not target:
        yield Problem(
            key=f"{key}.target", source=source, sentence="is required: the worker to run, as module:attribute"
        )
    if "workers" in table:
        yield Problem(key=f"{key}.workers", source=source, sentence="a worker's table has no workers of its own")
        return
    try:
        config.for_worker(name)
    except ConfigError as error:
        yield Problem(key=key, source=source, sentence=str(error).replace("\n", " "))
