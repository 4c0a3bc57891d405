"""The adapters, each behind the contract of ``pythia.broker``, chosen by URL; only the one that is asked for is imported."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pythia.broker import Broker
from pythia.clock import Clock
from pythia.errors import ConfigError

if TYPE_CHECKING:
    from pythia.config import WorkerConfig

DRIVER_LOGGERS = ("aio_pika", "aiormq", "redis", "push_response")  # the last is redis-py's too
_NOWHERE = logging.NullHandler()
_CONNECT_SECONDS = 10.0  # of one try, where no configuration says otherwise


def open_broker(url: str, *, config: WorkerConfig | None = None, clock: Clock | None = None) -> Broker:
    """The broker that ``url`` names, not connected yet. ``memory://NAME`` is one store per name and process.

    ``config`` says how it is to be used: time limits, topology, groups; without one the defaults hold. Its own ``broker.url``
    does not count. ``clock`` is for tests.

    Raises:
        ConfigError: the URL names no broker that there is.
    """
    match _scheme(url):
        case "memory":
            from pythia.brokers.memory import MemoryBroker, named_store

            return MemoryBroker(clock=clock, store=named_store(url.partition("://")[2].strip("/")))
        case "sqlite":
            from pythia.brokers.sqlite import SqliteBroker, SqliteClock

            time = SqliteClock.machine() if clock is None else SqliteClock.injected(clock)
            limit = _CONNECT_SECONDS if config is None else config.broker.connect_timeout_seconds
            return SqliteBroker(_path(url), clock=time, connect_timeout=limit)
        case "amqp" | "amqps":
            _keep_drivers_off_the_terminal()
            from pythia.brokers.rabbitmq import RabbitBroker, RabbitSettings

            return RabbitBroker(url, RabbitSettings.of(config))
        case "redis" | "rediss":
            _keep_drivers_off_the_terminal()
            return _redis(url, config)
        case scheme:
            raise _unknown(scheme)


def _keep_drivers_off_the_terminal() -> None:
    """Python prints on stderr what a logger says that nobody handles; what a driver has to say, our errors and events say.
    Whoever handles logs hears the drivers all the same."""
    for name in DRIVER_LOGGERS:
        logging.getLogger(name).addHandler(_NOWHERE)


def _redis(url: str, config: WorkerConfig | None) -> Broker:
    from pythia.brokers.redis import RedisSettings, mode_of

    settings = RedisSettings.of(config)
    match mode_of(url):
        case "stream":
            from pythia.brokers.redis.streams import RedisStreamBroker

            return RedisStreamBroker(url, settings)
        case "list":
            from pythia.brokers.redis.lists import RedisListBroker

            return RedisListBroker(url, settings)
        case "pubsub":
            from pythia.brokers.redis.pubsub import RedisPubSubBroker

            return RedisPubSubBroker(url, settings)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def _unknown(scheme: str) -> ConfigError:
    what = f"{scheme}:// is no broker" if scheme else "it has no scheme"
    return ConfigError(
        f"broker.url: {what}; expected sqlite:///relative/path, sqlite:////absolute/path, amqp://, redis:// or memory://",
        key="broker.url",
        nearest="sqlite://",
    )


def _path(url: str) -> str:
    """The file of a ``sqlite`` URL: three slashes are relative to the current directory, four are absolute."""
    rest = url.partition("://")[2]
    if not rest.startswith("/") or len(rest) == 1:
        raise ConfigError(
            "broker.url: a sqlite URL is sqlite:///relative/path (three slashes) or sqlite:////absolute/path (four)",
            key="broker.url",
        )
    return unquote(rest[1:])
