"""What an operator should know of a RabbitMQ server before a worker runs on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from pythia.broker import Survey
from pythia.brokers.rabbitmq.settings import RabbitSettings
from pythia.brokers.rabbitmq.topology import Topology, version_of
from pythia.errors import BrokerError

_OLDEST_TESTED = (3, 10)


async def surveyed(topology: Topology, version: str | None, settings: RabbitSettings, queues: Sequence[str]) -> Survey:
    """Of the server's ``version``, and of each of ``queues`` that exists."""
    risks = [*_of_the_version(version)]
    if settings.allow_drop:
        risks.append("rabbitmq.allow_drop is true: a delivery-limited queue may drop messages")
    for queue in queues:
        risks += [risk async for risk in _of_a_queue(topology, queue)]
    return Survey(offers=list(_offers(version, settings)), risks=risks)


def _offers(version: str | None, settings: RabbitSettings) -> Iterator[str]:
    at = version_of(version)
    if at >= (3, 10):
        yield "delays in quorum queues, dead-lettered at least once (3.10)"
    if at >= (4, 0):
        yield "priorities in quorum queues (4.0)"
    yield (
        f"consumer_timeout is taken to be {settings.consumer_timeout:g} s (rabbitmq.consumer_timeout_seconds): AMQP does not "
        "reveal it"
    )


def _of_the_version(version: str | None) -> Iterator[str]:
    if version_of(version) < _OLDEST_TESTED:
        yield (
            f"RabbitMQ {version} is older than 3.10: retries wait in classic queues, which pass messages on at most once; "
            "upgrade the server"
        )


async def _of_a_queue(topology: Topology, queue: str) -> AsyncIterator[str]:
    try:
        if await topology.counts(queue) is None:
            return
        arguments = await topology.arguments(queue)
    except BrokerError as error:
        yield f"queue {queue!r} could not be looked at: {error}"
        return
    if arguments is None:
        yield f"queue {queue!r} is not durable, or its arguments may not be looked at: what it promises is not known"
        return
    if arguments.get("x-queue-type", "classic") == "classic":
        yield f"queue {queue!r} is a classic queue: it lives on one node; a quorum queue is replicated"
    if (limit := topology.drops_after(arguments)) is not None:
        yield (
            f"queue {queue!r} drops a message that was delivered {limit} times, since it has a delivery limit and no "
            "dead-letter exchange; crashes count"
        )
    if "x-max-length" in arguments and arguments.get("x-overflow", "drop-head") == "drop-head":
        yield f"queue {queue!r} drops its oldest messages beyond {arguments['x-max-length']} (x-max-length)"
    if "x-message-ttl" in arguments:
        yield f"queue {queue!r} drops what waits for more than {arguments['x-message-ttl']} ms (x-message-ttl)"
    if "x-expires" in arguments:
        yield f"queue {queue!r} is deleted with its messages when unused for {arguments['x-expires']} ms (x-expires)"
