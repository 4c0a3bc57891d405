"""Where the tests' brokers come from: named by the environment, running on this machine, or started for this session.

A missing broker skips its tests on a laptop, with the reason; where ``CI`` or ``PYTHIA_TEST_REQUIRE_BROKERS`` is set it
fails them, because a test that is silently not run proves nothing. ``./dev test`` installs what is missing where it can.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import subprocess
from typing import NoReturn

import pytest

from tests.kit.private_rabbit import PrivateRabbit, rabbit_binaries
from tests.kit.private_redis import PrivateRedis, redis_binary
from tests.kit.protocol import amqp_serves, redis_serves

__all__ = [
    "PrivateRabbit",
    "PrivateRedis",
    "redis_binary",
    "require_private_rabbit",
    "require_private_redis",
    "require_rabbitmq",
    "require_redis",
    "require_untouched_rabbitmq",
    "shared_rabbit",
]

LOCAL_RABBITMQ = "amqp://guest:guest@localhost:5672/"
_HINT = "install rabbitmq-server and redis-server, set PYTHIA_TEST_RABBITMQ_URL and PYTHIA_TEST_REDIS_URL, or run ./dev test"


def require_rabbitmq() -> str:
    """The URL of a RabbitMQ that others may be using too: make names of your own and clean up. Skips or fails without one."""
    return find_rabbitmq() or _missing("RabbitMQ")


def require_untouched_rabbitmq() -> str:
    """The same, and of a server of this machine a vhost in which no other test has left anything."""
    url = require_rabbitmq()
    return LOCAL_RABBITMQ + vhost if url.startswith(LOCAL_RABBITMQ) and (vhost := _own_vhost()) else url


def require_redis() -> str:
    """The URL of a Redis that others may be using too: make keys of your own and clean up. Skips or fails without one."""
    return find_redis() or _missing("Redis")


def require_private_rabbit() -> None:
    """Skips or fails unless ``PrivateRabbit`` can be started here."""
    if rabbit_binaries() is None:
        _missing("an installed RabbitMQ")


def require_private_redis() -> None:
    """Skips or fails unless ``PrivateRedis`` can be started here."""
    if redis_binary() is None or redis_binary("cli") is None:
        _missing("an installed Redis")


@functools.cache
def find_rabbitmq() -> str | None:
    """The first that there is, looked for once a session; None: none."""
    if url := os.environ.get("PYTHIA_TEST_RABBITMQ_URL"):
        return url
    if amqp_serves("localhost", 5672):
        return LOCAL_RABBITMQ + _own_vhost()
    return None if rabbit_binaries() is None else shared_rabbit().url


def _own_vhost() -> str:
    """A vhost of this session on the server of this machine, gone with it; the default one where we may not make any."""
    name = f"pythia-test-{secrets.token_hex(4)}"
    if not (_ctl("add_vhost", name) and _ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")):
        return ""
    atexit.register(_ctl, "delete_vhost", name)
    return name


def _ctl(*arguments: str) -> bool:
    program = shutil.which("rabbitmqctl")
    return (
        program is not None and subprocess.run([program, *arguments], capture_output=True, check=False).returncode == 0
    )


@functools.cache
def find_redis() -> str | None:
    """The first that there is, looked for once a session; None: none."""
    if url := os.environ.get("PYTHIA_TEST_REDIS_URL"):
        return url
    if redis_serves("localhost", 6379):
        return "redis://localhost:6379/0"
    return None if redis_binary() is None else _own_redis().url


@functools.cache
def shared_rabbit() -> PrivateRabbit:
    """The private node of this session, started when first asked for. Whoever breaks it mends it before the next test."""
    require_private_rabbit()
    rabbit = PrivateRabbit()
    atexit.register(rabbit.close)
    rabbit.start()
    return rabbit


@functools.cache
def _own_redis() -> PrivateRedis:
    redis = PrivateRedis()
    atexit.register(redis.close)
    redis.start()
    return redis


def must_have() -> bool:
    """Whether a missing broker is a failure."""
    words = (os.environ.get("CI", ""), os.environ.get("PYTHIA_TEST_REQUIRE_BROKERS", ""))
    return any(word.lower() not in {"", "0", "false", "no", "off"} for word in words)


def _missing(what: str) -> NoReturn:
    if must_have():
        pytest.fail(f"{what} is needed and not here: {_HINT}", pytrace=False)
    pytest.skip(f"{what} is not here: {_HINT}")
