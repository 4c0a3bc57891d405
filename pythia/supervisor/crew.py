"""The state machine of the supervisor: slots, the processes in them, and what is done when.

One thread, one loop, no event loop: ``run`` waits until something comes (a process says something or ends, a signal, a word
from another thread, a time that was set) and then looks at everything once. What other threads and signal handlers want is
handed in by ``submit`` and done by the loop, so nothing here is locked.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from random import Random
from typing import Any

from pythia.core.events import Notice, Observer, ProcessCrashLoop, ProcessStarted
from pythia.supervisor import policy
from pythia.supervisor.books import Books, Totals
from pythia.supervisor.channel import Garbled
from pythia.supervisor.ears import Ears
from pythia.supervisor.order import Common, Order, Post
from pythia.supervisor.policy import Again, Ending, GiveUp
from pythia.supervisor.process import Living, Spawned, Start, in_words, reap_strangers
from pythia.supervisor.questions import Answers, Questions, answer
from pythia.supervisor.slot import Seen, Slot, compared, death, look_at

_TICK_SECONDS = 1.0
_AFTER_ITS_LAST_WORD_SECONDS = 0.01  # a process closes its wire shortly before it can be reaped
_POLL_SECONDS = 5.0  # the totals of a process that is killed are at most that old


class Crew:
    """Runs posts until it is told to stop, or nothing is left to run, or a crash loop ends it."""

    def __init__(
        self,
        posts: Sequence[Post],
        common: Common,
        *,
        drain_seconds: float,
        emit: Observer,
        developing: bool = False,
        start: Start = Spawned,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.common = common
        self.drain_seconds = drain_seconds
        self.exit_code = 0
        self.error: str | None = None  # why it was given up, in one line that nobody has logged
        self.paused = False
        self.stopping = False
        self.beat = clock()  # when the loop last went round
        self.began = clock()
        self._developing = developing  # a process that ends waits for the next change of the code
        self._emit = emit
        self._start = start
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - jitter, no secret
        self._slots: list[Slot] = []
        self._ran: set[str] = set()  # the posts of which some process was once running
        self._books = Books()
        self._questions = Questions(self.seen)
        self._ears = Ears()
        self._poll_at = clock() + _POLL_SECONDS
        self.arrange(posts)

    # From any thread or signal handler.

    def submit(self, call: Callable[[], None]) -> None:
        """Have the loop do ``call`` soon."""
        self._ears.submit(call)

    def ask(self, what: str, seconds: float = 2.0) -> Future[list[Seen]]:
        """Ask every process; the answers of all slots, at the latest after ``seconds``."""
        future: Future[list[Seen]] = Future()
        self.submit(lambda: self._ask(what, seconds, future))
        if self._ears.closed:
            answer(future, [])
        return future

    def totals(self, seconds: float = 2.0) -> Future[Totals]:
        """The metrics of all, as fresh as they can be had within ``seconds``."""
        future: Future[Totals] = Future()

        def answered(_asked: Future[list[Seen]]) -> None:
            answer(future, self._books.totals(one.metrics for one in self._living()))

        asked: Future[list[Seen]] = Future()
        asked.add_done_callback(answered)  # on the loop's thread, which answers
        self.submit(lambda: self._ask("metrics", seconds, asked))
        if self._ears.closed:
            answer(asked, [])
        return future

    def stop(self) -> None:
        """Drain and end; a second time it hurries."""
        self.submit(self._stop)

    def tell(self, number: int) -> None:
        """Send a signal to every process. On the loop's thread."""
        for living in self._living():
            living.handle.signal(number)

    def pause(self, *, paused: bool) -> None:
        """Also of the processes that are yet to start."""

        def change() -> None:
            self.paused = paused
            self._ask("pause" if paused else "resume", 2.0, Future())

        self.submit(change)

    def replace_all(self) -> None:
        """Stop every process, and start each slot again: the code has changed."""

        def change() -> None:
            for slot in self._slots:
                slot.quick_deaths = 0
                if slot.living is None:
                    slot.start_at = self._clock()
                else:
                    self._dismiss(slot.living)

        self.submit(change)

    # The loop.

    def run(self) -> int:
        """Until all is over; the exit code."""
        with self._ears.open_to_signals():
            while not self.over:
                self.step()
        self.close()
        return self.exit_code

    def step(self) -> None:
        """Wait for something, for a moment at most, and look at everything once."""
        for slot in self._ears.wait(self._patience()):
            self._listen(slot)
        self.beat = now = self._clock()
        self._ears.do_what_was_asked()
        self._flush()
        self._reap()
        self._start_due(now)
        for living in self._living():
            living.kill_if_late(now)
        self._questions.close(now)
        if now >= self._poll_at:
            self._poll_at = now + _POLL_SECONDS
            self._ask("metrics", _POLL_SECONDS, Future())

    def close(self) -> None:
        """Whoever waits for an answer has one."""
        self._questions.close(math.inf)
        self._ears.close()

    @property
    def over(self) -> bool:
        """Whether nothing runs, and nothing will."""
        left = any(slot.living is not None or slot.start_at is not None for slot in self._slots)
        return not left and (self.stopping or not self._developing)

    def arrange(self, posts: Sequence[Post]) -> None:
        """Make the slots what ``posts`` say: new ones start, those too many drain. On the loop's thread."""
        staying, missing = compared(self._slots, posts)
        for slot in list(self._slots):
            if slot not in staying and not slot.leaving:
                self._leave(slot)
        self._slots += [Slot(post, number, start_at=self._clock()) for post, number in missing]

    @property
    def wanted(self) -> dict[str, int]:
        """How many processes each post is to have."""
        return dict(Counter(slot.post.key for slot in self._slots if not slot.leaving))

    def _flush(self) -> None:
        for living in self._living():
            if living.handle.wire.wants_to_write:
                living.handle.wire.flush()

    def _patience(self) -> float:
        living = list(self._living())
        if any(one.closed or one.handle.wire.wants_to_write for one in living):
            return _AFTER_ITS_LAST_WORD_SECONDS
        times = [slot.start_at for slot in self._slots if slot.living is None] + [one.kill_at for one in living]
        soonest = min((moment for moment in (*times, self._questions.soonest) if moment is not None), default=math.inf)
        return min(_TICK_SECONDS, soonest - self._clock())

    # Starting and ending processes.

    def _start_due(self, now: float) -> None:
        for slot in self._slots:
            if slot.living is None and slot.start_at is not None and slot.start_at <= now:
                self._start_in(slot, now)

    def _start_in(self, slot: Slot, now: float) -> None:
        order = Order(post=slot.post, common=self.common, slot=slot.number, paused=self.paused)
        try:
            handle = self._start(order)
        except OSError as error:  # no memory, no process left: as if it had died at once
            self._died(slot, Ending(pid=0, code=71, ran_seconds=None), f"cannot be started: {error}")
            return
        slot.living, slot.start_at, slot.why = Living(handle, now), None, ""
        self._ears.listen(handle.wire, slot)
        self._emit(ProcessStarted(worker=slot.name, slot=slot.number, pid=handle.pid))

    def _listen(self, slot: Slot) -> None:
        living = slot.living
        if living is None or living.closed:
            return
        try:
            messages, closed = living.handle.wire.receive()
        except Garbled as error:
            self._emit(Notice(detail=f"process {living.pid} says what nobody understands ({error}): it is killed"))
            living.handle.signal(signal.SIGKILL)
            messages, closed = [], True
        for message in messages:
            self._heard(slot, living, message)
        if closed:
            living.closed = True
            self._ears.forget(living.handle.wire)

    def _heard(self, slot: Slot, living: Living, message: dict[str, Any]) -> None:
        living.take_in(message, self._clock())
        if "hello" in message:
            slot.worker = living.worker
            self._books.open(slot.name)
        if living.running_at is not None:
            self._ran.add(slot.post.key)
        if "id" in message:
            self._questions.answered(living.pid, message)

    def _reap(self) -> None:
        for slot in list(self._slots):
            if slot.living is not None and (code := slot.living.handle.poll()) is not None:
                self._ended(slot, slot.living, code)
        reap_strangers(frozenset(living.pid for living in self._living()))

    def _ended(self, slot: Slot, living: Living, code: int) -> None:
        self._listen(slot)  # what it said last
        if not living.closed:
            self._ears.forget(living.handle.wire)
        living.handle.wire.close()
        slot.living = None
        self._books.keep(living.metrics)
        self._questions.gone(living.pid)
        ran = None if living.running_at is None else self._clock() - living.running_at
        ending = Ending(pid=living.pid, code=code, ran_seconds=ran)
        if living.stopping or self.stopping:
            self._went(slot, ending)
        elif code == 0 and self.common.ends_by_itself:
            slot.start_at, slot.why = None, "it is done"
        else:
            self._died(slot, ending, living.failed)

    def _went(self, slot: Slot, ending: Ending) -> None:
        """It ended after it had been told to."""
        code = ending.code if ending.code >= 0 else 75  # killed: what it had in hand comes again
        if self.stopping:
            self.exit_code = policy.worse(self.exit_code, code)
        if ending.code < 0 and not self._developing:
            self._emit(death(slot, ending))
        if slot.leaving:
            self._slots.remove(slot)
        elif self.stopping:
            slot.start_at, slot.why = None, "stopped"
        else:
            slot.start_at = self._clock()

    def _died(self, slot: Slot, ending: Ending, why: str | None) -> None:
        """Nobody told it to end."""
        if self._developing:
            slot.start_at, slot.why = None, why or in_words(ending.code)
            self._emit(death(slot, ending, why=f"{slot.why}; waiting for a change of the code"))
            return
        follows = policy.after(ending, slot.quick_deaths, ever_ran=slot.post.key in self._ran, random=self._random)
        slot.quick_deaths = follows.quick_deaths
        match follows:
            case Again(seconds=seconds):
                slot.start_at, slot.why = self._clock() + seconds, why or in_words(ending.code)
                self._books.restarted(slot.name, ending.reason)
                self._emit(death(slot, ending, again=seconds, why=why))
            case GiveUp(exit_code=code):
                slot.start_at, slot.why = None, why or in_words(ending.code)
                self._give_up(slot, ending, code, why)

    def _give_up(self, slot: Slot, ending: Ending, code: int, why: str | None) -> None:
        if code in policy.HOPELESS:
            self.error = self.error or why or f"{slot.post.target} ended with {in_words(code)}"
        else:
            cause = f"{in_words(ending.code)}{f': {why}' if why else ''}"
            self._emit(death(slot, ending, why=why))
            self._emit(ProcessCrashLoop(worker=slot.name, slot=slot.number, deaths=slot.quick_deaths, cause=cause))
        self.exit_code = self.exit_code or code
        if not self.stopping:
            self._stop()

    def _stop(self) -> None:
        again, self.stopping = self.stopping, True
        for slot in self._slots:
            if slot.living is None:
                slot.start_at = None
            elif not slot.living.stopping or again:
                self._dismiss(slot.living)

    def _leave(self, slot: Slot) -> None:
        slot.leaving = True
        if slot.living is None:
            self._slots.remove(slot)
        else:
            self._dismiss(slot.living)

    def _dismiss(self, living: Living) -> None:
        living.dismiss(self._clock(), max(self.drain_seconds, living.drain_seconds or 0.0))

    # Questions.

    def _ask(self, what: str, seconds: float, future: Future[list[Seen]]) -> None:
        self._questions.ask(what, self._living(), self._clock() + seconds, future)

    def seen(self, answers: Answers) -> list[Seen]:
        """How every slot is, with these answers. On the loop's thread."""
        return [look_at(slot, answers, self._clock()) for slot in self._slots if not slot.leaving]

    def _living(self) -> Iterator[Living]:
        return (slot.living for slot in list(self._slots) if slot.living is not None)
