"""The one thread of a process that writes to a queue file.

Coroutines hand it changes; while one transaction is on its way to the disk, the next gathers. A transaction is: leases to
renew, what was asked for, then what can be claimed for the consumers that wait. Nothing is answered before the commit. The
thread renews leases by itself: a handler that blocks the event loop loses none.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pythia.broker import ConsumeOptions
from pythia.brokers.sqlite import trouble
from pythia.brokers.sqlite.calls import Answer, Call, Change, Outbox, Question, Setback, Stop, Waiter, together
from pythia.brokers.sqlite.claims import Claims
from pythia.brokers.sqlite.clock import SqliteClock
from pythia.brokers.sqlite.commit import Transactions
from pythia.brokers.sqlite.file import QueueFile, open_file
from pythia.brokers.sqlite.holder import RENEWALS_PER_LEASE, Holder, Renewal
from pythia.brokers.sqlite.store import Store
from pythia.errors import BrokerError, BrokerUnavailable
from pythia.message import Delivery

_VIRTUAL_SECONDS = 0.02  # how often a clock that does not move by itself is looked at
_LOOK_SECONDS = 1.0  # how often the file is looked for at its path
_TAKEN_AT_ONCE = 1000  # calls in one transaction


class Writer:
    """The thread, its file, and what it keeps account of. ``start`` and ``stop`` are each called once."""

    def __init__(self, path: Path, clock: SqliteClock, timeout: float) -> None:
        self.path = path
        self.clock = clock
        self.pid = os.getpid()
        self._timeout = timeout
        self._counts: Counter[str] = Counter()
        self._inbox: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._outbox = Outbox()
        self._gate = threading.Lock()  # between the last call taken and the first refused
        self._open = False
        self._opened: Answer
        self._file: QueueFile
        self._transactions: Transactions
        self._claims: Claims
        self._changes: list[Change] = []
        self._questions: list[Question] = []
        self._holders: list[Holder] = []
        self._stops: list[Stop] = []
        self._fatal: BrokerError | None = None
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"pythia writer of {path.name}", daemon=True)

    # -- for coroutines -----------------------------------------------------------------------------------------------

    async def start(self) -> QueueFile:
        """Open the file in the thread. Cancelled: it is closed again.

        Raises:
            StoreError, BrokerUnavailable: as ``open_file`` says; the thread is gone then.
        """
        self._opened = Answer(unclaimed=lambda _file: self._submit(Stop(None)))
        self._open = True
        self._thread.start()
        file: QueueFile = await self._opened.come()
        return file

    async def stop(self) -> None:
        """Let the thread finish what was asked, give back what is held, and end. Cancelled: it ends all the same."""
        answer = Answer()
        if self._submit(Stop(answer)):
            await answer.come()
            self._thread.join()

    @property
    def is_usable(self) -> bool:
        """Whether this process can still write through it."""
        return self._open and self._fatal is None and self.pid == os.getpid()

    def stats(self) -> Mapping[str, Any]:
        """Counters, and what keeps the file from being written just now."""
        error = self._transactions.trouble
        return {
            "lease_renewals": self._counts["lease_renewals"],
            "leases_lost": self._counts["leases_lost"],
            "refusals": self._counts["refusals"],
            "commits": self._transactions.commits,
            "trouble": None if error is None else str(self._in_words(error)),
        }

    async def write(
        self,
        work: Callable[[Store], Any],
        *,
        landed: Callable[[Any], Any] | None = None,
        refused: Callable[[bool], Any] | None = None,
        unclaimed: Callable[[Any], object] | None = None,
    ) -> Any:
        """Have something written; what ``work`` returned, through ``landed``, which the thread calls after the commit.

        ``refused`` makes the answer when the file cannot be written just now, told whether the change may be there all the
        same; without it that is ``BrokerUnavailable``. Cancelling does not take it back; ``unclaimed`` may undo it.
        """
        answer = Answer(unclaimed)

        def on_landed(value: Any) -> None:
            self._outbox.put(answer, value if landed is None else landed(value))

        def on_failed(setback: Setback) -> None:
            if refused is not None and trouble.passes(setback.error):
                self._counts["refusals"] += 1
                self._outbox.put(answer, refused(setback.in_doubt))
            else:
                self._outbox.put(answer, None, self._in_words(setback.error))

        self._hand_over(Change(work, on_landed, on_failed))
        return await answer.come()

    async def read(self, work: Callable[[Store], Any]) -> Any:
        """Have something read; needs no room on the disk."""
        answer = Answer()
        self._hand_over(
            Question(
                work,
                lambda value: self._outbox.put(answer, value),
                lambda setback: self._outbox.put(answer, None, self._in_words(setback.error)),
            )
        )
        return await answer.come()

    def wait(self, waiter: Waiter) -> None:
        """Claim for ``waiter`` as soon as there is something; its answer holds the deliveries."""
        self._hand_over(waiter)

    def give_back(self, holder: Holder, deliveries: Sequence[Delivery]) -> None:
        """Release deliveries that reached nobody; from any thread."""
        tokens = [delivery.token for delivery in deliveries]

        def forget(_outcome: object) -> None:
            holder.drop(tokens)  # where the release failed, their leases bring them back

        self._submit(Change(lambda store: store.release(tokens), forget, forget))

    async def admit(self, queue: str, options: ConsumeOptions) -> Holder:
        """Register a consumer and renew what it holds from now on. Cancelled: it is dismissed again."""

        def landed(owner: int) -> Holder:
            renew_at = self.clock.boottime() + options.lease / RENEWALS_PER_LEASE
            holder = Holder(owner=owner, queue=queue, options=options, renew_at=renew_at)
            self._holders.append(holder)
            return holder

        holder: Holder = await self.write(
            lambda store: store.enter(queue, options.consumer, options.lease),
            landed=landed,
            unclaimed=lambda holder: self._submit(self._dismissal(holder, None)),
        )
        return holder

    async def dismiss(self, holder: Holder) -> None:
        """Give back what a consumer holds and renew it no more. Cancelled: it happens all the same."""
        answer = Answer()
        self._hand_over(self._dismissal(holder, answer))
        await answer.come()

    def _dismissal(self, holder: Holder, answer: Answer | None) -> Change:
        def forget(_outcome: object) -> None:
            self._holders.remove(holder)  # where that failed, the leases bring back what it holds
            if answer is not None:
                self._outbox.put(answer, None)

        return Change(lambda store: store.leave(holder.owner), forget, forget)

    def _hand_over(self, call: Call) -> None:
        if not self._submit(call):
            raise self._closed()

    def _submit(self, call: Call) -> bool:
        with self._gate:
            if self._open:
                self._inbox.put(call)
            return self._open

    def _closed(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"queue file {self.path} is closed: connect() opens it again")

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._file = open_file(self.path, timeout=self._timeout)
        except Exception as error:  # noqa: BLE001 - whoever waits in start() is told, whatever it is
            self._open = False
            self._outbox.put(self._opened, None, error)
            self._outbox.send()
            return
        self._transactions = Transactions(Store(self._file.connection, self.clock))
        self._claims = Claims(self.clock, self._transactions, self._outbox)
        self._outbox.put(self._opened, self._file)
        self._outbox.send()
        while not self._stops:
            self._take_in(self._patience())
            self._turn()
        self._leave()

    def _patience(self) -> float | None:
        """Seconds to wait for a call before something else is to be done; None: for ever."""
        now = self.clock.boottime()
        waits = [holder.renew_at - now for holder in self._holders if self._fatal is None]
        if (patience := self._claims.patience()) is not None:
            waits.append(patience)
        if self.clock.virtual and waits:
            waits.append(_VIRTUAL_SECONDS)
        return max(0.0, min(waits)) if waits else None

    def _take_in(self, patience: float | None) -> None:
        """Wait for a call, then take all that came with it, up to a stop."""
        with contextlib.suppress(queue.Empty):
            self._sort(self._inbox.get(timeout=patience))
            for _ in range(_TAKEN_AT_ONCE):
                if self._stops:
                    return
                self._sort(self._inbox.get_nowait())

    def _sort(self, call: Call) -> None:
        match call:
            case Change():
                self._changes.append(call)
            case Question():
                self._questions.append(call)
            case Waiter():
                self._claims.add(call)
            case Stop():
                self._stops.append(call)

    def _turn(self) -> None:
        self._look_for_file()
        if self._fatal is not None:
            self._refuse(self._fatal)
        else:
            self._write()
            questions, self._questions = self._questions, []
            for question in questions:
                self._transactions.ask(question)
        self._outbox.send()

    def _write(self) -> None:
        due, asked = self._due(), self._changes
        claims = self._claims.change(stirred=bool(due or asked))
        late = [] if claims is None else [holder for holder in self._holders if holder.late]
        changes, self._changes = [*(self._renewal(holder) for holder in due if holder not in late), *asked], []
        if claims is not None:  # with it, what is late: a lease that ran out while nobody could write is still ours
            changes.append(together([*map(self._renewal, late), claims]))
        if changes:
            self._commit(changes)
        error = self._transactions.trouble
        if error is not None and trouble.lasts(error):
            self._fatal = trouble.in_words(error, self.path)

    def _commit(self, changes: list[Change]) -> None:
        try:
            self._transactions.commit(changes)
        except Exception as error:  # noqa: BLE001 - a flaw of ours; nobody must wait for a dead thread
            self._fatal = BrokerError(f"the writer of queue file {self.path} failed: {error!r}")
            for change in changes:
                change.failed(Setback(self._fatal))

    def _due(self) -> list[Holder]:
        now = self.clock.boottime()
        return [holder for holder in self._holders if holder.renew_at <= now]

    def _renewal(self, holder: Holder) -> Change:
        def landed(renewal: Renewal) -> None:
            self._counts["lease_renewals"] += renewal.renewed
            self._counts["leases_lost"] += len(renewal.lost)
            holder.renewed(renewal, self.clock.boottime())

        return Change(holder.renew, landed, lambda _setback: holder.not_renewed(self.clock.boottime()))

    def _look_for_file(self) -> None:
        now = time.monotonic()
        if now < self._look_at or self._fatal is not None:
            return
        self._look_at = now + _LOOK_SECONDS
        if not self._file.is_in_place():
            self._fatal = trouble.replaced(self.path)

    def _refuse(self, error: Exception) -> None:
        """Fail everybody: the file, or this writer, is beyond use."""
        calls: list[Change | Question] = [*self._changes, *self._questions]
        self._changes, self._questions = [], []
        for call in calls:
            call.failed(Setback(error))
        self._claims.refuse(error)

    def _in_words(self, error: Exception) -> Exception:
        return trouble.in_words(error, self.path) if isinstance(error, sqlite3.Error) else error

    def _leave(self) -> None:
        """Give back what is still held, close the file, take nothing more, fail what came too late, and say so."""
        if self._holders and self._fatal is None:
            self._transactions.commit([self._dismissal(holder, None) for holder in self._holders])
        self._file.connection.close()
        with self._gate:
            self._open = False
        stops, self._stops = self._stops, []
        while not self._inbox.empty():
            self._take_in(0)
            stops += self._stops
            self._stops = []
        self._refuse(self._closed())
        for stop in stops:
            if stop.answer is not None:
                self._outbox.put(stop.answer, None)
        self._outbox.send()
