"""The sections of the configuration: ``[broker]`` to ``[reload]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pythia.config.imports import path_of
from pythia.config.keys import ReloadClass, setting
from pythia.config.urls import BROKER_SCHEMES, STORE_SCHEMES, absolute_url, check_url, redact_url

HOT, RESUBSCRIBE, RECONNECT, RESTART = ReloadClass

_LONGEST_NAME_BYTES = 255  # AMQP's short string
_LOG_LEVELS = {"warn": "warning", "fatal": "critical"}
_EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")
_MIB = 1024 * 1024


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic turns a ValueError into its report
    return value


def _finite(value: Any) -> Any:
    """Before any range is checked: what is no number is in none, and that is not what is wrong with it."""
    try:
        finite = isfinite(float(value))
    except OverflowError:
        finite = False
    except (ValueError, TypeError):
        finite = True  # nothing like a number: pydantic says so
    if not finite:
        raise ValueError("must be a finite number")
    return _no_bool(value)


def _name(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    if len(text.encode()) > _LONGEST_NAME_BYTES:
        raise ValueError(f"must be at most {_LONGEST_NAME_BYTES} bytes long")
    return text


def distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an item that is named twice."""
    for index, item in enumerate(items):
        if item in items[:index]:
            raise ValueError(f"names {item!r} twice")
    return items


def _url(schemes: tuple[str, ...]) -> Callable[[SecretStr], SecretStr]:
    def check(url: SecretStr) -> SecretStr:
        check_url(url.get_secret_value(), schemes)
        return url

    return check


def _error_path(value: Any) -> Any:
    """A class in Python code is as good as its path in a file."""
    if isinstance(value, type) and issubclass(value, BaseException):
        return path_of(value)
    if isinstance(value, str) and not all(part.isidentifier() for part in value.split(".") if part != "<locals>"):
        raise ValueError("must be an import path (package.module.Class) or the name of a builtin error")
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _level(value: Any) -> Any:
    lower = _lower(value)
    return _LOG_LEVELS.get(lower, lower) if isinstance(lower, str) else value


def _auto_or_bool(value: Any) -> Any:
    words = {"auto": "auto", "true": True, "1": True, "false": False, "0": False}
    result = words.get(value.lower()) if isinstance(value, str) else value
    if result != "auto" and not isinstance(result, bool):
        raise ValueError('must be "auto", true or false')
    return result


def _exchange_type(value: str) -> str:
    if value not in _EXCHANGE_TYPES and not value.startswith("x-"):
        raise ValueError(f"must be one of {', '.join(_EXCHANGE_TYPES)}, or a plug-in's, which begins with x-")
    return value


def _codecs(value: Any) -> Any:
    names = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if "pickle" in names:
        raise ValueError("must not name pickle, never: whoever can publish could then run code here")
    return value


Count = Annotated[int, BeforeValidator(_no_bool)]
Seconds = Annotated[float, BeforeValidator(_finite)]
Name = Annotated[str, AfterValidator(_name)]
Codec = Literal["json", "text", "bytes", "msgpack"]
Codecs = Annotated[tuple[Codec, ...], BeforeValidator(_codecs), AfterValidator(distinct), Field(min_length=1)]
ErrorPath = Annotated[str, BeforeValidator(_error_path)]


class Section(BaseModel):
    """A table of the file: frozen, and nothing in it that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class BrokerSection(Section):
    """Which broker, and how to reach it."""

    url: Annotated[SecretStr, AfterValidator(_url(BROKER_SCHEMES))] = setting(
        SecretStr("sqlite:///pythia.db"),
        RECONNECT,
        "where messages live: `memory://`, `sqlite:///relative`, `sqlite:////absolute`, `amqp(s)://`, "
        "`redis(s)://?mode=stream|list|pubsub`",
        url=True,
    )
    connect_timeout_seconds: Seconds = setting(10.0, HOT, "of one try to connect", gt=0)
    heartbeat_seconds: Count = setting(15, RECONNECT, "between signs of life on the connection", ge=1, le=65_535)
    declare: bool = setting(
        default=True, reload=RESUBSCRIBE, meaning="create what is missing; false: only use what is there"
    )

    @property
    def display_url(self) -> str:
        """The URL as it may be shown: no password, and a file's absolute path."""
        return absolute_url(redact_url(self.url.get_secret_value()))

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return self.url.get_secret_value().partition("://")[0]


class RabbitMQSection(Section):
    """For `amqp://` and `amqps://` alone."""

    queue_type: Literal["quorum", "classic"] = setting(
        "quorum", RESUBSCRIBE, "of queues that we declare: `quorum` or `classic`"
    )
    consumer_timeout_seconds: Seconds = setting(
        1800.0,
        RESTART,
        "the server's `consumer_timeout`, which AMQP does not reveal; `handler_timeout_seconds` must stay 90 s below it",
        gt=0,
    )
    allow_drop: bool = setting(
        default=False, reload=RESTART, meaning="run on a queue that has a delivery limit and no dead-letter exchange"
    )
    exchange: str = setting(
        "", RESUBSCRIBE, "to bind the queue to; empty: the default exchange", max_length=_LONGEST_NAME_BYTES
    )
    exchange_type: Annotated[str, AfterValidator(_exchange_type)] = setting(
        "direct", RESUBSCRIBE, "`direct`, `fanout`, `topic`, `headers`, or a plug-in's `x-…`"
    )
    routing_keys: tuple[str, ...] | None = setting(
        None, RESUBSCRIBE, "to bind the queue with", shown="the queue's name", examples=[["orders.#"]]
    )
    arguments: dict[str, Any] = setting(dict, RESUBSCRIBE, "of queues that we declare")
    deliveries: Literal["direct", "driver"] = setting(
        "direct", RECONNECT, "who reads them: `direct`, we do, in batches; `driver`, aio-pika's driver does, one by one"
    )


class RedisSection(Section):
    """For `redis://` and `rediss://` alone."""

    group: Name = setting("pythia", RESUBSCRIBE, "consumer group of a stream")
    delete_on_ack: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = setting(
        "auto", HOT, "delete a stream's entry once it is acked; `auto`: only while ours is the stream's one group"
    )


class RetrySection(Section):
    """What happens after a failure."""

    max_attempts: Count = setting(
        16, HOT, "runs in all, the first included; 16 outlive four hours", ge=1, declared=True
    )
    base_seconds: Seconds = setting(1.0, HOT, "delay after the first failure", ge=0, declared=True)
    factor: Seconds = setting(2.0, HOT, "each later delay is this many times the one before", ge=1, declared=True)
    cap_seconds: Seconds = setting(3600.0, HOT, "longest delay", ge=0, declared=True)
    jitter: Seconds = setting(0.2, HOT, "share by which a delay is drawn longer or shorter", ge=0, le=1, declared=True)
    delays_seconds: tuple[Annotated[Seconds, Field(ge=0)], ...] = setting(
        (), HOT, "an explicit list of delays instead; the last repeats", declared=True
    )
    retry_on: tuple[ErrorPath, ...] = setting(
        ("Exception",), HOT, "errors worth another attempt: import paths, or names of builtins", declared=True
    )
    give_up_on: tuple[ErrorPath, ...] = setting(
        (), HOT, "errors that go to the dead letters at once; wins over `retry.retry_on`", declared=True
    )


class BatchSection(Section):
    """For workers with `process_batch`."""

    size: Count = setting(100, HOT, "most messages in one batch", ge=1)
    wait_seconds: Seconds = setting(1.0, HOT, "longest wait for a batch to fill", ge=0)


class DedupSection(Section):
    """Run an effect once, by its idempotency key."""

    enabled: bool = setting(default=False, reload=RESTART, meaning="claim each idempotency key before the handler runs")
    ttl_seconds: Seconds = setting(86_400.0, RESTART, "how long a key is remembered", gt=0)
    store_url: Annotated[SecretStr, AfterValidator(_url(STORE_SCHEMES))] | None = setting(
        None,
        RESTART,
        "where keys are kept: `sqlite:///…` or `redis://…`; RabbitMQ has no store of its own, so it needs one",
        shown="the broker's own",
        examples=["redis://localhost:6379/0"],
        url=True,
    )


class LimitsSection(Section):
    """What is refused before it is decoded, and dead-lettered instead."""

    body_bytes: Count = setting(16 * _MIB, HOT, "largest body", ge=1)
    decompressed_bytes: Count = setting(64 * _MIB, HOT, "largest body once decompressed", ge=1)
    depth: Count = setting(128, HOT, "deepest nesting", ge=1)


class HealthSection(Section):
    """What `health_check` decides."""

    gate_readiness: bool = setting(
        default=False, reload=HOT, meaning="true: a failing `health_check` makes /readyz answer 503"
    )


class HttpSection(Section):
    """Probes, metrics and admin routes."""

    enabled: bool = setting(default=True, reload=RESTART, meaning="serve HTTP at all", presence=True)
    host: Annotated[str, Field(min_length=1)] = setting(
        "127.0.0.1", RESTART, "address to listen on; the image sets `0.0.0.0`"
    )
    port: Count = setting(
        8080,
        RESTART,
        "0: any free one. Not set and busy: a free one, with a warning. Set and busy: exit 69",
        ge=0,
        le=65_535,
        presence=True,
    )
    admin_token: Annotated[SecretStr, Field(min_length=1)] | None = setting(
        None,
        HOT,
        "bearer token of the admin routes; without it they answer this machine only",
        examples=["a long random text"],
    )


class LogSection(Section):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)] = setting(
        "info", HOT, "`debug`, `info`, `warning`, `error`, `critical`; `LOG_LEVEL` is read too"
    )
    format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)] = setting(
        "auto", HOT, "`json`, `console`, or `auto`: JSON unless on a terminal"
    )
    messages: Annotated[Literal["errors", "all"], BeforeValidator(_lower)] = setting(
        "errors", HOT, "`errors`, or `all`: one line for every message"
    )


class MetricsSection(Section):
    """What is measured beside the messages."""

    queue_depth_interval_seconds: Seconds = setting(15.0, HOT, "between looks at the depth of queues; 0: never", ge=0)


class ReloadSection(Section):
    """How a reload is watched."""

    probation_seconds: Seconds = setting(
        0.0, HOT, "> 0: a reload after which more messages fail is rolled back by itself, within this time", ge=0
    )
