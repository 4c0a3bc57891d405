"""Finds out the message that kills its process, and does not punish those that were beside it.

A process that died by itself had some messages in hand: from then on they are suspects, and a suspect runs alone in its
process, with nothing beside it. One that lives through that is cleared. One that twice was alone in hand when a process died
by itself is condemned: when it comes again it is dead-lettered as poison, without running. So one killer among many costs
three processes, and a crash that had nothing to do with its message has to strike the same one twice to be mistaken for one.

Who died by itself is said by what it left (``lastwords``): a SIGKILL from outside, a lost machine, an end that nobody can
explain make nobody suspect. What is known is shared by the workers of one name, on one broker, of one user, on one host.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pythia.core import journal
from pythia.core.events import Notice, Observer
from pythia.core.journal import LONGEST_KEY, NO_SLOT, Death, Hand
from pythia.core.lastwords import OomRecord, noted
from pythia.message import Delivery

CONDEMNED_AFTER = 2  # processes that died with it alone in hand
FORGOTTEN_SECONDS = 86_400.0
MOST_REMEMBERED = 10_000

_PART = "\x1f"  # between queue and id


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What speaks against one message."""

    deaths: int = 0  # processes that died by themselves with it in hand
    alone: int = 0  # of those, with nothing else in hand
    cause: str = ""  # of the last one
    at: float = 0.0  # epoch, of the last one

    @property
    def condemned(self) -> bool:
        return self.alone >= CONDEMNED_AFTER


Table = Mapping[str, Suspicion]


def after(death: Death, table: Table, now: float) -> Table:
    """Who is suspected once this death is known. Pure."""
    if death.cause is None:
        return table
    alone = len(death.in_hand) == 1
    known = {key: table.get(key, Suspicion()) for key in death.in_hand}
    news = {
        key: Suspicion(deaths=old.deaths + 1, alone=old.alone + alone, cause=death.cause, at=now)
        for key, old in known.items()
    }
    return {**table, **news}


def remembered(table: Table, now: float) -> dict[str, Suspicion]:
    """Without those of whom nothing was heard for a day: they came to their end elsewhere. The latest, of too many."""
    kept = [(key, row) for key, row in table.items() if now - row.at < FORGOTTEN_SECONDS]
    return dict(sorted(kept, key=lambda row: row[1].at)[-MOST_REMEMBERED:])


def key_of(delivery: Delivery) -> bytes:
    """Names the message: queue and id; what does not fit, by its hash."""
    key = f"{delivery.queue}{_PART}{delivery.envelope.id}".encode(errors="backslashreplace")
    return key if len(key) <= LONGEST_KEY else hashlib.sha256(key).hexdigest().encode()


class Suspects:
    """Who is suspected, and what this process has in hand. All of it on the loop's thread.

    Made without a ``hand`` it knows of nobody and notes nothing. What cannot be read or written is left: a worker runs without
    this too.
    """

    def __init__(
        self, hand: Hand | None = None, *, table_file: Path | None = None, emit: Observer | None = None
    ) -> None:
        self._hand = hand
        self._file = table_file
        self._emit = emit
        self._seen: int | None = None  # when the file was written that we have read
        self._oom = OomRecord()
        self.table: Table = {}

    # Of this process.

    def take(self, delivery: Delivery) -> int:
        """Its handling begins; give the answer to ``let_go`` when that has ended. Less than a microsecond."""
        return NO_SLOT if self._hand is None else self._hand.take(key_of(delivery))

    def let_go(self, slot: int) -> None:
        if self._hand is not None:
            self._hand.let_go(slot)

    def beat(self) -> None:
        """About every second."""
        if self._hand is not None:
            self._hand.beat(self._oom.read())

    # Of the messages.

    def runs_alone(self, delivery: Delivery) -> bool:
        """Whether nothing may be handled beside it."""
        row = self._row(delivery)
        return row is not None and not row.condemned

    def verdict(self, delivery: Delivery) -> str | None:
        """Why it is not to run any more; None when it may."""
        row = self._row(delivery)
        if row is None or not row.condemned:
            return None
        return f"killed its process: {row.alone} died with it alone in hand, the last of: {row.cause}"

    def over(self, delivery: Delivery) -> None:
        """Its handler came to its end and the process lives, or it was dead-lettered: nothing speaks against it any more."""
        if self._row(delivery) is not None and self._file is not None:
            with suppress(OSError), journal.locked(self._file.parent.parent):
                table = dict(self._read())
                table.pop(key_of(delivery).decode(), None)
                self._write(table)

    def look(self) -> None:
        """Whether a process has died, or somebody was cleared elsewhere. Some 30 µs while nothing has changed."""
        if self._file is None:
            return
        with suppress(OSError):
            if journal.any_left(self._file.parent):
                with journal.locked(self._file.parent.parent):
                    self.collect()
            elif _written(self._file) != self._seen:
                self._read()

    def collect(self) -> None:
        """Hear those that are gone. Under ``journal.locked``."""
        if self._file is None:
            return
        deaths = journal.collect(self._file.parent, self._oom.read())
        table, now = self._read(), time.time()
        for death in deaths:
            table = after(death, table, now)
            self._tell(death)
        if deaths:
            self._write(remembered(table, now))

    def _row(self, delivery: Delivery) -> Suspicion | None:
        return self.table.get(key_of(delivery).decode()) if self.table else None

    def _tell(self, death: Death) -> None:
        if self._emit is not None and death.cause is not None:
            self._emit(
                Notice(
                    detail=f"process {death.pid} died by itself ({death.cause}) with {len(death.in_hand)} messages in hand: "
                    "each runs alone now, until it is known which one it was"
                )
            )

    def _read(self) -> Table:
        self._seen = None if self._file is None else _written(self._file)
        self.table = {} if self._seen is None or self._file is None else _parse(self._file.read_text())
        return self.table

    def _write(self, table: Table) -> None:
        """By replacing the file, so that whoever reads it reads it whole."""
        self.table = table
        if self._file is None:
            return
        if table:
            draft = self._file.with_suffix(".draft")
            draft.write_text(json.dumps({key: asdict(row) for key, row in table.items()}))
            draft.replace(self._file)
        else:
            self._file.unlink(missing_ok=True)
        self._seen = _written(self._file)


def _parse(text: str) -> dict[str, Suspicion]:
    """A file that is not what we write says nothing."""
    try:
        return {key: Suspicion(**row) for key, row in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _written(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


@contextmanager
def watching(root: Path | None, whose: str, *, slots: int, emit: Observer) -> Iterator[Suspects]:
    """While entered, what this process has in hand is noted, and it hears of those that died.

    ``root`` is this user's directory on this host (None: there is none), ``whose`` names broker and worker and is not shown.
    """
    with ExitStack() as stack:
        try:
            suspects = _open(root, whose, slots, emit, stack)
        except OSError as error:
            stack.close()
            suspects = Suspects()
            emit(Notice(detail=f"a message that kills this process will not be found out: {error}"))
        yield suspects


def _open(root: Path | None, whose: str, slots: int, emit: Observer, stack: ExitStack) -> Suspects:
    if root is None:
        raise OSError("there is no directory that only this user can write to")
    directory = root / hashlib.sha256(whose.encode()).hexdigest()[:24]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with journal.locked(root):
        directory.mkdir(mode=0o700, exist_ok=True)  # who left just now may have taken it away
        hand = Hand(directory, slots, OomRecord().read())
        stack.callback(_leave, hand, root)
        suspects = Suspects(hand, table_file=directory / "suspects.json", emit=emit)
        suspects.collect()
    stack.enter_context(noted(hand.words))
    return suspects


def _leave(hand: Hand, root: Path) -> None:
    """And take the directory along if nothing is left in it."""
    with suppress(OSError), journal.locked(root):
        hand.leave()
        hand.path.parent.rmdir()
