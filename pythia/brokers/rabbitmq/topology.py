"""Queues, exchanges and bindings: what is there is used as it is, what is missing is made, where we may.

Arguments of an existing queue are found out by declaring it: the server names the first one that differs and its value, so
that after a few tries all are known. That changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiormq.channel import Channel

from pythia.broker import ConsumerCancelled
from pythia.brokers.rabbitmq import delays
from pythia.brokers.rabbitmq.link import Link, uncut
from pythia.brokers.rabbitmq.settings import RabbitSettings
from pythia.brokers.rabbitmq.wire import TO
from pythia.errors import BrokerError, BrokerRefused

ALONE_SECONDS = 30.0
LOOK_SECONDS = 0.05
_MOST_ARGUMENTS = 20
_DIFFERS = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.*?(?:but current is (?:the value )?(?:'(?P<value>[^']*)'|(?P<none>none))|$)"
)
_OF_TYPE = re.compile(r"but current is the value '(?P<value>[^']*)' of type '(?P<type>\w+)'")
_NUMBERS = frozenset({"long", "signedint", "unsignedint", "short", "byte", "signedlong", "unsignedlong", "signedshort"})
_LIMIT = "x-delivery-limit"
_DEAD_EXCHANGE = "x-dead-letter-exchange"
_SERVERS_LIMIT = 20  # of a quorum queue that says nothing, from 4.0 on


def dead_queue(queue: str) -> str:
    """Where the dead letters of a queue are."""
    return f"{queue}.dead"


class Topology:
    """What is declared on one server, over one connection."""

    def __init__(self, link: Link, settings: RabbitSettings) -> None:
        self._link = link
        self._settings = settings
        self._version = version_of(link.version)
        self._delays_ready = False
        self._returns: set[str] = set()
        self._looking: dict[str, asyncio.Lock] = {}

    @property
    def delays_are_quorum(self) -> bool:
        """Time limits and at-least-once dead-lettering came to quorum queues with 3.10."""
        return self._version >= (3, 10)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def counts(self, queue: str) -> tuple[int, int] | None:
        """Ready messages and consumers; None when there is no such queue."""
        return await uncut(self._counts(queue))

    async def _counts(self, queue: str) -> tuple[int, int] | None:
        try:
            async with self._link.asking(f"look at queue {queue!r}") as channel:
                answer = await channel.queue_declare(queue, passive=True)
        except ConsumerCancelled:
            return None
        return int(answer.message_count or 0), int(answer.consumer_count or 0)

    async def arguments(self, queue: str) -> Mapping[str, Any] | None:
        """The arguments of a queue that exists; None when they cannot be found out."""
        return await uncut(self._arguments(queue))

    async def _arguments(self, queue: str) -> Mapping[str, Any] | None:
        known: dict[str, Any] = {"x-queue-type": self._settings.queue_type}
        for _ in range(_MOST_ARGUMENTS):
            try:
                async with self._link.asking("look") as channel:
                    await channel.queue_declare(queue, durable=True, arguments=dict(known))
            except BrokerRefused as error:
                if not _learn(known, str(error)):
                    return None
            else:
                return known
        return None

    @contextlib.asynccontextmanager
    async def looking_alone(self, queue: str) -> AsyncIterator[None]:
        """Nobody else, anywhere, looks through ``queue`` meanwhile: what one looks at the others do not see. A queue that is
        exclusive to our connection stands for that.

        Raises:
            BrokerError: somebody else has been at it for a long time.
        """
        async with self._looking.setdefault(queue, asyncio.Lock()):
            name = f"pythia.look.{queue}"[:255]
            await uncut(self._lock(name), unwanted=lambda _none: self._unlock(name))
            try:
                yield
            finally:
                await uncut(self._unlock(name))

    async def _unlock(self, name: str) -> None:
        with contextlib.suppress(BrokerError):
            async with self._link.asking(f"delete queue {name!r}") as channel:
                await channel.queue_delete(name)

    async def _lock(self, name: str) -> None:
        for _ in range(int(ALONE_SECONDS / LOOK_SECONDS)):
            try:
                async with self._link.asking(f"declare queue {name!r}") as channel:
                    await channel.queue_declare(name, exclusive=True, auto_delete=True)
            except BrokerRefused as error:
                if "RESOURCE_LOCKED" not in str(error):
                    raise
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return
        raise BrokerError(f"somebody else has been looking through the dead letters for {ALONE_SECONDS:g} s: try again")

    # -- making -------------------------------------------------------------------------------------------------------

    async def ensure(self, queue: str) -> None:
        """Have ``queue`` there, and its dead letters' queue, ready to be consumed.

        Raises:
            BrokerRefused: it contradicts what the user wrote, or would drop messages. ConsumerCancelled: it is missing, and is
            not ours to make.
        """
        await uncut(self._ensure(queue))

    async def _ensure(self, queue: str) -> None:
        if await self._counts(queue) is None:
            await self._make(queue, self._queue_arguments())
        else:
            await self._accept(queue)
        await self._bind(queue)
        await self._ensure_plain(dead_queue(queue))

    async def ensure_plain(self, queue: str) -> None:
        """Have a queue of ours there, that messages only wait in."""
        await uncut(self._ensure_plain(queue))

    async def _ensure_plain(self, queue: str) -> None:
        if await self._counts(queue) is None:
            await self._make(queue, {"x-queue-type": self._settings.queue_type, **self._no_limit()})

    async def ensure_output(self, queue: str) -> None:
        """Have the queue there that a worker's outputs go to."""
        await uncut(self._ensure_output(queue))

    async def _ensure_output(self, queue: str) -> None:
        if await self._counts(queue) is None:
            await self._make(queue, self._queue_arguments())

    async def _ensure_delays(self) -> None:
        """Have everything there that messages wait in."""
        if self._delays_ready:
            return
        *_, last = delays.every_queue(quorum=self.delays_are_quorum)
        if await self._counts(last) is None:
            await self._make_delays()
        self._delays_ready = True

    async def ensure_return(self, queue: str) -> None:
        """Have the way back from the delays to ``queue`` there."""
        await uncut(self._ensure_return(queue))

    async def _ensure_return(self, queue: str) -> None:
        await self._ensure_delays()
        if queue in self._returns:
            return
        arguments: dict[str, Any] = {"x-match": "all", TO: queue}
        async with self._link.asking(f"bind queue {queue!r} to {delays.RETURN}") as channel:
            await channel.queue_bind(queue, delays.RETURN, routing_key="", arguments=arguments)
        self._returns.add(queue)

    def forget(self) -> None:
        """Somebody deleted something of ours: look again before the next use."""
        self._delays_ready = False
        self._returns.clear()

    async def _make(self, queue: str, arguments: Mapping[str, Any]) -> None:
        if not self._settings.declare:
            raise ConsumerCancelled(f"queue {queue!r} does not exist, and broker.declare is false")
        async with self._link.asking(f"declare queue {queue!r}") as channel:
            await channel.queue_declare(queue, durable=True, arguments=dict(arguments))
        self._returns.discard(queue)  # a queue that was deleted has lost its way back from the delays

    def _queue_arguments(self) -> dict[str, Any]:
        kind = self._settings.arguments.get("x-queue-type", self._settings.queue_type)
        limit = self._no_limit() if kind == "quorum" else {}
        return {"x-queue-type": kind, **limit, **self._settings.arguments}

    def _no_limit(self) -> dict[str, Any]:
        """From 4.0 on a quorum queue drops what came 20 times, unless told otherwise; before, being told destroyed messages."""
        return {_LIMIT: -1} if self._version >= (4, 0) and self._settings.queue_type == "quorum" else {}

    async def _bind(self, queue: str) -> None:
        exchange = self._settings.exchange
        if not exchange:
            return
        async with self._link.asking(f"declare exchange {exchange!r}") as channel:
            await self._declare_exchange(channel, exchange)
        async with self._link.asking(f"bind queue {queue!r} to exchange {exchange!r}") as channel:
            for key in self._settings.routing_keys or (queue,):
                await channel.queue_bind(queue, exchange, routing_key=key)

    async def _declare_exchange(self, channel: Channel, exchange: str) -> None:
        kind, passive = self._settings.exchange_type, not self._settings.declare
        await channel.exchange_declare(exchange, exchange_type=kind, durable=True, passive=passive)

    async def _make_delays(self) -> None:
        """From the last hop to the first, so that nothing waits in a queue whose way on is not there yet."""
        if not self._settings.declare:
            raise BrokerRefused(
                "the delay queues (pythia.delay.*) do not exist, and broker.declare is false: have them made once by a worker "
                "with broker.declare = true"
            )
        async with self._link.asking("declare the delay queues (pythia.*)") as channel:
            await self._make_ends(channel)
            for name, arguments in delays.every_queue(quorum=self.delays_are_quorum).items():
                await channel.queue_declare(name, durable=True, arguments=dict(arguments))
            for number in range(delays.LEVELS):
                await self._join(channel, number)

    async def _make_ends(self, channel: Channel) -> None:
        await channel.exchange_declare(delays.UNROUTED, exchange_type="fanout", durable=True)
        kind = "quorum" if self.delays_are_quorum else "classic"
        limit = {_LIMIT: -1} if self._version >= (4, 0) else {}
        await channel.queue_declare(delays.UNROUTED, durable=True, arguments={"x-queue-type": kind, **limit})
        await channel.queue_bind(delays.UNROUTED, delays.UNROUTED, routing_key="")
        spare: dict[str, Any] = {"alternate-exchange": delays.UNROUTED}
        await channel.exchange_declare(delays.RETURN, exchange_type="headers", durable=True, arguments=spare)
        for number in range(delays.LEVELS):
            await channel.exchange_declare(delays.level(number), exchange_type="topic", durable=True)

    async def _join(self, channel: Channel, number: int) -> None:
        name = delays.level(number)
        await channel.queue_bind(name, name, routing_key=delays.binding(number, "1"))
        await channel.exchange_bind(
            destination=delays.below(number), source=name, routing_key=delays.binding(number, "0")
        )

    # -- an existing queue --------------------------------------------------------------------------------------------

    async def _accept(self, queue: str) -> None:
        found = await self._arguments(queue)
        if found is None:
            return
        found = {"x-queue-type": "classic", **found}
        for name, wanted in self._settings.written.items():
            if str(found.get(name)) != str(wanted):
                key = "rabbitmq.queue_type" if name == "x-queue-type" else "rabbitmq.arguments"
                raise BrokerRefused(
                    f"queue {queue!r} exists with {name} = {found.get(name, 'nothing')!s}, and {key} says {wanted}: take that "
                    "setting away to consume the queue as it is, or delete the queue"
                )
        if not self._settings.allow_drop and (limit := self.drops_after(found)) is not None:
            raise BrokerRefused(
                f"queue {queue!r} drops a message that was delivered {limit} times, since it has a delivery limit and no "
                "dead-letter exchange: give it one (a policy), or set rabbitmq.allow_drop = true"
            )

    def drops_after(self, arguments: Mapping[str, Any]) -> int | None:
        """After how many deliveries a queue with these arguments drops a message; None when it does not."""
        if arguments.get("x-queue-type") != "quorum" or _DEAD_EXCHANGE in arguments:
            return None
        limit = arguments.get(_LIMIT, _SERVERS_LIMIT if self._version >= (4, 0) else None)
        return limit if isinstance(limit, int) and limit >= 0 else None


def version_of(text: str | None) -> tuple[int, ...]:
    """``3.10.8`` as numbers; of nothing, the oldest."""
    return tuple(int(part) for part in re.findall(r"\d+", (text or "0").split("-")[0])[:3])


def _learn(known: dict[str, Any], refusal: str) -> bool:
    """Take over what the server says of the first argument that differs; whether it said anything of use."""
    found = _DIFFERS.search(refusal)
    if found is None or not (found["name"].startswith("x-")):
        return False
    if found["none"]:
        known.pop(found["name"], None)
        return True
    typed = _OF_TYPE.search(refusal)
    value: Any = found["value"]
    if typed is not None and typed["type"] in _NUMBERS:
        value = int(value)
    elif typed is not None and typed["type"] == "bool":
        value = value == "true"
    if value is None or known.get(found["name"]) == value:
        return False
    known[found["name"]] = value
    return True
