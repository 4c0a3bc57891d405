"""Fixtures of the tests of the Redis adapters: a server of their own, and brokers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.kit.servers import PrivateRedis, require_private_redis
from tests.unit.redis_kit import Brokers


@pytest.fixture(scope="module")
def redis_server() -> Iterator[PrivateRedis]:
    """Faults are its purpose; a test leaves it empty, whole and running."""
    require_private_redis()
    with PrivateRedis() as server:
        yield server


@pytest.fixture
def redis(redis_server: PrivateRedis) -> Iterator[PrivateRedis]:
    redis_server.cli("FLUSHALL")
    yield redis_server
    redis_server.fill_up(False)
    redis_server.cli("FLUSHALL")


@pytest.fixture
async def brokers(redis: PrivateRedis) -> AsyncIterator[Brokers]:
    brokers = Brokers(redis.url)
    yield brokers
    await brokers.close()
