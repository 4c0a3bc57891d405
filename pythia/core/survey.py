"""What an operator should know of the broker when a worker starts; ``pythia check`` tells the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pythia.broker import Broker, Capabilities, Survey
from pythia.core.events import Notice
from pythia.errors import BrokerError

if TYPE_CHECKING:
    from pythia.config import WorkerConfig
    from pythia.core.life import Life


def at_most_once(able: Capabilities) -> Iterator[str]:
    """The sentence about a broker that does not keep what it hands out; nothing about any other."""
    if able.guarantee == "at-most-once":
        yield f"{able.name} delivers at most once: a message in hand when the process dies, or said while nobody listens, is lost"


async def survey(broker: Broker, config: WorkerConfig) -> Survey:
    """What the server offers and risks; a survey that could not be made, or not within ``broker.connect_timeout_seconds``, is
    a risk of its own and no reason not to run."""
    limit = config.broker.connect_timeout_seconds
    try:
        async with asyncio.timeout(limit):
            return await broker.survey(config.queue_names)
    except BrokerError as error:
        return Survey(risks=(f"the broker could not be looked at: {error}",))
    except TimeoutError:
        return Survey(risks=(f"the broker could not be looked at: no answer within {limit:g} s",))


async def tell_risks(life: Life, broker: Broker, config: WorkerConfig) -> None:
    """A line for each risk of the broker that was just reached, as ``config`` uses it."""
    found = await survey(broker, config)
    for risk in (*at_most_once(broker.capabilities), *found.risks):
        life.emit(Notice(detail=risk))
