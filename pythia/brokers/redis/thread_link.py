"""A connection of a thread's, which blocks. Not for use by two threads at once, but for ``drop``."""

from __future__ import annotations

import contextlib
from typing import Any

from pythia.brokers.redis.driver import FAILURES, Address, ResponseError
from pythia.brokers.redis.script import Command, by_text
from pythia.errors import BrokerError


class ThreadLink:
    """Connects when it is first used, and again after a failure."""

    def __init__(self, address: Address, role: str) -> None:
        self._address = address
        self._name = f"{address.settings.client_name}:{role}"
        self._connection: Any = None  # the driver's own annotation of its blocking connections is incomplete

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    def call(self, *command: Any) -> Any:
        """The answer to one command.

        Raises:
            BrokerUnavailable: the connection is gone. BrokerRefused: the server says no.
        """
        try:
            return self._call(command)
        except ResponseError as error:
            raise self._address.refused(error) from error
        except FAILURES as error:
            self.drop()
            raise self._address.lost(error) from error

    def refused(self, error: ResponseError) -> BrokerError:
        """What it means that a script answered with ``error``."""
        return self._address.refused(error)

    def drop(self) -> None:
        """Let go of the connection; whoever waits for an answer on it gets an error instead."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*FAILURES):
                connection.disconnect()

    def _call(self, command: Command) -> Any:
        connection = self._connected()
        try:
            return self._ask(connection, command)
        except ResponseError as error:
            text = by_text(command)
            if text is None or getattr(error, "status_code", None) != "NOSCRIPT":
                raise
            return self._ask(connection, text)

    def _connected(self) -> Any:
        if self._connection is None:
            connection: Any = self._address.thread_connection(self._address.settings.answer_timeout)
            connection.connect()
            with contextlib.suppress(ResponseError):  # it may be forbidden
                self._ask(connection, ("CLIENT", "SETNAME", self._name))
            self._connection = connection
        return self._connection

    @staticmethod
    def _ask(connection: Any, command: Command) -> Any:
        connection.send_packed_command(connection.pack_command(*command))
        return connection.read_response()
