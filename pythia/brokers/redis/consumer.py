"""One subscription to one queue, a stream or a list: what comes, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pythia.broker import DONE, REFUSED, STALE, Settled, Settlement
from pythia.brokers.redis import dead, fields, keys
from pythia.brokers.redis.driver import again
from pythia.brokers.redis.holder import Held, Holder
from pythia.brokers.redis.keeper import Duty
from pythia.brokers.redis.link import Link
from pythia.brokers.redis.script import Command, keys_of
from pythia.brokers.redis.server import Server
from pythia.brokers.redis.writes import Putting, Write, entry, said
from pythia.errors import BrokerError, BrokerUnavailable
from pythia.message import Delivery

T = TypeVar("T", bound=Hashable)

AT_ONCE = 1000  # messages in one script
BLOCK_SECONDS = 1.0  # longest read
_WATCH_SECONDS = 1.0


class Source(Protocol[T]):
    """Where deliveries come from, and how they are settled there. Each command answers 1, 0 (not ours) or an error an item."""

    consumer: str  # the name of this incarnation
    marks: fields.Marks  # of every copy that is put back
    vanished: int  # messages that somebody deleted before they were settled

    async def join(self) -> None: ...  # before the first read

    async def read(self, reader: Link, room: int, lease: float, is_over: Callable[[], bool]) -> list[Held[T]]:
        """Up to ``room`` messages, or none within a second or so, or once ``is_over``."""
        ...

    def look_again(self) -> None: ...  # something was given back
    def order(self, held: Held[T]) -> int: ...  # in which messages go back
    def acking(self, held: Sequence[Held[T]]) -> Command: ...
    def releasing(self, held: Sequence[Held[T]]) -> Command: ...
    def moving(self, held: Held[T], writes: Sequence[Write], *, back: bool) -> Command: ...
    def answered(self, answer: Any, keys: Sequence[object]) -> Settled: ...
    async def leave(self, consumer: str) -> None: ...  # gives back all that an incarnation holds
    async def check(self) -> None: ...  # raises when it is gone, or the connection


class RedisConsumer(Generic[T]):
    """Takes from one source. ``released`` is called when entries went back, so that others of this process look for them."""

    linger = 0.001  # one round trip for the acks of handlers that end together

    def __init__(
        self,
        server: Server,
        source: Source[T],
        holder: Holder[T],
        reader: Link,
        *,
        queue: str,
        putting: Putting,
        duties: Sequence[Duty],
        released: Callable[[], Awaitable[None]],
    ) -> None:
        self._server = server
        self._source = source
        self._holder = holder
        self._reader = reader
        self._queue = queue
        self._putting = putting
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._fetching: asyncio.Task[None] | None = None
        self._fetched = asyncio.Event()  # a read is over
        self._ahead: list[Held[T]] = []  # read, and not handed out
        self._room = asyncio.Event()
        self._draining = asyncio.Event()
        self._gone: BrokerError | None = None
        self._left = False
        self.duties = duties
        self.incarnation = source.consumer
        holder.on_room = self._tell_room

    # -- in -----------------------------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the contract says. Cancelling it loses nothing: what is being read goes to the next one."""
        while not self._draining.is_set():
            self._raise_if_gone()
            if not self._ahead:
                await self._fetch(limit)
            if self._draining.is_set():
                break
            if self._ahead:
                batch, self._ahead = self._ahead[:limit], self._ahead[limit:]
                return [held.delivery for held in batch]
        await self._give_back_ahead()
        return ()

    async def _fetch(self, limit: int) -> None:
        """Have ``_ahead`` filled, if there is something within a second."""
        if self._fetching is None:
            room = min(limit, self._holder.room)
            if room <= 0:
                return await self._wait_for_room()
            self._fetching = self._loop.create_task(self._read(room), name=f"redis read {self._queue}")
        fetching = self._fetching
        self._fetched.clear()
        await self._fetched.wait()  # cancelled: the task goes on, and the next receive or leave() waits for it
        fetching.result()
        return None

    async def _read(self, room: int) -> None:
        """A task of its own, which tells by an event: its end as a task would take two turns of the loop longer."""
        try:
            held = await self._source.read(self._reader, room, self._holder.options.lease, self._is_over)
            self._holder.take(held)
            self._ahead += held
        except BrokerError as error:
            self._gone = self._gone or error
        finally:
            self._fetching = None
            self._fetched.set()

    def _is_over(self) -> bool:
        return self._draining.is_set() or self._gone is not None

    async def _wait_for_room(self) -> None:
        """Until something was settled or lost, or the drain begins."""
        self._room.clear()
        if self._holder.room <= 0 and not self._draining.is_set() and self._gone is None:
            await self._room.wait()

    def _tell_room(self) -> None:
        if threading.get_ident() == self._thread:  # the keeper has another
            self._room.set()
        elif not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._room.set)

    # -- out ----------------------------------------------------------------------------------------------------------

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """As the contract says: in one round trip, each item's writes and its ack all or nothing."""
        held = self._holder.begin(batch)
        answers = [STALE if one is None else DONE for one in held]
        try:
            await self._carry_out(batch, held, answers)
        except BaseException:
            self._holder.end((), [one for one in held if one is not None])
            raise
        ours = [(one, answer) for one, answer in zip(held, answers, strict=True) if one is not None]
        self._holder.end(
            [one for one, answer in ours if answer is not REFUSED],
            [one for one, answer in ours if answer is REFUSED],
        )
        if any(settlement.kind == "release" for settlement in batch):
            await self._released()
        return answers

    async def _carry_out(
        self, batch: Sequence[Settlement], held: Sequence[Held[T] | None], answers: list[Settled]
    ) -> None:
        """Ask for all of it at once, and put the answers where they belong."""
        plan = list(self._plan(batch, held))
        if not plan:
            return
        self._raise_if_gone()
        named = [name for one in batch for output in one.outputs for name in self._server.remembering(output.queue)]
        replies = (await self._server.link.ask(*(command for command, _ in plan), *named))[: len(plan)]
        self._server.note(replies)
        for reply, (command, places) in zip(replies, plan, strict=True):
            parts = reply if isinstance(reply, list) else [reply] * len(places)
            for place, part in zip(places, parts, strict=True):
                if part != 1:  # else it is done, as it is put down already
                    answers[place] = self._source.answered(part, keys_of(command))

    def _plan(
        self, batch: Sequence[Settlement], held: Sequence[Held[T] | None]
    ) -> Iterator[tuple[Command, Sequence[int]]]:
        """Commands, each with the places in the batch that it answers for."""
        plain: dict[str, list[tuple[Held[T], int]]] = {"ack": [], "release": []}
        for place, (settlement, one) in enumerate(zip(batch, held, strict=True)):
            if one is None:
                continue
            if settlement.kind == "ack" and not settlement.outputs and not one.vanished:  # as most are
                plain["ack"].append((one, place))
                continue
            writes = self._writes(settlement, one)
            if writes or one.vanished:
                back = settlement.kind == "release" and not one.vanished
                yield self._source.moving(one, writes, back=back), [place]
            else:
                plain["release" if settlement.kind == "release" else "ack"].append((one, place))
        plain["release"].sort(key=lambda row: self._source.order(row[0]))
        for kind, rows in plain.items():
            asking = self._source.releasing if kind == "release" else self._source.acking
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                yield asking([one for one, _ in part]), [place for _, place in part]

    def _writes(self, settlement: Settlement, held: Held[T]) -> list[Write]:
        """What must be there before the source is gone: outputs, and the copy or the dead letter."""
        writes = [
            self._putting(output.queue, said(output.queue, output.envelope), 0.0) for output in settlement.outputs
        ]
        match settlement.kind:
            case "retry" | "defer":
                writes.append(self._copy(settlement, held))
            case "release" if held.vanished:  # only we still have it
                writes.append(self._copy(settlement, held))
            case "dead_letter":
                writes.append(entry(keys.dead(self._queue), dead.letter(held.fields, settlement, self._source.marks)))
        return writes

    def _copy(self, settlement: Settlement, held: Held[T]) -> Write:
        delivery = held.delivery
        marks = fields.marks_of(
            attempt=delivery.attempt + (settlement.kind == "retry"),
            first_seen=delivery.first_seen,
            deliveries=delivery.deliveries,
            identity=delivery.identity,
        )
        return self._putting(self._queue, fields.marked(held.fields, {**self._source.marks, **marks}), settlement.delay)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """As the contract says. A read under way is ended, and what it brings goes back."""
        if self._draining.is_set():
            return
        self._draining.set()
        self._room.set()
        if self._fetching is not None:
            await self._server.unblock(self._reader)
        else:
            await self._give_back_ahead()

    async def look_again(self) -> None:
        """Something was given back: a read that waits begins anew."""
        self._source.look_again()
        if self._fetching is not None:
            await self._server.unblock(self._reader)

    async def watch(self) -> None:
        """As the contract says; asks once a second, so that a dead connection is noticed by the missing answer."""
        while True:
            self._raise_if_gone()
            try:
                await self._source.check()
            except BrokerError as error:
                self._gone = self._gone or error
                raise
            await asyncio.sleep(_WATCH_SECONDS)

    def counts(self) -> Mapping[str, int]:
        """For ``stats``."""
        renewed = sum(getattr(duty, "renewed", 0) for duty in self.duties)
        return {"lease_renewals": renewed, "leases_lost": self._holder.lost_ever, "vanished": self._source.vanished}

    async def leave(self, reason: BrokerError) -> bool:
        """Give back whatever is unsettled and let the connection go; whether it could be given back. Idempotent."""
        if self._left:
            return True
        self._end(reason)
        try:
            await self._finish_reading()
            await self._source.leave(self._source.consumer)
        except BrokerError:
            return False
        finally:
            self._ahead.clear()
            self._holder.clear()
            await self._reader.drop()
        await self._released()
        return True

    async def abandon(self) -> None:
        """Drop the connection and give nothing back: what killing the process does. At once, up to its first await."""
        self._end(BrokerUnavailable("this consumer was abandoned"))
        self._holder.clear()
        await self._reader.drop()
        await self._finish_reading()

    def _end(self, reason: BrokerError) -> None:
        self._left = True
        self._gone = self._gone or reason
        self._room.set()

    async def _finish_reading(self) -> None:
        fetching, self._fetching = self._fetching, None
        if fetching is None:
            return
        await self._server.unblock(self._reader)
        await asyncio.wait({fetching}, timeout=BLOCK_SECONDS + 1.0)
        if not fetching.done():
            await self._reader.drop()
            await asyncio.wait({fetching})
        fetching.exception()  # seen: whatever it was, the consumer ends

    async def _give_back_ahead(self) -> None:
        ahead, self._ahead = self._ahead, []
        if ahead:
            await self.settle([Settlement(held.delivery, "release") for held in ahead])

    def _raise_if_gone(self) -> None:
        if self._gone is not None:
            raise again(self._gone)
