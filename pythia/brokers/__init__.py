"""The adapters, each behind the contract of ``pythia.broker``, chosen by URL; only the one that is asked for is imported."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from urllib.parse import unquote

from pythia.broker import Broker, Claim, IdempotencyStore
from pythia.clock import Clock
from pythia.errors import ConfigError, Unsupported

_LATER = ("amqp", "amqps", "redis", "rediss", "redis+sentinel")


def open_broker(url: str, *, clock: Clock | None = None, connect_timeout: float = 10.0) -> Broker:
    """The broker that ``url`` names, not connected yet. ``memory://NAME`` is one store per name and process.

    ``clock`` is for tests; ``connect_timeout`` is how many seconds one try to reach the broker may take.

    Raises:
        ConfigError: the URL names no broker that there is. Unsupported: one that this version does not have.
    """
    match _scheme(url):
        case "memory":
            from pythia.brokers.memory import MemoryBroker, named_store

            return MemoryBroker(clock=clock, store=named_store(url.partition("://")[2].strip("/")))
        case "sqlite":
            from pythia.brokers.sqlite import SqliteBroker, SqliteClock

            time = SqliteClock.machine() if clock is None else SqliteClock.injected(clock)
            return SqliteBroker(_path(url), clock=time, connect_timeout=connect_timeout)
        case scheme:
            raise _unknown(scheme)


class OwnStore:
    """An idempotency store apart from the queue's broker. It opens at its first use; an async context manager closes it."""

    def __init__(self, broker: Broker, store: IdempotencyStore) -> None:
        self._broker = broker
        self._store = store

    async def connect(self) -> None:
        """Open it now. Idempotent; raises what the broker's ``connect`` does."""
        await self._broker.connect()

    async def close(self) -> None:
        """Idempotent; the next use opens it again."""
        await self._broker.close()

    async def claim(self, key: str, owner: str, ttl: float) -> Claim:
        await self._broker.connect()
        return await self._store.claim(key, owner, ttl)

    async def done(self, key: str, owner: str, ttl: float) -> bool:
        await self._broker.connect()
        return await self._store.done(key, owner, ttl)

    async def release(self, key: str, owner: str) -> None:
        await self._broker.connect()
        await self._store.release(key, owner)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def open_store(url: str, *, clock: Clock | None = None, connect_timeout: float = 10.0) -> OwnStore:
    """The idempotency store that ``dedup.store_url`` names.

    Raises:
        ConfigError, Unsupported: as ``open_broker``, and Unsupported for a broker that has no such store.
    """
    broker = open_broker(url, clock=clock, connect_timeout=connect_timeout)
    store = broker.idempotency()
    if store is None:
        raise Unsupported(f"dedup.store_url: {_scheme(url)}:// has no idempotency store; use sqlite://")
    return OwnStore(broker, store)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def _unknown(scheme: str) -> Unsupported | ConfigError:
    if scheme in _LATER:
        return Unsupported(f"broker.url: {scheme}:// is not supported by this version; use sqlite:// or memory://")
    what = f"{scheme}:// is no broker" if scheme else "it has no scheme"
    return ConfigError(
        f"broker.url: {what}; expected sqlite:///relative/path, sqlite:////absolute/path or memory://",
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
