"""What the memory broker remembers: rows, keys, leases and dead letters of one process, without any waiting.

Every operation takes the time as an argument and first brings the store up to it: what is due becomes ready, what expired
goes back. Nothing here awaits; one lock makes the store safe for several threads (a worker and a ``SyncPublisher``).
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pythia.broker import Claim, DeadLetter, Failure, QueueDepth, Settled, Settlement, no_such_letter
from pythia.message import Delivery, Envelope

State = Literal["ready", "delayed", "leased", "blocked", "gone"]

EXPIRED = "the lease expired"

_GRAIN = 1e-6  # seconds; sums of large floats differ in their last digits, and a moment must not be missed by one


@dataclass(slots=True, eq=False)
class Holder:
    """One consumer, as the store sees it: who holds rows, for how long, and whom to tell.

    Called from any thread: ``wake`` when there may be something to take, ``rearm`` when there is an earlier moment to wait for.
    """

    queue: str
    lease: float
    max_hold: float | None
    wake: Callable[[], None]
    rearm: Callable[[], None]
    on_lost: Callable[[Sequence[Delivery], str], None]
    renewing: bool = True
    held: dict[int, Delivery] = field(default_factory=dict)

    def lease_until(self, now: float) -> float:
        """When a row taken now goes back if it is never settled."""
        if not self.renewing:
            return now + self.lease
        return math.inf if self.max_hold is None else now + self.max_hold + self.lease


@dataclass(slots=True, eq=False)
class Row:
    """One stored message."""

    seq: int
    queue: str
    envelope: Envelope
    due: float
    first_seen: float
    attempt: int = 1
    deliveries: int = 0
    state: State = "gone"
    fence: int = 0
    holder: Holder | None = None
    lease_until: float = math.inf


@dataclass(slots=True, eq=False)
class Lane:
    """One queue. ``keys`` holds the live rows of each ordering key, oldest first; only the first of a key is not blocked."""

    ready: list[tuple[int, int, Row]] = field(default_factory=list)
    keys: dict[str, deque[Row]] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class _Effect:
    """One entry of the idempotency store."""

    owner: str
    done: bool
    expires: float


class MemoryStore:
    """The rows of every queue, shared by the brokers that were opened on it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holders: list[Holder] = []
        self._lanes: dict[str, Lane] = {}
        self._delayed: list[tuple[float, int, Row]] = []
        self._leases: list[tuple[float, int, int, Row]] = []
        self._effects: dict[str, _Effect] = {}
        self._seq = 0
        self.lost = 0

    def lane(self, queue: str) -> Lane:
        return self._lanes.setdefault(queue, Lane())

    def queues(self) -> list[str]:
        return sorted(self._lanes)

    # -- messages -----------------------------------------------------------------------------------------------------

    def put(self, queue: str, envelope: Envelope, now: float, delay: float = 0.0) -> None:
        """Store a message; it is ready after ``delay`` seconds."""
        self._seq += 1
        due = now + max(0.0, delay)
        row = Row(self._seq, queue, envelope, due, due)
        if not self._line_up(row):
            self._move(row, "blocked")
            return
        self._place(row, now)

    def take(self, holder: Holder, limit: int, now: float) -> list[Delivery]:
        """Lease up to ``limit`` ready rows to ``holder``: the highest priority first, the oldest first within it."""
        self.advance(now)
        ready = self.lane(holder.queue).ready
        return [self._lease(heapq.heappop(ready)[2], holder, now) for _ in range(min(limit, len(ready)))]

    def settle(self, settlement: Settlement, now: float) -> Settled:
        """Carry out one settlement with its outputs, all or nothing."""
        self.advance(now)
        row, fence = settlement.delivery.token
        if row.state != "leased" or row.fence != fence:
            return Settled.STALE
        self._free(row)
        self._dispose(row, settlement, now)
        for output in settlement.outputs:
            self.put(output.queue, output.envelope, now)
        return Settled.DONE

    def release(self, holder: Holder, now: float, *, at_once: bool = True) -> None:
        """Give back all that ``holder`` has: at once, or when a lease that nobody renews any more has run out."""
        holder.renewing = False
        for delivery in list(holder.held.values()):
            row, _ = delivery.token
            if at_once:
                self._free(row)
                self._place(row, now)
            else:
                self._lease_ends(row, now + holder.lease)

    def stop_renewing(self, holder: Holder, now: float) -> None:
        """Renew nothing of ``holder`` any more: what it has expires one lease from now, what it takes one from then."""
        self.release(holder, now, at_once=False)

    def _dispose(self, row: Row, settlement: Settlement, now: float) -> None:
        match settlement.kind:
            case "ack" | "drop":
                self._remove(row, now)
            case "dead_letter":
                self._bury(row, settlement.record, now)
                self._remove(row, now)
            case "release":
                self._place(row, now)
            case "retry" | "defer" as kind:
                row.attempt += kind == "retry"
                row.due = now + max(0.0, settlement.delay)
                self._place(row, now)

    def _lease(self, row: Row, holder: Holder, now: float) -> Delivery:
        row.fence += 1
        row.deliveries += 1
        row.holder = holder
        self._move(row, "leased")
        delivery = Delivery(
            row.envelope,
            queue=row.queue,
            token=(row, row.fence),
            attempt=row.attempt,
            deliveries=row.deliveries,
            redelivered=row.deliveries > 1,
            first_seen=row.first_seen,
            identity=str(row.seq),
        )
        holder.held[row.seq] = delivery
        self._lease_ends(row, holder.lease_until(now))
        return delivery

    def _lease_ends(self, row: Row, moment: float) -> None:
        row.lease_until = moment
        if moment < math.inf:
            heapq.heappush(self._leases, (moment, row.seq, row.fence, row))
            if self._leases[0][0] == moment:
                self._rearm_all()

    def _free(self, row: Row) -> Delivery | None:
        """Take a row from its holder; the delivery that was lost by it, if somebody had one."""
        holder, row.holder = row.holder, None
        row.lease_until = math.inf
        return None if holder is None else holder.held.pop(row.seq, None)

    # -- places -------------------------------------------------------------------------------------------------------

    def _line_up(self, row: Row) -> bool:
        """Whether the row may go now: it has no ordering key, or is the oldest of its key."""
        key = row.envelope.ordering_key
        if key is None:
            return True
        line = self.lane(row.queue).keys.setdefault(key, deque())
        line.append(row)
        return line[0] is row

    def _place(self, row: Row, now: float) -> None:
        if row.due > now + _GRAIN:
            self._move(row, "delayed")
            heapq.heappush(self._delayed, (row.due, row.seq, row))
            self._rearm_all()
            return
        self._move(row, "ready")
        heapq.heappush(self.lane(row.queue).ready, (-(row.envelope.priority or 0), row.seq, row))
        for holder in self.holders:
            if holder.queue == row.queue:
                holder.wake()

    def _remove(self, row: Row, now: float) -> None:
        self._move(row, "gone")
        key = row.envelope.ordering_key
        if key is None:
            return
        keys = self.lane(row.queue).keys
        line = keys[key]
        line.popleft()  # only the first of a key is ever leased
        if line:
            self._place(line[0], now)
        else:
            del keys[key]

    def _move(self, row: Row, state: State) -> None:
        counts = self.lane(row.queue).counts
        counts[row.state] -= 1
        counts[state] += 1
        row.state = state

    def _rearm_all(self) -> None:
        for holder in self.holders:
            holder.rearm()

    # -- time ---------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Bring the store up to ``now``: due rows become ready, expired leases go back and their holders are told."""
        now += _GRAIN
        while self._delayed and self._delayed[0][0] <= now:
            self._place(heapq.heappop(self._delayed)[2], now)
        while (moment := self._next_expiry()) is not None and moment <= now:
            self._expire(heapq.heappop(self._leases)[3], now)

    def next_moment(self) -> float | None:
        """When the next row becomes due or the next lease expires; None when nothing will happen by itself."""
        moments = [self._delayed[0][0]] if self._delayed else []
        expiry = self._next_expiry()
        return min([*moments, expiry], default=None) if expiry is not None else (moments[0] if moments else None)

    def _next_expiry(self) -> float | None:
        while self._leases:
            moment, _, fence, row = self._leases[0]
            if row.state == "leased" and row.fence == fence and row.lease_until == moment:
                return moment
            heapq.heappop(self._leases)
        return None

    def _expire(self, row: Row, now: float) -> None:
        holder = row.holder
        delivery = self._free(row)
        self._place(row, now)
        if holder is not None and delivery is not None:
            self.lost += 1
            holder.on_lost((delivery,), EXPIRED)

    # -- what is there ------------------------------------------------------------------------------------------------

    def depth(self, queue: str, now: float) -> QueueDepth:
        self.advance(now)
        lane = self._lanes.get(queue, Lane())
        waiting = [len(line) - 1 for line in lane.keys.values() if line[0].state == "delayed"]
        oldest = min((row.due for _, _, row in lane.ready), default=None)
        return QueueDepth(
            queue=queue,
            ready=lane.counts["ready"] + lane.counts["blocked"] - sum(waiting),
            in_flight=lane.counts["leased"],
            delayed=lane.counts["delayed"] + sum(waiting),
            dead=len(lane.dead),
            oldest_age_seconds=None if oldest is None else max(0.0, now - oldest),
            consumers=sum(holder.queue == queue for holder in self.holders),
            durable=False,
        )

    # -- dead letters -------------------------------------------------------------------------------------------------

    def _bury(self, row: Row, record: Failure | None, now: float) -> None:
        envelope, dead = row.envelope, self.lane(row.queue).dead
        name = f"{envelope.id}~{row.seq}" if envelope.id in dead else envelope.id  # one id, published and dead twice
        dead[name] = DeadLetter(
            id=name,
            envelope=envelope,
            reason=record.reason if record else None,
            detail=record.detail if record else None,
            attempts=record.attempts if record else row.attempt,
            error_type=record.error_type if record else None,
            error_message=record.error_message if record else None,
            traceback=record.traceback if record else None,
            published_at=row.first_seen if envelope.timestamp is None else envelope.timestamp,
            first_seen_at=row.first_seen,
            dead_at=now,
            worker=(record.worker or None) if record else None,
            worker_id=(record.worker_id or None) if record else None,
            origin_queue=row.queue,
        )

    def list_dead(self, queue: str, limit: int, after: str | None) -> list[DeadLetter]:
        names = list(self.lane(queue).dead)
        if after is not None and after not in self.lane(queue).dead:
            raise no_such_letter(after, queue)
        start = 0 if after is None else names.index(after) + 1
        return [self.lane(queue).dead[name] for name in names[start : start + limit]]

    def replay(self, queue: str, ids: Sequence[str], to: str, now: float) -> int:
        """Move dead letters back as attempt 1, published now; how many there were."""
        letters = [letter for name in ids if (letter := self.lane(queue).dead.pop(name, None)) is not None]
        for letter in letters:
            self.put(to, published_again(letter.envelope, now), now)
        return len(letters)

    def purge(self, queue: str, ids: Sequence[str]) -> int:
        dead = self.lane(queue).dead
        return sum(dead.pop(name, None) is not None for name in ids)

    # -- effects ------------------------------------------------------------------------------------------------------

    def claim_effect(self, key: str, owner: str, ttl: float, now: float) -> Claim:
        effect = self._effect(key, now)
        if effect is not None and effect.done:
            return Claim.DONE
        if effect is not None and effect.owner != owner:
            return Claim.BUSY
        self._effects[key] = _Effect(owner, done=False, expires=now + ttl)
        return Claim.OURS

    def effect_done(self, key: str, owner: str, ttl: float, now: float) -> bool:
        effect = self._effect(key, now)
        if effect is not None and effect.owner != owner:
            return False
        self._effects[key] = _Effect(owner, done=True, expires=now + ttl)
        return True

    def release_effect(self, key: str, owner: str, now: float) -> None:
        effect = self._effect(key, now)
        if effect is not None and effect.owner == owner and not effect.done:
            del self._effects[key]

    def _effect(self, key: str, now: float) -> _Effect | None:
        effect = self._effects.get(key)
        if effect is not None and effect.expires <= now:
            return self._effects.pop(key) and None
        return effect


def published_again(envelope: Envelope, now: float) -> Envelope:
    """The same message with a new date, so that a replay of something old does not expire on arrival."""
    return Envelope(
        envelope.body,
        id=envelope.id,
        headers=envelope.headers,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        priority=envelope.priority,
        timestamp=now,
        idempotency_key=envelope.idempotency_key,
        ordering_key=envelope.ordering_key,
    )
