"""An explicit-state search: every order in which two workers, three messages and a few faults can meet.

The model is made of the tables of ``pythia.core.state`` and knows nothing else about what a move does: where a settlement
leads, whether it counts and whether it is fenced is read from there, so that a wrong table is a wrong model. Messages are
alike and workers are alike, so states that differ by a name are one state. A fence is only ever compared with the latest
one: a copy of a message carries whether its fence is still valid.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pythia.core.state import DELIVERY, FINAL, WORKER, Move, Place, WorkerState

# By their names: an Enum's members are hashed by Python code, and a search does little else.
READY, HELD, SETTLING, LOST = map(str, (Place.READY, Place.HELD, Place.SETTLING, Place.LOST))
RUNNING, STOPPED, INITIALIZING = map(str, (WorkerState.RUNNING, WorkerState.STOPPED, WorkerState.INITIALIZING))
ENDS = frozenset(map(str, FINAL))

LAST_ATTEMPT = 2
MOST_HELD = 2  # by one worker


class Copy(NamedTuple):
    """A message in one worker's hands."""

    place: str  # held, handling or settling
    valid: bool  # its fence is the latest, and the broker still counts it as ours
    kind: str  # of its settlement, once decided


class Message(NamedTuple):
    """One message: what the broker knows (``place`` HELD: leased), what its failures say, and each worker's copy."""

    place: str
    attempt: int
    failures: int  # counted by the one who owned it: what the attempt must follow
    copies: tuple[Copy | tuple[()], Copy | tuple[()]]  # empty: it has none


class World(NamedTuple):
    messages: tuple[Message, ...]
    workers: tuple[str, str]
    faults: int  # that may still happen


class Way(NamedTuple):
    """Where a move of the table leads."""

    there: str
    counts: bool
    fenced: bool


@dataclass(slots=True)
class Found:
    """What a search found. ``wrong``: the first of each sentence, with the way that leads there."""

    states: int = 0
    moves: int = 0
    events: set[str] = field(default_factory=set)
    wrong: dict[str, list[str]] = field(default_factory=dict)


class Model:
    """The world that the two tables describe."""

    def __init__(
        self, delivery: Iterable[Move[Place]] = DELIVERY, worker: Iterable[Move[WorkerState]] = WORKER, faults: int = 2
    ) -> None:
        self._delivery: Mapping[tuple[str, str], Way] = {
            (str(m.here), m.event): Way(str(m.there), m.counts, m.fenced) for m in delivery
        }
        self._worker: Mapping[tuple[str, str], str] = {(str(m.here), m.event): str(m.there) for m in worker}
        self._faults = faults

    def first(self, messages: int = 3) -> World:
        fresh = Message(READY, 1, 0, ((), ()))
        return World((fresh,) * messages, (RUNNING, RUNNING), self._faults)

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Everything that may happen next, each with its name."""
        for who in (0, 1):
            yield from self._live(world, who)
            yield from self._break(world, who)
        seen = set()
        for number, message in enumerate(world.messages):
            if message in seen:
                continue  # alike
            seen.add(message)
            for name, after in self._happen(world, message):
                yield name, _with(world, number, after)
            if world.faults:
                for name, after in self._suffer(message):
                    yield name, _with(world, number, after)._replace(faults=world.faults - 1)

    # Workers.

    def _live(self, world: World, who: int) -> Iterator[tuple[str, World]]:
        """A start goes its way; a stop is over once nothing is in its hands."""
        state, idle = world.workers[who], not any(m.copies[who] for m in world.messages)
        for event in ("start", "connected", "started", "stopped"):
            there = self._worker.get((state, event))
            if there is not None and (event != "stopped" or idle):
                yield event, _become(world, who, there)

    def _break(self, world: World, who: int) -> Iterator[tuple[str, World]]:
        """A stop, a crash, a consumer that the server cancels."""
        if not world.faults or world.workers[who] != RUNNING:
            return
        left = world._replace(faults=world.faults - 1)
        if (there := self._worker.get((RUNNING, "stop"))) is not None:
            yield "stop", _become(left, who, there)
        dead = left._replace(messages=tuple(_copy(m, who, ()) for m in left.messages))
        yield "crash", _become(dead, who, INITIALIZING)
        back = tuple(self._handed_back(m, who) for m in left.messages)
        yield "cancelled", left._replace(messages=back)

    def _handed_back(self, message: Message, who: int) -> Message:
        """What a server that knows of it does with a consumer's messages; the consumer is told."""
        copy = message.copies[who]
        if not copy or (copy.place, "lose") not in self._delivery:
            return message
        owned = copy.valid and message.place == HELD
        return _copy(message._replace(place=READY) if owned else message, who, ())

    # One message.

    def _happen(self, world: World, message: Message) -> Iterator[tuple[str, Message]]:
        if (move := self._delivery.get((message.place, "due"))) is not None:
            yield "due", message._replace(place=move.there)
        orphaned = message.place == HELD and not any(copy and copy.valid for copy in message.copies)
        if orphaned and (move := self._delivery.get((LOST, "return"))) is not None:
            yield "return", message._replace(place=move.there)
        for who, state in enumerate(world.workers):
            held = sum(m.copies[who] != () for m in world.messages)
            yield from self._handle(message, who, state, room=held < MOST_HELD)

    def _handle(self, message: Message, who: int, state: str, *, room: bool) -> Iterator[tuple[str, Message]]:
        copy, running = message.copies[who], state == RUNNING
        if not copy:
            if running and room and (message.place, "receive") in self._delivery:
                copies = [old and old._replace(valid=False) for old in message.copies]
                taken = message._replace(place=HELD, copies=tuple(copies))
                yield "receive", _copy(taken, who, Copy(HELD, True, ""))
            return
        for event, kinds in self._next(copy, message, running=running):
            there = self._delivery[copy.place, event].there
            for kind in kinds:
                yield event, _copy(message, who, copy._replace(place=there, kind=kind))
        if copy.place == SETTLING:
            yield copy.kind, self._settled(message, who, copy)
        elif not copy.valid and (copy.place, "lose") in self._delivery:
            yield "lose", _copy(message, who, ())

    def _next(self, copy: Copy, message: Message, *, running: bool) -> Iterator[tuple[str, Sequence[str]]]:
        """What a worker may do with a copy that it has not decided on: no handler begins unless it is running."""
        failed = "retry" if message.attempt < LAST_ATTEMPT else "dead_letter"
        choices = {
            "begin": [""] if running else [],
            "give_back": [] if running else ["release"],
            "decide": ["ack", failed] if running else ["ack", failed, "release"],
        }
        for event, kinds in choices.items():
            if (copy.place, event) in self._delivery:
                yield event, kinds

    def _settled(self, message: Message, who: int, copy: Copy) -> Message:
        """What the broker makes of a settlement: of one that is fenced and not from the owner, nothing."""
        move = self._delivery[SETTLING, copy.kind]
        message = _copy(message, who, ())
        if move.fenced and not copy.valid:
            return message
        attempt = message.attempt + move.counts
        failures = message.failures + (copy.kind == "retry" and copy.valid)
        return message._replace(place=move.there, attempt=attempt, failures=failures)

    def _suffer(self, message: Message) -> Iterator[tuple[str, Message]]:
        """A lease that runs out under a living worker, an answer that never comes, a broker that says no."""
        if message.place == HELD and any(copy and copy.valid for copy in message.copies):
            copies = [copy and copy._replace(valid=False) for copy in message.copies]
            yield "expire", message._replace(place=READY, copies=tuple(copies))
        for who, copy in enumerate(message.copies):
            if not copy or copy.place != SETTLING:
                continue
            if (SETTLING, "refused") in self._delivery:
                yield "refused", message
            yield "reply lost", _copy(self._settled(message, who, copy), who, copy._replace(valid=False))


def _with(world: World, number: int, message: Message) -> World:
    messages = list(world.messages)
    messages[number] = message
    return world._replace(messages=tuple(messages))


def _become(world: World, who: int, state: str) -> World:
    workers = list(world.workers)
    workers[who] = state
    return world._replace(workers=tuple(workers))


def _copy(message: Message, who: int, copy: Copy | tuple[()]) -> Message:
    copies = list(message.copies)
    copies[who] = copy
    return message._replace(copies=tuple(copies))


def one_of_alike(world: World) -> World:
    """The representative of all worlds that differ only by which message and which worker is which."""
    here = (world.workers, sorted(world.messages))
    swapped = (world.workers[::-1], sorted([m._replace(copies=m.copies[::-1]) for m in world.messages]))
    workers, messages = min(here, swapped)
    return World(tuple(messages), workers, world.faults)


def complaints(world: World, before: World | None) -> Iterator[str]:
    """What must never be, of one state and of the step that led to it."""
    for message in world.messages:
        owners = [copy for copy in message.copies if copy and copy.valid]
        if len(owners) > 1:
            yield "two own one message"
        if owners and message.place != HELD:
            yield "somebody settled what another owns"
        if message.attempt != 1 + message.failures:
            yield "the attempt is not 1 + counted failures"
    if before is not None:
        final = [sum(m.place in ENDS for m in one.messages) for one in (before, world)]
        if final[1] < final[0]:
            yield "what was done is not done any more"
    stopped = [who for who in (0, 1) if world.workers[who] == STOPPED]
    if any(message.copies[who] for who in stopped for message in world.messages):
        yield "something is in flight in a stopped worker"


def search(model: Model, messages: int = 3, *, until_wrong: bool = False) -> Found:
    """Breadth first, every state; then whether each of them can still come to a good end."""
    found, first = Found(), one_of_alike(model.first(messages))
    came: dict[World, tuple[World, str] | None] = {first: None}
    back: dict[World, list[World]] = defaultdict(list)
    line = deque([first])
    while line:
        world = line.popleft()
        for name, raw in model.steps(world):
            after = one_of_alike(raw)
            found.moves += 1
            found.events.add(name)
            back[after].append(world)
            wrong = [sentence for sentence in complaints(after, world) if sentence not in found.wrong]
            if after not in came:
                came[after] = (world, name)
                line.append(after)
            for sentence in wrong:
                found.wrong[sentence] = [*_way(world, came), name]
        if found.wrong and until_wrong:
            break
    found.states = len(came)
    if not (found.wrong and until_wrong) and (stuck := _stuck(came, back)) is not None:
        found.wrong["a message is lost: it can never come to an end"] = _way(stuck, came)
    return found


def _stuck(came: Mapping[World, object], back: Mapping[World, list[World]]) -> World | None:
    """A state from which no way leads to one where every message has come to its end; the first that was found."""
    good = {world for world in came if all(message.place in ENDS for message in world.messages)}
    line = deque(good)
    while line:
        for before in back.get(line.popleft(), ()):
            if before not in good:
                good.add(before)
                line.append(before)
    return next((world for world in came if world not in good), None)


def _way(world: World, came: Mapping[World, tuple[World, str] | None]) -> list[str]:
    names: list[str] = []
    step = came[world]
    while step is not None:
        names.append(step[1])
        step = came[step[0]]
    return names[::-1]
