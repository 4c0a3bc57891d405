"""One consumer's dealings with one stream's group: what is asked, and what the answers mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pythia.broker import ConsumerCancelled, Settled
from pythia.brokers.redis import fields
from pythia.brokers.redis.consumer import AT_ONCE, BLOCK_SECONDS
from pythia.brokers.redis.driver import ResponseError, code_of, error_in, is_full
from pythia.brokers.redis.fields import Fields
from pythia.brokers.redis.holder import Held
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.script import Command, millis, script
from pythia.brokers.redis.server import Server
from pythia.brokers.redis.writes import Write, described
from pythia.errors import BrokerError
from pythia.message import Delivery

NOBODY = "pythia-released"
"""The consumer with whom entries wait that were given back."""

SILENT_MS = 15_000
"""After so long without a sign a consumer does not count; it gives one every five seconds."""

RELEASED_IDLE_MS = 86_400_000  # longer than any lease
TAKEOVER_SECONDS = 1.0  # between looks for what may be taken over
RENEWED_AT_ONCE = 200  # entries in one script, which holds everybody else up meanwhile
_DELETED = 2  # is ours, and not in the stream any more

_RENEW = script("stream_renew", "fence")
_ACK = script("stream_ack", "fence")
_MOVE = script("stream_move", "clock", "writes", "fence")
_RELEASE = script("stream_release", "fence")
_TAKE = script("stream_take")
_LEAVE = script("stream_leave")


class Token(NamedTuple):
    """The name of one hand-out: nobody else's, and not the same entry's earlier or later one."""

    id: str
    consumer: str
    nth: int  # hand-out


class StreamSource:
    """``consumer`` is the name of one incarnation of ours in the group."""

    def __init__(self, server: Server, queue: str, consumer: str) -> None:
        self._server = server
        self._look_at = 0.0
        self.vanished = 0
        self._queue = queue
        self._name = server.settings.group
        self._deletes = {"auto": "auto", True: "always", False: "never"}[server.settings.delete_on_ack]
        self.consumer = consumer
        self.marks: fields.Marks = {fields.GROUP: self._name.encode()}

    async def join(self) -> None:
        """Be there, from the stream's beginning; the group is made if it may be.

        Raises:
            ConsumerCancelled: it is missing and not ours to make.
        """
        link = self._server.link
        if self._server.settings.declare:
            (made,) = await link.ask(("XGROUP", "CREATE", self._queue, self._name, "0", "MKSTREAM"))
            if isinstance(made, ResponseError) and code_of(made) != "BUSYGROUP" and not is_full(made):
                raise self.refused(made)
        await self.check()
        (joined,) = await link.ask(("XGROUP", "CREATECONSUMER", self._queue, self._name, self.consumer))
        if isinstance(joined, ResponseError) and not is_full(joined):  # then the first read makes it
            raise self.refused(joined)

    async def read(self, reader: Link, room: int, lease: float, is_over: Callable[[], bool]) -> list[Held[Token]]:
        """Up to ``room`` entries, or none within a second. What may be taken over goes first: it is older."""
        if time.monotonic() >= self._look_at and (taken := await self._take_over(room, lease)):
            return taken
        return [] if is_over() else await self._read_new(reader, room, lease)

    def look_again(self) -> None:
        """Something was given back: the next read looks for it."""
        self._look_at = 0.0

    async def _read_new(self, reader: Link, room: int, lease: float) -> list[Held[Token]]:
        asked = time.monotonic()
        group = ("XREADGROUP", "GROUP", self._name, self.consumer, "COUNT", room)
        (answer,) = await reader.ask((*group, "BLOCK", int(BLOCK_SECONDS * 1000), "STREAMS", self._queue, ">"))
        if isinstance(answer, ResponseError):
            raise self.refused(answer)
        if not answer:
            return []
        now, since = time.time(), time.monotonic()
        held = [self._held(key, 1, words, now, since) for key, words in answer[0][1]]
        if since - asked > lease / 2:
            held = await self._still_ours(held)
        return await self._ours(held)

    async def _still_ours(self, held: list[Held[Token]]) -> list[Held[Token]]:
        """Of entries that came a while ago, to a loop that was blocked: nobody renewed what nobody had seen. With a new lease
        those that are ours still; the others somebody has taken over."""
        kept = []
        for start in range(0, len(held), RENEWED_AT_ONCE):
            part = held[start : start + RENEWED_AT_ONCE]
            for one, answer in zip(part, await self._run(self.renewing(part)), strict=True):
                one.vanished = answer == _DELETED
                kept += [one] if answer else []
        self.vanished += sum(one.vanished for one in kept)
        return kept

    async def _take_over(self, room: int, lease: float) -> list[Held[Token]]:
        self._look_at = time.monotonic() + TAKEOVER_SECONDS  # before the await: look_again() may come meanwhile
        taken, vanished = await self._run(_TAKE([self._queue], self._name, self.consumer, NOBODY, millis(lease), room))
        self.vanished += len(vanished)
        if len(taken) == room:
            self._look_at = 0.0  # there may be more
        now, since = time.time(), time.monotonic()
        return await self._ours([self._held(key, count, words, now, since) for key, count, words in taken])

    async def _ours(self, held: list[Held[Token]]) -> list[Held[Token]]:
        """Without the copies that are meant for another group, which has its own eyes on them: a retry is nobody else's. A
        group that nobody serves any more (it was renamed) is served by whoever comes."""
        meant = {id(one): group for one in held if (group := self._meant_for(one)) not in (None, self._name)}
        if not meant:
            return held
        served = {group for group in set(meant.values()) if await self._is_served(group)}
        strangers = [one for one in held if meant.get(id(one)) in served]
        if strangers:
            await self._run(("XACK", self._queue, self._name, *(one.token.id for one in strangers)))
        return [one for one in held if one not in strangers]

    @staticmethod
    def _meant_for(held: Held[Token]) -> str | None:
        if fields.GROUP not in held.fields:
            return None
        return fields.text_of(dict(fields.pairs(held.fields)).get(fields.GROUP))

    async def _is_served(self, group: str | None) -> bool:
        (consumers,) = await self._server.link.ask(("XINFO", "CONSUMERS", self._queue, group or ""))
        if isinstance(consumers, ResponseError):
            return False
        rows: list[dict[bytes, Any]] = [dict(fields.pairs(row)) for row in consumers]
        return any(row[b"name"] != NOBODY.encode() and row[b"idle"] < SILENT_MS for row in rows)

    def _held(self, key: bytes, count: int, written: Fields, now: float, since: float) -> Held[Token]:
        words = fields.unbounded(written)
        envelope, marks = fields.envelope_of(words)
        name = key.decode()
        token = Token(name, self.consumer, count)
        stored_at = int(key.partition(b"-")[0]) / 1000
        if not marks:
            delivery = Delivery(
                envelope,
                queue=self._queue,
                token=token,
                deliveries=count,
                redelivered=count > 1,
                first_seen=min(now, stored_at),
                identity=name,
            )
            return Held(token, delivery, words, since)
        attempt, deliveries = fields.attempt_of(marks), count + fields.deliveries_of(marks)
        delivery = Delivery(
            envelope,
            queue=self._queue,
            token=token,
            attempt=attempt,
            deliveries=deliveries,
            redelivered=deliveries > 1 or attempt > 1,
            first_seen=fields.first_seen_of(marks, stored_at, now),
            identity=fields.identity_of(marks) or name,
        )
        return Held(token, delivery, words, since)

    @staticmethod
    def order(held: Held[Token]) -> int:  # noqa: ARG004 - entries keep their places in the stream
        """In which order entries go back."""
        return 0

    def renewing(self, held: Sequence[Held[Token]]) -> Command:
        """A new lease for up to ``RENEWED_AT_ONCE`` entries, each answered by 1, 0 (not ours) or 2 (deleted)."""
        names = [word for one in held for word in (one.token.id, one.token.nth)]
        return _RENEW([self._queue], self._name, self.consumer, *names)

    def acking(self, held: Sequence[Held[Token]]) -> Command:
        """Takes up to ``AT_ONCE`` entries out, each answered by 1 or 0."""
        tokens = [one.token for one in held]
        words: list[str | int] = [id_ for id_, _, nth in tokens if nth == 1]
        if len(words) == len(tokens):
            return _ACK([self._queue], self._name, self._deletes, self.consumer, b"1", *words)
        words = [word for id_, _, nth in tokens for word in (id_, nth)]
        return _ACK([self._queue], self._name, self._deletes, self.consumer, b"0", *words)

    def releasing(self, held: Sequence[Held[Token]]) -> Command:
        """Gives up to ``AT_ONCE`` entries back, each answered by 1 or 0."""
        return _RELEASE([self._queue], self._name, NOBODY, RELEASED_IDLE_MS, *_names(held))

    def moving(self, held: Held[Token], writes: Sequence[Write], *, back: bool) -> Command:
        """Writes, then takes the entry out, or gives it ``back``; answered by 1, 0 or an error."""
        token = held.token
        count = "gone" if held.vanished else token.nth
        mode = "release" if back else self._deletes
        keys = [self._queue, *(write.key for write in writes)]
        fence = (self._name, mode, token.id, token.consumer, count, NOBODY, RELEASED_IDLE_MS)
        return _MOVE(keys, *fence, *described(writes, 1))

    def answered(self, answer: Any, keys: Sequence[object]) -> Settled:
        """What the answer to one item of these means, in which ``keys`` were touched.

        Raises:
            ConsumerCancelled: the group is gone. BrokerUnavailable, BrokerRefused: as the server says.
        """
        match answer:
            case 1:
                return Settled.DONE
            case 0:
                return Settled.STALE
        error = error_in(answer)
        if is_full(error):
            return Settled.REFUSED
        raise self.refused(error, " or ".join(map(str, keys)))

    async def leave(self, consumer: str) -> None:
        """Give back everything that an incarnation of ours holds, seen or not, and forget it."""
        while await self._run(_LEAVE([self._queue], self._name, NOBODY, RELEASED_IDLE_MS, consumer)) == AT_ONCE:
            pass

    async def check(self) -> None:
        """Raise when the group is gone, or the connection."""
        (groups,) = await self._server.link.ask(("XINFO", "GROUPS", self._queue))
        if isinstance(groups, ResponseError):
            raise self.refused(groups)
        if not any(self._name.encode() in row for row in groups):
            raise self._cancelled()

    def refused(self, error: BaseException, key: str = "") -> BrokerError:
        """What the server's refusal means for this consumer."""
        if any(word in str(error) for word in ("NOGROUP", "no such key", "UNBLOCKED", "requires the key to exist")):
            return self._cancelled()
        return self._server.address.refused(error, key or self._queue)

    def _cancelled(self) -> ConsumerCancelled:
        self._server.forget(self._queue)
        missing = "" if self._server.settings.declare else ", and broker.declare is false"
        return ConsumerCancelled(f"group {self._name!r} of stream {self._queue!r} does not exist{missing}")

    async def _run(self, command: Command) -> Any:
        (answer,) = await self._server.link.ask(command)
        if isinstance(answer, ResponseError):
            raise self.refused(answer)
        return answer


def _names(held: Sequence[Held[Token]]) -> Iterator[str | int]:
    for one in held:
        yield from (one.token.id, one.token.consumer, one.token.nth)
