"""Dead letters of a queue: the entries of a stream beside it, with what is known about why."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from pythia.broker import DeadLetter, Settlement, no_such_letter
from pythia.brokers.redis import fields, keys
from pythia.brokers.redis.driver import error_in
from pythia.brokers.redis.fields import Fields
from pythia.brokers.redis.script import Command, script
from pythia.brokers.redis.server import Server
from pythia.brokers.redis.writes import Putting, described
from pythia.message import Envelope

_PAGE = 100
_REPLAY = script("dead_replay", "clock", "writes")

REASON = b"pythia-reason"
_DETAIL = b"pythia-detail"
_ERROR_TYPE = b"pythia-error-type"
_ERROR = b"pythia-error"
_TRACEBACK = b"pythia-traceback"
_WORKER = b"pythia-worker"
_WORKER_ID = b"pythia-worker-id"
_QUEUE = b"pythia-origin-queue"
_ATTEMPTS = b"pythia-attempts"
_DEAD_AT = b"pythia-dead-at"
_NOTES = frozenset({REASON, _DETAIL, _ERROR_TYPE, _ERROR, _TRACEBACK, _WORKER, _WORKER_ID, _QUEUE, _ATTEMPTS, _DEAD_AT})


def letter(words: Fields, settlement: Settlement, marks: fields.Marks) -> list[bytes]:
    """The fields of a dead letter: those of the message, byte for byte, why it died, and ``marks``."""
    delivery, record = settlement.delivery, settlement.record
    notes: dict[bytes, Any] = {
        fields.FIRST_SEEN: repr(float(delivery.first_seen)),
        _QUEUE: delivery.queue,
        _ATTEMPTS: delivery.attempt if record is None else record.attempts,
        _DEAD_AT: repr(time.time()),
    }
    if record is not None:
        notes |= {
            REASON: record.reason,
            _DETAIL: record.detail,
            _ERROR_TYPE: record.error_type,
            _ERROR: record.error_message,
            _TRACEBACK: record.traceback,
            _WORKER: record.worker or None,
            _WORKER_ID: record.worker_id or None,
        }
    return fields.marked(
        [word for name, value in fields.pairs(words) if name not in _NOTES for word in (name, value)],
        {
            **marks,
            **{name: str(note).encode("utf-8", "backslashreplace") for name, note in notes.items() if note is not None},
        },
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A letter where it lies."""

    entry: str
    letter: DeadLetter
    words: Fields  # of the message alone

    @property
    def names(self) -> tuple[str, str]:
        """What it may be called: the second name stays when an older letter with its id is gone."""
        return self.letter.id, f"{self.letter.envelope.id}~{self.entry}"


class RedisDeadLetters:
    """Dead letters, oldest first. A letter's id is its message's; a younger one with the same id has ``~`` and its entry behind."""

    def __init__(self, server: Server, queue: str, putting: Putting) -> None:
        self._server = server
        self._queue = queue
        self._key = keys.dead(queue)
        self._putting = putting

    async def count(self) -> int:
        return int(await self._call("XLEN", self._key))

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        """Oldest first, from the one behind ``after``.

        Raises:
            BrokerError: there is no such dead letter any more.
        """
        letters: list[DeadLetter] = []
        passed = after is None
        async for found in self._all():
            if len(letters) == limit:
                break
            if passed:
                letters.append(found.letter)
            passed = passed or after in found.names
        if not passed:
            raise no_such_letter(after, self._queue)
        return letters

    async def scan(self) -> AsyncIterator[DeadLetter]:
        """Oldest first, page by page."""
        async for found in self._all():
            yield found.letter

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - the API's word
        async for found in self._all():
            if id in found.names:
                return found.letter
        return None

    async def replay(self, ids: Sequence[str], to: str | None = None) -> int:
        """Back as attempt 1, published now, with the id, body and headers that it had. None is lost on the way: each is there
        before it is gone here."""
        target = to or self._queue
        moved = 0
        async for page in self._named(ids):
            commands = [self._moving(found, target) for found in page]
            moved += sum([self._moved(answer) for answer in await self._server.link.ask(*commands)])
        await self._server.remember(target)
        return moved

    async def purge(self, ids: Sequence[str]) -> int:
        purged = 0
        async for page in self._named(ids):
            purged += await self._call("XDEL", self._key, *(found.entry for found in page))
        return purged

    def _moving(self, found: _Found, target: str) -> Command:
        envelope = found.letter.envelope
        fresh = {
            fields.ID: envelope.id.encode(),
            fields.CONTENT_TYPE: envelope.content_type.encode(),
            fields.PUBLISHED_AT: repr(time.time()).encode(),
        }
        group = dict(fields.pairs(found.words)).get(fields.GROUP)
        if group is not None and target == self._queue:  # the others of that stream are done with it
            fresh[fields.GROUP] = group
        write = self._putting(target, fields.marked(found.words, fresh), 0.0)
        return _REPLAY([self._key, write.key], found.entry, *described([write], 1))

    def _moved(self, answer: Any) -> int:
        if isinstance(answer, int):
            return answer
        raise self._server.address.refused(error_in(answer), self._key)

    async def _named(self, ids: Sequence[str]) -> AsyncIterator[Sequence[_Found]]:
        """Those of these ids, in the order in which they are named, some hundreds at a time."""
        wanted = dict.fromkeys(ids)
        found: dict[str, _Found] = {}
        async for one in self._all():
            for name in wanted.keys() & set(one.names):
                found.setdefault(name, one)
        named = list({found[name].entry: found[name] for name in wanted if name in found}.values())
        for start in range(0, len(named), _PAGE):
            yield named[start : start + _PAGE]

    async def _all(self) -> AsyncIterator[_Found]:
        seen: set[str] = set()
        async for entry, words in self._entries():
            found = _found(entry, words, seen)
            seen.add(found.letter.envelope.id)
            yield found

    async def _entries(self) -> AsyncIterator[tuple[str, Fields]]:
        after = "-"
        while page := await self._call("XRANGE", self._key, after, "+", "COUNT", _PAGE):
            for entry, words in page:
                yield entry.decode(), fields.unbounded(words)
            after = f"({page[-1][0].decode()}"

    async def _call(self, *command: Any) -> Any:
        return await self._server.link.call(*command, key=self._key)


def _found(entry: str, words: Fields, seen: set[str]) -> _Found:
    notes = {note: value for note, value in fields.pairs(words) if note in _NOTES}
    said = [word for note, value in fields.pairs(words) if note not in _NOTES for word in (note, value)]
    envelope, marks = fields.envelope_of(said)
    name = f"{envelope.id}~{entry}" if envelope.id in seen else envelope.id
    return _Found(entry, _letter_of(name, envelope, marks, notes), said)


def _letter_of(name: str, envelope: Envelope, marks: fields.Marks, notes: fields.Marks) -> DeadLetter:
    first_seen = fields.number_of(marks.get(fields.FIRST_SEEN))
    attempts = fields.number_of(notes.get(_ATTEMPTS))
    return DeadLetter(
        id=name,
        envelope=envelope,
        reason=fields.text_of(notes.get(REASON)),
        detail=fields.text_of(notes.get(_DETAIL)),
        attempts=None if attempts is None else int(attempts),
        error_type=fields.text_of(notes.get(_ERROR_TYPE)),
        error_message=fields.text_of(notes.get(_ERROR)),
        traceback=fields.text_of(notes.get(_TRACEBACK)),
        published_at=first_seen if envelope.timestamp is None else envelope.timestamp,
        first_seen_at=first_seen,
        dead_at=fields.number_of(notes.get(_DEAD_AT)),
        worker=fields.text_of(notes.get(_WORKER)),
        worker_id=fields.text_of(notes.get(_WORKER_ID)),
        origin_queue=fields.text_of(notes.get(_QUEUE)),
    )
