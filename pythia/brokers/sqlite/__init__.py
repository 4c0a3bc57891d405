"""The SQLite broker: a file that several processes share, with no server."""

from pythia.brokers.sqlite.broker import SqliteBroker
from pythia.brokers.sqlite.clock import SqliteClock

__all__ = ["SqliteBroker", "SqliteClock"]
