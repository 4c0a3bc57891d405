"""Redis streams: a consumer group shares the entries out, what waits is theirs until acked."""

from __future__ import annotations

import secrets

from pythia.broker import ConsumeOptions, QueueDepth
from pythia.brokers.redis import keys
from pythia.brokers.redis.broker import RedisBroker
from pythia.brokers.redis.consumer import RedisConsumer
from pythia.brokers.redis.holder import Holder
from pythia.brokers.redis.script import script
from pythia.brokers.redis.settings import RedisSettings
from pythia.brokers.redis.stream_leases import Leases
from pythia.brokers.redis.stream_source import NOBODY, SILENT_MS, StreamSource, Token
from pythia.brokers.redis.writes import entry

_DEPTH = script("stream_depth", "clock")


class RedisStreamBroker(RedisBroker):
    """``redis://``: the queue's name is the stream's."""

    counts_deliveries = True

    def __init__(self, url: str, settings: RedisSettings) -> None:
        super().__init__(url, settings, "stream", entry)

    async def subscribe(self, queue: str, options: ConsumeOptions) -> RedisConsumer[Token]:
        """Joins the group; what earlier incarnations of this process lost with their connection goes back first."""
        source = StreamSource(self.server, queue, f"{options.consumer}:{secrets.token_hex(4)}")
        holder: Holder[Token] = Holder(options)
        return await self.consumer(queue, source, holder, Leases(holder, queue, self.server.settings.group, source))

    async def depth(self, queue: str) -> QueueDepth:
        """As it is at this moment, looked at by one script. What another group has not acked does not count."""
        command = _DEPTH([queue, keys.delayed(queue), keys.dead(queue)], self.server.settings.group, NOBODY, SILENT_MS)
        waiting, released, pending, later, due, dead, consumers, age = await self.server.link.call(*command, key=queue)
        return QueueDepth(
            queue=queue,
            ready=None if waiting < 0 else waiting + released + due,
            in_flight=pending - released,
            delayed=later,
            dead=dead,
            oldest_age_seconds=None if age < 0 else age / 1000,
            consumers=consumers,
            durable=self.server.persists,
        )
