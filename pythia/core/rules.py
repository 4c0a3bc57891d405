"""The rules under which messages are handled: one frozen value made of the configuration and the worker's class.

A reload replaces the value between messages; a message finishes under the rules that it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pythia.config import WorkerConfig, import_error_class, was_set
from pythia.core.codecs import Decoder
from pythia.core.probation import KEEP_SECONDS
from pythia.core.retry import RetryPolicy
from pythia.errors import ConfigError
from pythia.message import Message

DECLARED = ("worker_name", "queue", "queues", "concurrency", "handler_timeout_seconds", "sink")
_RETRY_NUMBERS = ("max_attempts", "base_seconds", "factor", "cap_seconds", "jitter", "delays_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How one message is decoded, timed, judged and answered. Durations are seconds; None: no bound."""

    decoder: Decoder
    policy: RetryPolicy
    handler_timeout: float | None
    max_age: float | None
    sink: str | None
    log_done: bool
    dedup_ttl: float | None  # None: no dedup
    batch_size: int
    batch_wait: float
    keep: float  # how long a failure may be kept while its configuration is on trial


def build_rules(config: WorkerConfig, *, policy: RetryPolicy, declared_type: Any) -> Rules:
    """The rules of a worker whose class declares ``policy`` and ``declared_type``.

    Raises:
        ConfigError: an error class that cannot be imported, a codec that is not installed.
    """
    limits = config.limits
    decoder = Decoder(
        config.codecs,
        declared_type,
        body_bytes=limits.body_bytes,
        decompressed_bytes=limits.decompressed_bytes,
        depth=limits.depth,
    )
    return Rules(
        decoder=decoder,
        policy=merged_policy(config, policy),
        handler_timeout=config.handler_timeout_seconds or None,
        max_age=config.max_age_seconds or None,
        sink=config.sink,
        log_done=config.log.messages == "all",
        dedup_ttl=config.dedup.ttl_seconds if config.dedup.enabled else None,
        batch_size=config.batch.size,
        batch_wait=config.batch.wait_seconds,
        keep=min(config.reloading.probation_seconds, KEEP_SECONDS),
    )


def merged_policy(config: WorkerConfig, declared: RetryPolicy) -> RetryPolicy:
    """The class's policy with what the configuration says instead; per-error policies stay the class's."""
    retry = config.retry
    changes: dict[str, Any] = {name: getattr(retry, name) for name in _RETRY_NUMBERS}
    changes["delays_seconds"] = tuple(changes["delays_seconds"])
    for name in ("retry_on", "give_up_on"):
        if was_set(config, f"retry.{name}"):
            changes[name] = tuple(import_error_class(path) for path in getattr(retry, name))
    try:
        return declared.with_changes(**changes)
    except ValueError as error:
        raise ConfigError(str(error), key="retry") from None


def class_defaults(cls: type, base: type) -> dict[str, Any]:
    """What ``cls`` declares of the settings, in the shape of the configuration; ``base`` declares nothing by itself."""
    defaults: dict[str, Any] = {"worker_name": kebab(cls.__name__)}
    for name in DECLARED:
        if _declares(cls, base, name):
            defaults[name] = getattr(cls, name)
    if defaults.get("handler_timeout_seconds", 1) is None:
        defaults["handler_timeout_seconds"] = 0
    if _declares(cls, base, "retry"):
        policy = cls.retry  # type: ignore[attr-defined]  # _declares has seen it
        if not isinstance(policy, RetryPolicy):
            raise ConfigError(f"{cls.__name__}.retry must be a RetryPolicy, not {type(policy).__name__}", key="retry")
        defaults["retry"] = {name: getattr(policy, name) for name in _RETRY_NUMBERS}
    return defaults


def _declares(cls: type, base: type, name: str) -> bool:
    return any(name in vars(c) for c in cls.__mro__[: cls.__mro__.index(base)])


def kebab(name: str) -> str:
    """``OrderWorker`` → ``order-worker``, ``HTTPWorker`` → ``http-worker``, ``on_order`` → ``on-order``."""
    out: list[str] = []
    for index, char in enumerate(name):
        follows_lower = index > 0 and not name[index - 1].isupper()
        before_lower = index + 1 < len(name) and name[index + 1].islower()
        if char.isupper() and index > 0 and (follows_lower or before_lower) and name[index - 1] != "_":
            out.append("-")
        out.append("-" if char == "_" else char.lower())
    return "".join(out).strip("-")


@cache
def declared_type(function: Callable[..., Any]) -> Any:
    """``Order`` of a handler's ``message: Message[Order]`` (or ``Sequence[Message[Order]]``); None when it says nothing.

    A name that cannot be resolved here (imported under TYPE_CHECKING, say) declares nothing.
    """
    try:
        hints: Mapping[str, Any] = get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return None
    for name, hint in hints.items():
        if name != "return" and (found := _message_argument(hint)) is not None:
            return found
    return None


def _message_argument(hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Message and args:
        return args[0]
    if isinstance(origin, type) and issubclass(origin, Sequence) and args:
        return _message_argument(args[0])
    return None
