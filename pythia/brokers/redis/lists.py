"""Redis lists: any producer's LPUSH is a message; a consumer moves what it takes into a list of its own."""

from __future__ import annotations

import secrets

from pythia.broker import ConsumeOptions, QueueDepth
from pythia.brokers.redis import keys
from pythia.brokers.redis.broker import RedisBroker
from pythia.brokers.redis.consumer import RedisConsumer
from pythia.brokers.redis.holder import Holder
from pythia.brokers.redis.list_leases import ListLeases
from pythia.brokers.redis.list_source import ListSource, Token
from pythia.brokers.redis.script import script
from pythia.brokers.redis.settings import RedisSettings
from pythia.brokers.redis.writes import payload

_DEPTH = script("list_depth", "clock")


class RedisListBroker(RedisBroker):
    """``redis://…?mode=list``: the queue's name is the list's."""

    counts_deliveries = False

    def __init__(self, url: str, settings: RedisSettings) -> None:
        super().__init__(url, settings, "list", payload)

    async def subscribe(self, queue: str, options: ConsumeOptions) -> RedisConsumer[Token]:
        """Registers; what earlier incarnations of this process lost with their connection goes back first."""
        source = ListSource(self.server, queue, f"{options.consumer}:{secrets.token_hex(4)}", options.lease)
        holder: Holder[Token] = Holder(options)
        return await self.consumer(queue, source, holder, ListLeases(holder, queue, source))

    async def depth(self, queue: str) -> QueueDepth:
        """As it is at this moment, looked at by one script. A list does not tell when its messages came."""
        names = [queue, keys.delayed(queue), keys.dead(queue), keys.consumers(queue)]
        command = _DEPTH(names, keys.processing(queue, ""))
        ready, held, later, due, dead, consumers = await self.server.link.call(*command, key=queue)
        return QueueDepth(
            queue=queue,
            ready=ready + due,
            in_flight=held,
            delayed=later,
            dead=dead,
            consumers=consumers,
            durable=self.server.persists,
        )
