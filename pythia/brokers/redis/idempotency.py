"""The idempotency store of a Redis server: one key an effect, which expires by itself."""

from __future__ import annotations

from typing import Any

from pythia.broker import Claim
from pythia.brokers.redis import keys
from pythia.brokers.redis.script import Script, millis, script
from pythia.brokers.redis.server import Server

_CLAIM = script("effect_claim")
_DONE = script("effect_done")
_RELEASE = script("effect_release")


class RedisEffects:
    """Which effects were done."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def claim(self, key: str, owner: str, ttl: float) -> Claim:
        answer = await self._run(_CLAIM, key, owner, millis(ttl))
        return Claim(answer.decode())

    async def done(self, key: str, owner: str, ttl: float) -> bool:
        return bool(await self._run(_DONE, key, owner, millis(ttl)))

    async def release(self, key: str, owner: str) -> None:
        await self._run(_RELEASE, key, owner)

    async def _run(self, what: Script, key: str, *arguments: Any) -> Any:
        name = keys.effect(key)
        return await self._server.link.call(*what([name], *arguments), key=name)
