"""The driver's connections and its errors: the one place that knows redis-py.

Its clients and pools are not used: they send a command again after a lost answer (an XADD twice, an entry read and never
seen), and share connections between calls that are cut off in the middle. What is made here is a connection, RESP2, bytes in
and bytes out, that never tries anything again.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio.connection
import redis.asyncio.retry
import redis.connection
import redis.exceptions
import redis.retry
from redis.backoff import NoBackoff

from pythia.brokers.redis.settings import RedisSettings, driver_url
from pythia.config.urls import redact_url
from pythia.errors import BrokerError, BrokerRefused, BrokerUnavailable

RedisError = redis.exceptions.RedisError
ResponseError = redis.exceptions.ResponseError
NoScriptError = redis.exceptions.NoScriptError

FAILURES = (redis.exceptions.RedisError, OSError, EOFError)
"""What a connection raises when it is of no more use."""

_OF_A_POOL = ("max_connections", "timeout")  # parameters of a URL that mean nothing to one connection
_WAITS = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "UNBLOCKED")
_LOGIN_CODES = ("NOAUTH", "WRONGPASS")
_ADVICE = {
    "NOPERM": "extend the user's ACL",
    "WRONGTYPE": "it holds another type of value: choose another queue name, or another ?mode=",
    "MOVED": "this is a cluster of several shards: use a single primary",
    "ASK": "this is a cluster of several shards: use a single primary",
    "CROSSSLOT": "this is a cluster of several shards: use a single primary",
}
_FULL = ("OOM", "MISCONF", "NOREPLICAS")
_LOGIN = (redis.exceptions.AuthenticationError, redis.exceptions.AuthenticationWrongNumberOfArgsError)


class Address:
    """Where the server is, and how connections to it are made."""

    def __init__(self, url: str, settings: RedisSettings) -> None:
        self._url = driver_url(url)
        self.settings = settings
        self.shown = redact_url(url)
        parts = urlsplit(url)
        self.where = f"Redis at {parts.hostname}:{parts.port or 6379}"

    def connection(self) -> redis.asyncio.connection.AbstractConnection:
        """A connection for an event loop, not connected yet. It waits for ever: see ``silence``.

        Raises:
            BrokerRefused: the URL has a parameter that the driver does not know.
        """
        given: dict[str, Any] = dict(redis.asyncio.connection.parse_url(self._url))
        kind = given.pop("connection_class", redis.asyncio.connection.Connection)
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        made: redis.asyncio.connection.AbstractConnection = self._made(kind, given, None, retry)
        return made

    def thread_connection(self, timeout: float) -> redis.connection.AbstractConnection:
        """The same for a thread; an answer may take ``timeout`` seconds."""
        given: dict[str, Any] = dict(
            redis.connection.parse_url(self._url)  # type: ignore[no-untyped-call]  # the driver left it without types
        )
        kind = given.pop("connection_class", redis.connection.Connection)
        made: redis.connection.AbstractConnection = self._made(kind, given, timeout, redis.retry.Retry(NoBackoff(), 0))
        return made

    def _made(self, kind: Any, given: dict[str, Any], timeout: float | None, retry: Any) -> Any:
        ours = {
            "retry": retry,
            "retry_on_timeout": False,
            "socket_timeout": timeout,
            "socket_connect_timeout": self.settings.connect_timeout,
            "protocol": 2,
            "decode_responses": False,
            "driver_info": None,  # CLIENT SETINFO may be forbidden
        }
        try:
            return kind(**{name: value for name, value in given.items() if name not in _OF_A_POOL} | ours)
        except TypeError as error:
            raise BrokerRefused(f"broker.url {self.shown}: a parameter that the driver does not know") from error

    def lost(self, error: BaseException) -> BrokerError:
        """What it means that a connection failed with ``error``."""
        if isinstance(error, _LOGIN):
            return self._login(_text(error))
        if isinstance(error, ResponseError):
            return self.refused(error)
        if (cause := _unverified(error)) is not None:
            return BrokerRefused(f"{self.where} has a certificate that cannot be verified: {cause.verify_message}")
        return BrokerUnavailable(f"{self.where}: {_text(error) or type(error).__name__}")

    def refused(self, error: BaseException, key: str = "") -> BrokerError:
        """What it means that the server answered with ``error`` to a command about ``key``."""
        code, text = code_of(error), _text(error)
        if code in _LOGIN_CODES:
            return self._login(text)
        if code in _FULL:
            return BrokerUnavailable(f"{self.where} takes no writes: {text}")
        if code in _WAITS:
            return BrokerUnavailable(f"{self.where}: {text}")
        about = f" (key {key!r})" if key else ""
        advice = _ADVICE.get(code)
        return BrokerRefused(f"{self.where} refused a command{about}: {text}" + (f"; {advice}" if advice else ""))

    def _login(self, text: str) -> BrokerRefused:
        return BrokerRefused(
            f"{self.where} refuses the login: {text}; correct the user and password in broker.url {self.shown}"
        )


def packed(commands: Iterable[Sequence[Any]]) -> bytes:
    """Commands as the server reads them. The driver's own way takes three times as long."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            kind = type(word)
            raw = word if kind is bytes else word.encode() if kind is str else _raw(word)
            parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def _raw(word: Any) -> bytes:
    if isinstance(word, str):
        return word.encode()
    return repr(word).encode() if isinstance(word, int | float) else bytes(word)


def _unverified(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Why the certificate of the server was not believed, if that is what the driver wraps."""
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
    return None


def code_of(error: BaseException) -> str:
    """The word with which Redis names an error."""
    code = getattr(error, "status_code", None)
    return str(code) if code else str(error).partition(" ")[0].lstrip("-")


def error_in(answer: Any) -> Any:
    """The error that a script answered as text, as an error; any other answer as it is. No entry's id has letters."""
    if isinstance(answer, bytes) and answer.lstrip(b"-").partition(b" ")[0].isalpha():
        return ResponseError(answer.decode("utf-8", "replace").lstrip("-"))
    return answer


def is_full(error: Any) -> bool:
    """Whether the server takes no writes just now: it is out of memory, cannot save, or lacks its replicas."""
    return isinstance(error, ResponseError) and code_of(error) in _FULL


def needs_reconnect(error: BaseException) -> bool:
    """Whether this server will not serve this connection any more: a demoted primary, a login that is over."""
    return code_of(error) in ("READONLY", "MASTERDOWN", "NOAUTH")


def again(error: BrokerError) -> BrokerError:
    """The same error once more: each of those that it is raised to has one of its own."""
    return type(error)(str(error))


def _text(error: BaseException) -> str:
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code and not str(error).startswith(str(code)) else str(error)
