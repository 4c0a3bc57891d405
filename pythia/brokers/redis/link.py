"""A connection of an event loop's: the commands of many callers travel in one round trip, none is ever sent twice.

Whoever is cancelled while waiting abandons its answer alone: what was sent is carried out, and the connection stays whole. A
connection that failed is of no more use; its owner makes another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any

from pythia.brokers.redis.driver import FAILURES, Address, NoScriptError, ResponseError, again, needs_reconnect, packed
from pythia.brokers.redis.script import Command, by_text
from pythia.brokers.redis.silence import Silence
from pythia.errors import BrokerError, BrokerUnavailable

_Flight = tuple[Sequence[Command], asyncio.Future[list[Any]]]

_INHERITED: list[Link] = []  # of a parent process, which must not even be closed, or of a loop that has ended


class Link:
    """One connection. ``number`` is what CLIENT UNBLOCK calls it, None where the server does not say."""

    def __init__(self, address: Address, *, patience: float = 0.0) -> None:
        self._address = address
        self._connection = address.connection()
        self._patience = address.settings.answer_timeout + patience
        self._waiting: list[_Flight] = []
        self._flying: asyncio.Task[None] | None = None
        self._gone: BrokerError | None = None
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self.number: int | None = None

    @classmethod
    async def open(cls, address: Address, role: str, *, patience: float = 0.0) -> Link:
        """A connection that answers. ``patience``: how many seconds longer than usual a command may block.

        Raises:
            BrokerUnavailable, BrokerRefused: the server is away, or does not want us.
        """
        link = cls(address, patience=patience)
        try:
            async with asyncio.timeout(address.settings.connect_timeout):
                await link._connection.connect()  # type: ignore[no-untyped-call]  # the driver left it without types
                await link._introduce(role)
        except TimeoutError:
            await link.drop()
            seconds = address.settings.connect_timeout
            raise BrokerUnavailable(f"{address.where}: no answer within {seconds:g} s") from None
        except FAILURES as error:
            await link.drop()
            raise address.lost(error) from error
        except BaseException:
            await link.drop()
            raise
        return link

    async def _introduce(self, role: str) -> None:
        """Both may be forbidden, and neither is needed."""
        name = f"{self._address.settings.client_name}:{role}"
        _, number = await self.ask(("CLIENT", "SETNAME", name), ("CLIENT", "ID"))
        self.number = number if isinstance(number, int) else None

    @property
    def is_usable(self) -> bool:
        """Whether it can be used in this process and loop."""
        return self._gone is None and self.is_ours

    @property
    def is_ours(self) -> bool:
        """Whether it was made in this process and event loop."""
        return self._pid == os.getpid() and self._loop is asyncio.get_running_loop()

    async def call(self, *command: Any, key: str = "") -> Any:
        """The answer to one command about ``key``.

        Raises:
            BrokerUnavailable: the connection is gone. BrokerRefused: the server says no.
        """
        (answer,) = await self.ask(command)
        if isinstance(answer, ResponseError):
            raise self._address.refused(answer, key) from answer
        return answer

    async def ask(self, *commands: Command) -> list[Any]:
        """An answer to each command, in order; a refusal is a ``ResponseError`` in its place.

        Raises:
            BrokerUnavailable: the connection is gone; what was sent may have been carried out.
        """
        answers = await self._send(commands)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        again = [text for index in unknown if (text := by_text(commands[index])) is not None]
        if again:
            for index, answer in zip(unknown, await self._send(again), strict=True):
                answers[index] = answer
        return answers

    async def close(self) -> None:
        """Wait, for a bounded time, for what is under way, then let go. Idempotent."""
        self._gone = self._gone or BrokerUnavailable(f"{self._address.where} is not connected: call connect() first")
        if not self.is_ours:
            _INHERITED.append(self)
            return
        if self._flying is not None:
            await asyncio.wait({self._flying}, timeout=self._address.settings.answer_timeout)
        await self.drop()

    async def drop(self) -> None:
        """Let go at once, in the middle of whatever is under way."""
        self._gone = self._gone or BrokerUnavailable(f"{self._address.where}: the connection was dropped")
        if self._flying is not None:
            self._flying.cancel()
            await asyncio.wait({self._flying})
        self._fail(self._gone, [])  # a task that was cancelled before its first step told nobody
        with contextlib.suppress(*FAILURES):
            await self._connection.disconnect(nowait=True)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if self._gone is not None:
            raise again(self._gone)
        answers: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting.append((commands, answers))
        if self._flying is None:
            self._flying = self._loop.create_task(self._fly(), name="redis round trips")  # ended by drop() and close()
        return await answers

    async def _fly(self) -> None:
        """Round trips for as long as somebody waits; what gathers during one goes with the next."""
        flights: list[_Flight] = []
        try:
            while self._waiting:
                flights, self._waiting = self._waiting, []
                _hand_out(flights, await self._exchange([command for commands, _ in flights for command in commands]))
        except FAILURES as error:
            self._fail(self._address.lost(error), flights)
            await self._connection.disconnect(nowait=True)
        except BaseException:
            self._fail(BrokerUnavailable(f"{self._address.where}: the connection was dropped"), flights)
            raise
        finally:
            self._flying = None

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        answers: list[Any] = []
        async with Silence(self._patience) as silence:
            await connection.send_packed_command([packed(commands)])
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except ResponseError as error:
                    answers.append(error)
                    if needs_reconnect(error):
                        self._gone = self._gone or self._address.refused(error)
                silence.heard()
        return answers

    def _fail(self, error: BrokerError, flights: list[_Flight]) -> None:
        self._gone = self._gone or error
        waiting, self._waiting = self._waiting, []
        for _, answers in (*flights, *waiting):
            if not answers.done():
                answers.set_exception(again(error))


def _hand_out(flights: Sequence[_Flight], answers: Sequence[Any]) -> None:
    start = 0
    for commands, waiting in flights:
        if not waiting.done():  # else nobody waits for it any more
            waiting.set_result(list(answers[start : start + len(commands)]))
        start += len(commands)
