"""How a worker stands with its broker, as it is told: each change once, however often it is tried."""

from __future__ import annotations

from collections.abc import Callable

from pythia.broker import Broker, ConsumerCancelled
from pythia.core.events import BrokerConnected, BrokerLost, BrokerRefusal, ConsumerLost
from pythia.core.outage import Outage
from pythia.core.shift import Shift
from pythia.errors import BrokerRefused


class Contact:
    """Tells of lost connections, lost consumers, and connections that are there again.

    ``on_connection`` is told of every change: None when connected, else why not.
    """

    def __init__(self, shift: Shift, on_connection: Callable[[BaseException | None], None]) -> None:
        self._shift = shift
        self._on_connection = on_connection
        self._outage = Outage()

    def failed(self, queue: str, error: BaseException, *, retry_in: float, broker: Broker, url: str) -> None:
        """The consumer of ``queue`` has ended; it is tried again in so many seconds."""
        if isinstance(error, ConsumerCancelled):
            self._cancelled(queue, str(error), broker, url)
            return
        self._on_connection(error)
        if not self._outage.worth_telling(error, self._shift.clock.monotonic()):
            return
        if isinstance(error, BrokerRefused):
            self._shift.emit(BrokerRefusal(error=error))
        else:
            self._shift.emit(BrokerLost(error=error, retry_in_seconds=round(retry_in, 3)))

    def _cancelled(self, queue: str, why: str, broker: Broker, url: str) -> None:
        """The connection is there, the consumer is not. Said once, and again when the reason becomes another."""
        self.connected(broker, url)
        tally = self._shift.tally.queue(queue)
        if tally.unregistered_since is None:
            tally.unregistered_since = self._shift.clock.time()
        if tally.unregistered_why != why:
            tally.unregistered_why = why
            self._shift.emit(ConsumerLost(queue=queue, reason=why))

    def connected(self, broker: Broker, url: str) -> None:
        """Something was registered, or could have been."""
        self._on_connection(None)
        downtime = self._outage.over(self._shift.clock.monotonic())
        if downtime is None:
            return
        self._shift.tally.reconnects += 1
        version = broker.capabilities.server_version
        self._shift.emit(BrokerConnected(url=url, server_version=version, downtime_seconds=round(downtime, 3)))
