"""The server as one broker uses it: the connection that every command but a blocking read goes through, and what it told."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from pythia.brokers.redis import keys
from pythia.brokers.redis.driver import Address, ResponseError, error_in, is_full
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.script import Command
from pythia.brokers.redis.settings import Mode, RedisSettings
from pythia.errors import BrokerError, BrokerRefused, BrokerUnavailable

Facts = dict[str, str]

_OLDEST = (6, 2)


class Server:
    """Connected by ``connect``, again after a loss and in a forked child."""

    def __init__(self, url: str, settings: RedisSettings, mode: Mode) -> None:
        self.address = Address(url, settings)
        self.settings = settings
        self.mode = mode
        self.facts: Facts = {}  # of INFO; empty where it is forbidden
        self._link: Link | None = None
        self.trouble: str | None = None  # why it takes no writes just now
        self._known: set[str] = set()
        self._fsync: str | None = None  # None where CONFIG is forbidden
        self._save: str | None = None

    async def connect(self) -> None:
        """Reach the server. Idempotent: a connection that works is kept.

        Raises:
            BrokerUnavailable: it is away. BrokerRefused: it does not want us.
        """
        if self._link is not None and self._link.is_usable:
            return
        await self.close()
        link = await Link.open(self.address, "commands")
        info, pong, fsync, save = await link.ask(
            ("INFO",), ("PING",), ("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "save")
        )
        self.facts = {} if isinstance(info, ResponseError) else _facts(info)
        self._fsync, self._save = config_value(fsync), config_value(save)
        if (refusal := self._refusal(pong)) is not None:
            await link.drop()
            raise refusal
        self._link = link

    def _refusal(self, pong: Any) -> BrokerError | None:
        """Why this server cannot serve us; a login that is missing is only noticed by the first command."""
        if isinstance(pong, ResponseError):
            return self.address.refused(pong)
        if self.version is not None and not self.is_at_least(*_OLDEST):
            return BrokerRefused(
                f"{self.address.where} is Redis {self.version}: streams and lists as they are used need 6.2"
            )
        return None

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        link, self._link = self._link, None
        self._known.clear()
        if link is not None:
            await link.close()

    async def abandon(self) -> None:
        """Let go of it in the middle of everything."""
        link, self._link = self._link, None
        if link is not None:
            await link.drop()

    @property
    def link(self) -> Link:
        """The connection.

        Raises:
            BrokerUnavailable: there is none in this process.
        """
        if self._link is None:
            raise BrokerUnavailable(f"{self.address.where} is not connected: call connect() first")
        if not self._link.is_ours:
            raise BrokerUnavailable(
                f"{self.address.where} was connected before a fork, or in another event loop: call connect() here"
            )
        return self._link

    async def open(self, role: str, *, patience: float = 0.0) -> Link:
        """Another connection, for what blocks."""
        return await Link.open(self.address, role, patience=patience)

    @property
    def version(self) -> str | None:
        return self.facts.get("redis_version")

    def is_at_least(self, *wanted: int) -> bool:
        """Whether the server said that it is of this version or a later one."""
        numbers = tuple(int(number) for number in re.findall(r"\d+", self.version or "")[:3])
        return numbers >= wanted

    @property
    def persists(self) -> bool | None:
        """True when what was written is on a disk soon; None when it is not known to be."""
        return True if self.facts.get("aof_enabled") == "1" else None

    @property
    def persistence(self) -> str:
        """In words, for people."""
        if self.facts.get("aof_enabled") == "1":
            return f"appendonly {self._fsync}" if self._fsync else "appendonly"
        match self._save:
            case None:
                return "persistence unknown"
            case "":
                return "nothing on disk"
        return f"snapshots only (save {self._save})"

    async def ping(self) -> None:
        """Ask for a write that changes nothing: the server refuses it when it would refuse a message.

        Raises:
            BrokerUnavailable: it is away, or takes no writes. BrokerRefused: it does not permit them.
        """
        (answer,) = await self.link.ask(("SETRANGE", keys.PING, 0, ""))
        self.note([answer])
        if isinstance(answer, ResponseError):
            raise self.address.refused(answer, keys.PING)

    def note(self, answers: Sequence[Any]) -> None:
        """Remember from the answers to writes why none are taken just now."""
        full = next((one for answer in answers if is_full(one := error_in(answer))), None)
        self.trouble = None if full is None else str(self.address.refused(full))

    def remembering(self, queue: str) -> Sequence[Command]:
        """What makes ``queues`` know this name; its refusal does not matter."""
        if queue in self._known:
            return ()
        self._known.add(queue)
        return [("SADD", keys.names(self.mode), queue)]

    def forget(self, queue: str) -> None:
        """Say its name again the next time: the server may have been emptied."""
        self._known.discard(queue)

    async def remember(self, queue: str) -> None:
        for command in self.remembering(queue):
            await self.link.ask(command)

    async def queues(self) -> list[str]:
        """The names that were remembered, sorted."""
        names = await self.link.call("SMEMBERS", keys.names(self.mode))
        return sorted(name.decode("utf-8", "backslashreplace") for name in names)

    async def carry(self, commands: Sequence[Command]) -> list[Any] | None:
        """Publish with these commands: the answer to each, or None when it is not known what became of any.

        Raises:
            BrokerUnavailable, BrokerRefused: nothing was sent.
        """
        if not self.link.is_usable:
            await self.link.call("PING")  # says why
        try:
            return await self.link.ask(*commands)
        except BrokerUnavailable:
            return None

    async def unblock(self, link: Link) -> None:
        """End a blocked read at once, where that is permitted; else it ends by itself."""
        if link.number is not None:
            with contextlib.suppress(BrokerUnavailable):
                await self.link.ask(("CLIENT", "UNBLOCK", link.number))


def _facts(info: Any) -> Facts:
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    lines = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


def config_value(answer: Any) -> str | None:
    """The one value of a CONFIG GET; None where it is forbidden."""
    return answer[1].decode() if isinstance(answer, list) and len(answer) == 2 else None
