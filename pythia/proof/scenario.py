"""One seed, one world: workers on machines that share a broker, a producer, the weather, and in the end the judge."""

from __future__ import annotations

import asyncio
import random as chance
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

from pythia.broker import Published
from pythia.brokers.memory import Faults, MemoryBroker
from pythia.config import WorkerConfig
from pythia.core.calling import written
from pythia.core.publishing import make_envelope
from pythia.core.worker import Worker, make_worker
from pythia.message import Envelope
from pythia.proof.history import Event, digest_of
from pythia.proof.hosts import Host
from pythia.proof.judge import Finding, Terms, judge
from pythia.proof.script import KeyedWorker, ScriptedWorker, draw_acts
from pythia.proof.seeded_loop import SeededLoop, Stuck
from pythia.proof.weather import Weather
from pythia.proof.witness import World
from pythia.utils.isolation import isolated_config

QUEUE = "simulated"
SINK = "simulated.results"
SHUFFLES = (0.0, 0.3, 1.0)  # a third of the worlds keep asyncio's own order
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.5, 600.0
STOP_SECONDS = 600.0
LARGE, LARGE_SHARE = 4, 0.05  # a world now and then is so much larger

MakeBody = Callable[[Random, int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated, and how large a world is made for it."""

    worker_class: type[Worker] = ScriptedWorker
    body: MakeBody | None = None  # None: the script's
    overrides: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[int, int] = (10, 40)
    seconds: tuple[float, float] = (5.0, 15.0)  # how long there is weather, virtual
    heals_within: float = 300.0  # how long all may take to be done with afterwards, virtual

    @property
    def scripted(self) -> bool:
        return issubclass(self.worker_class, ScriptedWorker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one seed."""

    seed: int
    messages: int
    events: Sequence[Event]
    faults: Counter[str]
    findings: Sequence[Finding]
    needs: str | None  # what of a real machine the worker asked for

    @property
    def digest(self) -> str:
        """The same for the same seed, whatever the process."""
        return digest_of(str(event) for event in self.events)


def run_seed(seed: int, plan: Plan) -> Outcome:
    """Simulate one world, in no real time. Not inside a running event loop."""
    state = chance.getstate()
    chance.seed(seed)  # a worker may draw random numbers of its own
    random = Random(f"{seed} world")  # noqa: S311 - schedules, no secrets
    loop = SeededLoop(Random(f"{seed} loop"), shuffle=random.choice(SHUFFLES))  # noqa: S311 - as above
    world = World(loop, random)
    scenario = Scenario(world, plan)
    try:
        loop.run_until_complete(scenario.play())
    except Stuck as error:
        world.note("failed", text=str(error))
    finally:
        world.history.closed = True
        loop.part()
        chance.setstate(state)
    findings = judge(world.history.events, scenario.terms)
    return Outcome(
        seed=seed,
        messages=scenario.said,
        events=world.history.events,
        faults=scenario.weather.seen,
        findings=findings,
        needs=loop.needs,
    )


class Scenario:
    """One world's course: what it is made of, and what happens in it."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        random = world.random
        scale = LARGE if random.random() < LARGE_SHARE else 1
        self._seconds = random.uniform(*plan.seconds) * scale
        self._messages = random.randint(*plan.messages) * scale
        self._class: Any = _variant(plan, random)  # a class, which mypy takes for unhashable
        self._overrides = {**(_drawn(random) if plan.scripted else {}), **plan.overrides}
        config = self._vary(self._overrides.get("concurrency"), {})
        self._runs: Counter[str] = Counter()
        self.terms = _terms(self._class, config)
        self._queue, self._queues = config.queue_names[0], config.queue_names
        machines = random.choice((1, 2, 2, 3))
        self._hosts = [Host(world, lambda: self._make(config), self._vary) for _ in range(machines)]
        self.weather = Weather(world, self._hosts, random, lease=config.lease_seconds)
        self._producer = MemoryBroker(clock=world.clock, store=world.store, faults=Faults())
        self.said = 0

    def _make(self, config: WorkerConfig) -> Worker:
        worker = make_worker(self._class, config)
        if isinstance(worker, ScriptedWorker):
            worker.runs = self._runs
        return worker

    def _vary(self, lanes: int | None, others: Mapping[str, Any]) -> WorkerConfig:
        """The configuration with so many lanes (None: as many as the class says) and these other keys."""
        prefetch = self._overrides.get("prefetch")
        lanes = lanes if lanes is None or prefetch is None else min(lanes, prefetch)
        return _worker_config(self._class, tuple(sorted({**self._overrides, **others, "concurrency": lanes}.items())))

    async def play(self) -> None:
        """From the first start to the last stop."""
        await self._producer.connect()
        for host in self._hosts:
            host.start()
        await asyncio.gather(self.weather.blow(self._seconds), self._produce())
        await self._recover()
        await self._stop()
        self._take_stock()

    # Messages.

    async def _produce(self) -> None:
        random, loop = self._world.random, self._world.loop
        moments = sorted(random.uniform(0.0, self._seconds) for _ in range(self._messages))
        for number, moment in enumerate(moments):
            if moment > loop.time():
                await asyncio.sleep(moment - loop.time())
            await self._say(self._envelope(number))
            self.said += 1

    def _envelope(self, number: int) -> Envelope:
        random = self._world.random
        name, now = f"m{number:03}", self._world.clock.time()
        key = random.choice("abc") if random.random() < 0.3 and not self.terms.own_keys else None
        if self._plan.body is not None or not self._plan.scripted:
            body = {"n": number} if self._plan.body is None else self._plan.body(random, number)
            return make_envelope(body, id=name, ordering_key=key, timestamp=now)
        if random.random() < 0.02:
            return Envelope(b"\xff{", id=name, ordering_key=key, timestamp=now)  # nobody can read it
        body = {"n": number, "acts": draw_acts(random)}
        return make_envelope(body, id=name, ordering_key=key, timestamp=now)

    async def _say(self, envelope: Envelope) -> None:
        """Publish until it is confirmed, as a producer should; one that is unlucky gives up."""
        random = self._world.random
        delay = random.uniform(0.1, 3.0) if random.random() < 0.1 else 0.0
        for _ in range(3):
            answer = random.choices((None, Published.UNKNOWN, Published.REFUSED), (95, 3, 2))[0]
            self._producer.faults.publish = lambda _queue, _envelope, answer=answer: answer
            said = (await self._producer.publish(self._queue, [envelope], delay=delay))[0]
            self._world.history.note(Event(self._world.loop.time(), "said", 0, envelope.id, text=said.value))
            if said is Published.CONFIRMED:
                return
            self.weather.seen[f"publish {said.value}"] += 1
            if random.random() < 0.3:
                return

    # The end.

    async def _recover(self) -> None:
        """Every machine is up, nothing is broken any more: all must be done with."""
        loop = self._world.loop
        for host in self._hosts:
            host.start_if_down()
        until, poll = loop.time() + self._plan.heals_within, FIRST_POLL_SECONDS
        while self._busy() and loop.time() < until:
            await asyncio.sleep(poll)
            poll = min(LONGEST_POLL_SECONDS, poll * 1.1)

    def _busy(self) -> bool:
        counts = [self._world.store.lane(queue).counts for queue in self._queues]
        return any(one[state] for one in counts for state in ("ready", "delayed", "leased", "blocked"))

    async def _stop(self) -> None:
        tasks = [host.task for host in self._hosts if host.up and host.task is not None]
        for host in self._hosts:
            if host.up:
                host.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for host in self._hosts:
            if host.up:
                self._world.note("failed", host.process.number, text="it does not stop")

    def _take_stock(self) -> None:
        world = self._world
        for letter in [letter for queue in self._queues for letter in world.store.lane(queue).dead.values()]:
            world.history.note(Event(world.loop.time(), "deadletter", 0, letter.envelope.id, text=str(letter.reason)))
        for number, row in world.store.rows.items():
            if row.state != "gone" and row.queue in self._queues:
                world.history.note(
                    Event(world.loop.time(), "remains", 0, row.envelope.id, number, row.fence, row.attempt, row.state)
                )
        for host in self._hosts:
            host.note_residuals()


def _variant(plan: Plan, random: Random) -> type[Worker]:
    return KeyedWorker if plan.worker_class is ScriptedWorker and random.random() < 0.25 else plan.worker_class


def _drawn(random: Random) -> dict[str, Any]:
    """What the seed decides of the configuration."""
    lanes = random.randint(1, 5)
    return {
        "queue": QUEUE,
        "concurrency": lanes,
        "prefetch": random.choice((None, lanes, lanes + 3)),
        "sink": random.choice((None, SINK)),
        "lease_seconds": random.choice((1.0, 2.0, 4.0)),
        "handler_timeout_seconds": 3.0,
        "drain_timeout_seconds": 5.0,
    }


@lru_cache(maxsize=512)
def _worker_config(cls: type[Worker], overrides: tuple[tuple[str, Any], ...]) -> WorkerConfig:
    """The configuration that a worker of this class has, made once: it is frozen."""
    quiet = {"metrics.queue_depth_interval_seconds": 0}
    said = {name: value for name, value in overrides if value is not None}
    return make_worker(cls, isolated_config(cls.config_class, {**quiet, **said})).config


def _terms(cls: type[Worker], config: WorkerConfig) -> Terms:
    plain = not cls.retry.per_error
    return Terms(
        queues=config.queue_names,
        handler_timeout=config.handler_timeout_seconds or None,
        max_attempts=config.retry.max_attempts if plain else None,
        sink=config.sink,
        dedup=config.dedup.enabled,
        own_keys=written(cls.ordering_key),
        batch_wait=config.batch.wait_seconds if written(cls.process_batch) else 0.0,
    )
