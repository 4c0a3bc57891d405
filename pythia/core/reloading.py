"""Reload: plan, prepare, apply between messages as the next generation, or refuse as a whole; watch, and roll back.

One reload at a time. However many were asked for meanwhile, one more follows, for it reads what the sources say by then.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pythia.config import Plan, WorkerConfig, plan
from pythia.core.assembly import claim_seconds, key_of, rules_of, terms_of
from pythia.core.events import ConfigApplied, ConfigRefused, ConfigRolledBack, TaskFailed
from pythia.core.preparing import Prepared, prepare
from pythia.core.state import WorkerState
from pythia.core.watching import Probation
from pythia.errors import ConfigError, LifecycleError, PythiaError

if TYPE_CHECKING:
    from pythia.core.engine import Engine
    from pythia.core.life import Life
    from pythia.core.rules import Rules
    from pythia.core.shift import Shift

REGISTER_SECONDS = 5.0  # for the consumers that begin anew; they go on trying after that
HOOK_SECONDS = 1.0  # for a hook's last words, when a stop comes

Result = Literal["applied", "refused", "rolled_back"]
NOT_RUNNING = "the worker is not running"
STOPPING = "the worker is stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What came of a reload. ``plan`` None: the configuration could not even be read."""

    result: Result
    generation: int
    plan: Plan | None = None
    cause: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "result": self.result,
            "generation": self.generation,
            "cause": self.cause,
            "changes": [] if self.plan is None else self.plan.to_json(),
        }


class Attempt:
    """One reload under way: what it began with, and how far it has come."""

    def __init__(self, reloader: Reloader, before: WorkerConfig) -> None:
        self.reloader = reloader
        self.before = before  # what the worker had
        self.former = before  # what was in force, as a whole
        self.plan: Plan | None = None
        self.proposed: WorkerConfig | None = None  # assigned by the hook, not yet applied
        self.applied: WorkerConfig | None = None
        self.open = True


_attempt: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("pythia_reload", default=None)


class Reloader:
    """The reloads of one run of a worker."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._asked: list[Future[Reloaded]] = []
        self._over = False
        self._lock = threading.Lock()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self.probation = Probation(life, self._turn, self._fall_back)

    # Asking, from any thread.

    def ask(self) -> Future[Reloaded]:
        """What comes of the next reload; it is refused when the worker does not run, and does not start."""
        answer: Future[Reloaded] = Future()
        with self._lock:
            accepted = not self._over and self._life.loop is not None and not self._life.loop.is_closed()
            if accepted:
                self._asked.append(answer)
        if accepted and self._life.loop is not None:
            self._life.loop.call_soon_threadsafe(self._news.set)
        else:
            answer.set_result(self._refusal(NOT_RUNNING))
        return answer

    def planned(self) -> Reloaded:
        """What a reload would do; the sources are read, and nothing else happens."""
        before = self._in_force
        found: Plan | None = None
        try:
            new = before.reload()
            found = plan(before, new)
            rules_of(self._life.worker, new)
        except ConfigError as error:
            return self._refusal(_one_line(error), found)
        return self._refusal(found.refusal, found) if found.refusal else self._answer("applied", found)

    def close(self) -> None:
        """The run is over: nobody waits any more."""
        with self._lock:
            self._over = True
            asked, self._asked = self._asked, []
        for answer in asked:
            _resolve(answer, self._refusal(NOT_RUNNING))

    async def serve(self) -> None:
        """Carry out what is asked for, one after the other, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            with self._lock:
                asked, self._asked = self._asked, []
            if not asked:
                continue
            result = self._refusal(STOPPING)
            try:
                with self._life.while_reloading():
                    result = await self._unless_stopped()
            finally:
                for answer in asked:
                    _resolve(answer, result)

    async def _unless_stopped(self) -> Reloaded:
        """One reload; a stop that comes meanwhile ends it, before or after it was applied."""
        work = asyncio.create_task(self._reload(), name="reloading")
        stop = asyncio.create_task(self._life.stop_asked.wait(), name="reload ends")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=HOOK_SECONDS)
        finally:
            stop.cancel()
            work.cancel()
        if not work.done() or work.cancelled():
            return self._refused(STOPPING, None)
        if (error := work.exception()) is not None:
            return self._refused(_named(error), None)
        return work.result()

    # One reload.

    async def _reload(self) -> Reloaded:
        """Call the user's hook, apply what it proposes, or take back whatever it did."""
        async with self._turn:
            if self._life.stopping or self._life.state is not WorkerState.RUNNING:
                return self._refused(STOPPING, None)
            attempt = Attempt(self, self._life.worker.config)
            token = _attempt.set(attempt)
            try:
                await self._life.worker.reload_config()
                if attempt.proposed is not None:
                    await self._carry_out(attempt, attempt.proposed)
            except Exception as error:  # noqa: BLE001 - a reload that fails, in whatever way, changes nothing
                attempt.open = False
                return await self._take_back(attempt, error)
            except BaseException:
                self._forget_proposal(attempt)
                raise
            finally:
                attempt.open = False
                _attempt.reset(token)
            if attempt.applied is None:
                self._confirm()
            return self._answer("applied", attempt.plan)

    def propose(self, new: WorkerConfig) -> bool:
        """``worker.config = new`` in the hook of a reload: checked now, applied when the hook has returned. False outside of one.

        Raises:
            ConfigError: it cannot be used, or only by a restart.
        """
        attempt = _attempt.get()
        if attempt is None or attempt.reloader is not self or not attempt.open:
            return False
        self._check(attempt, new)
        attempt.proposed = new
        self._life.worker._pythia_config = new  # noqa: SLF001 - the worker's own setter
        return True

    async def apply(self, new: WorkerConfig) -> bool:
        """Apply ``new`` as a whole; whether anything changed. In the hook of a reload, or called by the user's own code.

        Raises:
            ConfigError: it cannot be used, or only by a restart. BrokerError: where it leads to cannot be reached. Nothing
                changed.
        """
        attempt = _attempt.get()
        if attempt is not None and attempt.reloader is self and attempt.open:
            return await self._carry_out(attempt, new)
        if self._life.engine is None or self._life.state is not WorkerState.RUNNING:
            changed = plan(self._life.worker.config, new).changes
            self._life.worker.config = new
            return bool(changed)
        async with self._turn:
            return await self._carry_out(Attempt(self, self._life.worker.config), new)

    def _check(self, attempt: Attempt, new: WorkerConfig) -> tuple[Plan, Rules]:
        attempt.plan = found = plan(self._in_force, new)
        if found.refusal is not None:
            raise ConfigError(found.refusal, key=found.restart[0])
        return found, rules_of(self._life.worker, new)

    async def _carry_out(self, attempt: Attempt, new: WorkerConfig) -> bool:
        life = self._life
        found, rules = self._check(attempt, new)
        if not found.changes:
            attempt.proposed = None
            life.worker._pythia_config = life.status.config = life.wired = new  # noqa: SLF001 - as the worker's own setter
            return False
        prepared = await self._prepared(new, found)
        attempt.former = self._in_force
        self.probation.begin(attempt.former, new, rules)
        engine = self._commit(new, rules, found, prepared)
        attempt.proposed, attempt.applied = None, new
        life.tally.applied()
        life.emit(ConfigApplied(generation=life.tally.generation, changed=found.keys))
        if found.resubscribes:
            await engine.registered(REGISTER_SECONDS)
        return True

    async def _prepared(self, new: WorkerConfig, found: Plan) -> Prepared:
        prepared = await prepare(self._life, new, found)
        if self._life.stopping or self._life.state is not WorkerState.RUNNING:
            raise LifecycleError(STOPPING)  # what was made is closed with everything else
        return prepared

    def _commit(self, new: WorkerConfig, rules: Rules, found: Plan, prepared: Prepared) -> Engine:
        """The moment itself: between two messages, without an await."""
        life, (shift, engine) = self._life, self._path
        life.worker._pythia_config = life.status.config = life.wired = new  # noqa: SLF001 - as the worker's own setter
        life.tally.consumes(new.queue_names)
        dedup = engine.processor.dedup
        dedup.hold_seconds = claim_seconds(new)
        if prepared.link is not None:
            broker = prepared.link.broker
            life.status.capabilities, life.status.broker_stats = broker.capabilities, broker.stats
            life.connection_changed(None)
            engine.keys.follow(key_of(life.worker, broker))
            if new.dedup.store_url is None:
                dedup.store = prepared.store
        engine.apply(rules, terms_of(new), anew=found.resubscribes, link=prepared.link)
        if shift.trial is not None:
            shift.trial.keep_at_most(engine.prefetch // 2)
        life.on_config(new)
        return engine

    # What does not come to pass.

    async def _take_back(self, attempt: Attempt, error: Exception) -> Reloaded:
        cause = _one_line(error) if isinstance(error, PythiaError) else f"{_where(attempt)} raised {_named(error)}"
        if attempt.applied is not None:
            return await self._roll_back(attempt.former, attempt.applied, cause, attempt.plan)
        proposed = attempt.proposed
        self._forget_proposal(attempt)
        answer = self._refused(cause, attempt.plan)
        if proposed is not None:
            await self._tell(proposed, attempt.before)
        return answer

    def _forget_proposal(self, attempt: Attempt) -> None:
        if attempt.proposed is not None:
            attempt.proposed = None
            self._life.worker._pythia_config = attempt.before  # noqa: SLF001 - as the worker's own setter

    async def _roll_back(self, to: WorkerConfig, bad: WorkerConfig, cause: str, found: Plan | None) -> Reloaded:
        """Make the configuration before the one in force, as a generation of its own; what failed meanwhile is given back."""
        life, back = self._life, plan(bad, to)
        try:
            rules, prepared = rules_of(life.worker, to), await self._prepared(to, back)
        except Exception as error:  # noqa: BLE001 - whatever stands against it, the worker goes on with what it has
            self.probation.end(forgive=False)
            return self._refused(f"{cause}; and it cannot be rolled back: {_one_line(error)}", found)
        engine = self._commit(to, rules, back, prepared)
        self.probation.end(forgive=True)
        life.tally.rolled_back(cause)
        life.emit(ConfigRolledBack(generation=life.tally.generation, changed=back.keys, cause=cause))
        if back.resubscribes:
            await engine.registered(REGISTER_SECONDS)
        await self._tell(bad, to)
        return self._answer("rolled_back", found, cause)

    async def _fall_back(self, tried: WorkerConfig, proven: WorkerConfig, cause: str) -> None:
        """What the probation has found, in its turn."""
        await self._roll_back(proven, tried, cause, plan(proven, tried))

    async def _tell(self, old: WorkerConfig, new: WorkerConfig) -> None:
        """The user's components follow, too."""
        try:
            await self._life.worker._apply_config_changes(old, new)  # noqa: SLF001 - fixed by the first page
        except Exception as error:  # noqa: BLE001 - the user's hook may raise anything; the way back is taken all the same
            self._life.emit(TaskFailed(where="_apply_config_changes", error=error))

    # Telling.

    @property
    def _in_force(self) -> WorkerConfig:
        return self._life.wired or self._life.status.config

    @property
    def _path(self) -> tuple[Shift, Engine]:
        if self._life.shift is None or self._life.engine is None:
            raise LifecycleError(NOT_RUNNING)
        return self._life.shift, self._life.engine

    def _answer(self, result: Result, found: Plan | None, cause: str | None = None) -> Reloaded:
        return Reloaded(result=result, generation=self._life.tally.generation, plan=found, cause=cause)

    def _refusal(self, cause: str | None, found: Plan | None = None) -> Reloaded:
        return self._answer("refused", found, cause)

    def _refused(self, cause: str, found: Plan | None) -> Reloaded:
        """Counted and told."""
        life = self._life
        life.tally.refused(cause)
        changed = () if found is None else found.restart or found.keys
        life.emit(ConfigRefused(generation=life.tally.generation, changed=changed, cause=cause))
        return self._refusal(cause, found)

    def _confirm(self) -> None:
        """There was nothing to change."""
        self._life.tally.confirmed()
        self._life.emit(ConfigApplied(generation=self._life.tally.generation, changed=()))


def _resolve(answer: Future[Reloaded], result: Reloaded) -> None:
    if not answer.done():
        answer.set_result(result)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _named(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _where(attempt: Attempt) -> str:
    return "reload_config" if attempt.applied is None else "_apply_config_changes"
