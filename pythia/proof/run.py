"""One run: workers, a producer, faults by the schedule; then everything is mended and drained, and the judge reads the files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pythia.broker import Broker, Capabilities, ConsumeOptions
from pythia.brokers import open_broker
from pythia.config import WorkerConfig
from pythia.errors import BrokerError, Unsupported
from pythia.proof.checker import Verdict, judge, read
from pythia.proof.child import Task
from pythia.proof.clearing import PREFIX, clear
from pythia.proof.crew import CHILD, Crew
from pythia.proof.ledger import Following, Ledger
from pythia.proof.nemesis import Nemesis, Venue
from pythia.proof.producer import Bodies, Producer, numbered
from pythia.proof.proxy import Proxy
from pythia.proof.schedule import (
    BLOCK_KIND,
    BOOT_SECONDS,
    FULL_KIND,
    LINK_KINDS,
    PROCESS_KINDS,
    Kind,
    Mode,
    Planned,
    schedule,
)

OUR_TARGET = "pythia.proof.example:VerifyWorker"
PORTS = {
    "amqp": 5672,
    "redis": 6379,
}  # schemes whose connections may be led through a proxy; those with TLS name their server
RETRY_CAP_SECONDS = 2.0  # a retry in an hour would have us wait for an hour
LONGEST_BOOT_SECONDS = 60.0
RECOVERY_SECONDS = 5.0  # beyond the lease
BACKLOG = 2000  # more than dead workers may hold, so that the living always have something to do
ORDERED_KEYS = 6
LOOK_SECONDS = 0.05
FULL_SECONDS = 1.0  # from the end of a full disk until no worker is just being started on it
DRAIN_SECONDS = 90.0
STILL_SECONDS = RETRY_CAP_SECONDS * 1.2 + 0.5  # nothing begins for so long: nothing waits for its retry any more
STATES = ("ready", "in-flight", "delayed")  # of a message that is left
WIRE_SLACK_SECONDS = 1.0  # an acknowledgement on a wire is not confirmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run. ``config`` is for the producer and our own looks; workers configure themselves, ``flags`` win.

    ``command`` starts a worker process. Any program will do that reads one ``Task`` from its standard input and writes what
    ``pythia.proof.checker`` reads.
    """

    url: str
    folder: Path  # of the report; the history is in a folder below
    config: WorkerConfig
    target: str = OUR_TARGET
    command: Sequence[str] = CHILD
    seconds: float = 300.0
    messages: int = 0  # so many at least are confirmed, however long that takes when the faults are over
    seed: int = 1
    mode: Mode = "dense"
    workers: int = 2
    rate: float | None = None
    lease: float = 5.0
    bodies: Bodies = numbered
    config_file: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    venue: Venue | None = None
    keys: int = 0  # ordering keys, on a broker that keeps no order over several workers
    kinds: Sequence[Kind] | None = None  # None: all that can be done here
    drain_seconds: float = DRAIN_SECONDS

    @property
    def history(self) -> Path:
        return self.folder / "history"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    seconds: float
    published: int
    handled: int
    waiting: int
    faults: int
    broken: tuple[str, ...]
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run."""

    verdict: Verdict
    facts: Mapping[str, Any]  # what run.json says
    seconds: float


Watch = Callable[[Progress], None]


def verify(plan: Plan, watch: Watch = lambda _progress: None) -> Result:
    """Run the plan and judge it.

    Raises:
        BrokerError: the broker cannot be used, or keeps nothing. WorkerEnded: a worker does not start, or not stop.
    """
    return _Run(plan, watch).run()


class _Run:
    """The state of one run."""

    def __init__(self, plan: Plan, watch: Watch) -> None:
        self._plan = plan
        self._watch = watch
        self._queue = f"{PREFIX}{secrets.token_hex(4)}"
        _make_room(plan.history)
        self._ledger = Ledger(plan.history, f"nemesis-{os.getpid()}.jsonl")
        self._following = Following(plan.history)
        self._proxies: dict[int, Proxy] = {}  # by worker; -1: the producer's
        self._stage = "starting"
        self._began = time.monotonic()
        self._nemesis: Nemesis | None = None
        self._full_until = 0.0
        self._started_when_full: set[int] = set()
        self._producer: Producer

    def run(self) -> Result:
        able = asyncio.run(self._declare())
        with ExitStack() as stack:
            stack.callback(self._clear)
            self._lead_through_proxies(stack)
            url = self._url(-1)
            plan = self._plan
            keys = ORDERED_KEYS if able.ordering_keys else plan.keys
            self._producer = Producer(
                url, plan.config, self._queue, plan.history, plan.bodies, keys=keys, rate=plan.rate
            )
            stack.callback(self._producer.stop)
            tasks = {number: self._task(number) for number in range(plan.workers)}
            crew = stack.enter_context(Crew(tasks, self._ledger, self._proxies, plan.command))
            facts = self._work(crew, able)
            self._drain(crew)
        self._ledger.tell("over")
        return Result(verdict=judge(read(plan.history)), facts=facts, seconds=time.monotonic() - self._began)

    def _task(self, number: int) -> Task:
        plan = self._plan
        flags: dict[str, Any] = {
            "broker.url": self._url(number),
            "broker.heartbeat_seconds": _heartbeat(plan.lease),
            "queues": [self._queue],
            "lease_seconds": plan.lease,
            "retry.cap_seconds": RETRY_CAP_SECONDS,
            "rabbitmq.exchange": "",
            "rabbitmq.routing_keys": [],
            "http.enabled": False,
            "log.format": "json",
            **plan.flags,
        }
        return Task(target=plan.target, folder=str(plan.history), flags=flags, config_file=plan.config_file)

    # The broker, seen from beside.

    @contextlib.asynccontextmanager
    async def _broker(self) -> AsyncIterator[Broker]:
        """Connected, by the way that is never broken."""
        broker = open_broker(self._plan.url, config=self._plan.config)
        try:
            await broker.connect()
            yield broker
        finally:
            await broker.close()

    async def _declare(self) -> Capabilities:
        """Make the queue, as a consumer does."""
        async with self._broker() as broker:
            await broker.ping()
            able = broker.capabilities
            if not able.keeps or not able.shared:
                raise Unsupported(f"{able.name} keeps nothing for several workers: there is nothing to verify")
            options = ConsumeOptions(prefetch=1, lease=self._plan.lease, max_hold=None, consumer="verify")
            async with broker.consume(self._queue, options):
                pass
        return able

    def _clear(self) -> None:
        with contextlib.suppress(BrokerError):  # what is left is a queue whose name says whose it was
            asyncio.run(self._clear_queue())

    async def _clear_queue(self) -> None:
        async with self._broker() as broker:
            await clear(broker, self._plan.url, self._queue)

    async def _waiting(self) -> dict[str, int]:
        """What the broker says is left, as far as it can tell: RabbitMQ neither what is in hand nor what waits for its retry."""
        async with self._broker() as broker:
            depth = await broker.depth(self._queue)
            told = zip(STATES, (depth.ready, depth.in_flight, depth.delayed), strict=True)
            return {state: number for state, number in told if number is not None}

    async def _dead(self) -> list[tuple[str, str, int]]:
        async with self._broker() as broker:
            letters = [letter async for letter in broker.dead_letters(self._queue).scan()]
            return [(letter.envelope.id, letter.reason or "-", letter.attempts or 0) for letter in letters]

    def _lead_through_proxies(self, stack: ExitStack) -> None:
        port = PORTS.get(self._plan.url.partition("://")[0].lower())
        if port is not None:
            for number in range(-1, self._plan.workers):
                self._proxies[number] = stack.enter_context(Proxy.before(self._plan.url, port))

    def _url(self, number: int) -> str:
        proxy = self._proxies.get(number)
        return self._plan.url if proxy is None else proxy.url(self._plan.url)

    # The work.

    def _kinds(self, able: Capabilities) -> list[Kind]:
        return [
            kind if able.leased or not self._is_unnoticed(kind) else replace(kind, cause="none")
            for kind in self._chosen()
        ]

    def _is_unnoticed(self, kind: Kind) -> bool:
        """Whether, without leases, a worker that stands still for so long keeps what it holds: the server misses two heartbeats
        before it takes that away."""
        return kind.cause == "lease" and kind.length(self._plan.lease) < 2 * _heartbeat(self._plan.lease)

    def _chosen(self) -> Sequence[Kind]:
        if self._plan.kinds is not None:
            return self._plan.kinds
        kinds = [*PROCESS_KINDS]
        kinds += [BLOCK_KIND] if self._plan.target == OUR_TARGET else []
        kinds += LINK_KINDS if self._proxies else []
        kinds += self._plan.venue.kinds if self._plan.venue is not None else []
        return kinds

    def _work(self, crew: Crew, able: Capabilities) -> Mapping[str, Any]:
        self._producer.allow(BACKLOG)
        self._producer.start()
        last = self._following.last_start
        boot = crew.wait_until_working(lambda pid: pid in self._look().last_start, LONGEST_BOOT_SECONDS)
        recovery = round(self._plan.lease + RECOVERY_SECONDS + boot, 1)
        kinds = self._kinds(able)
        planned = self._planned(kinds)
        facts = self._write_down(able, recovery, planned, kinds)
        self._nemesis = self._make_nemesis(kinds, crew)
        self._stage, self._began = "running", self._ledger.tell("running")
        try:
            self._break_things(self._nemesis, crew, planned)
            while self._nemesis.at_work or self._producer.counts["confirmed"] < self._plan.messages:
                self._step(crew)
        finally:
            self._nemesis.end()
        self._stage = "recovering"
        healed, deadline = time.monotonic(), time.monotonic() + 2 * recovery  # who is never back is seen to be late
        while time.monotonic() < deadline and not all(last.get(slot.pid, 0.0) > healed for slot in crew.slots):
            self._step(crew)
        return facts

    def _planned(self, kinds: Sequence[Kind]) -> list[Planned]:
        """Nothing that was measured goes in: the same seed is the same schedule, however long a boot takes here."""
        plan = self._plan
        return schedule(
            plan.mode,
            kinds,
            seed=plan.seed,
            workers=plan.workers,
            lease=plan.lease,
            seconds=plan.seconds,
            recovery=plan.lease + RECOVERY_SECONDS + BOOT_SECONDS,
        )

    def _make_nemesis(self, kinds: Sequence[Kind], crew: Crew) -> Nemesis:
        return Nemesis(
            kinds,
            crew,
            self._producer,
            ledger=self._ledger,
            following=self._following,
            producer_proxy=self._proxies.get(-1),
            venue=self._plan.venue,
            drain_seconds=self._plan.config.drain_timeout_seconds,
        )

    def _write_down(
        self, able: Capabilities, recovery: float, planned: Sequence[Planned], kinds: Sequence[Kind]
    ) -> Mapping[str, Any]:
        """The schedule and what is promised, before anything breaks."""
        plan = self._plan
        text = json.dumps([asdict(fault) for fault in planned], indent=1)
        (plan.folder / "schedule.json").write_text(text)
        facts = {
            "seed": plan.seed,
            "schedule": plan.mode,
            "target": plan.target,
            "broker": able.name,
            "server_version": able.server_version,
            "workers": plan.workers,
            "lease_seconds": plan.lease,
            "recovery_seconds": recovery,
            "slack_seconds": 0.0 if able.transactional else WIRE_SLACK_SECONDS,
            "keys": "queue" if able.ordering_keys else "process",
            "kinds": {kind.name: kind.text for kind in kinds},
        }
        (plan.history / "run.json").write_text(json.dumps(facts, indent=1))
        return facts

    def _break_things(self, nemesis: Nemesis, crew: Crew, planned: Sequence[Planned]) -> None:
        for fault in planned:
            while time.monotonic() - self._began < fault.at:
                self._step(crew)
            nemesis.begin(fault)
        while time.monotonic() - self._began < max((fault.at + fault.seconds for fault in planned), default=0.0):
            self._step(crew)

    def _step(self, crew: Crew) -> None:
        """A moment of the run: read what is new, let the producer go on, see to the workers."""
        time.sleep(LOOK_SECONDS)
        begun = self._look().last_start
        if self._full_disk():
            self._started_when_full |= {slot.pid for slot in crew.slots if slot.pid not in begun}
        for slot in crew.slots:
            slot.look_after(excused=slot.pid in self._started_when_full)

    def _full_disk(self) -> bool:
        """Whether the disk is, or was a moment ago, full: a worker that is started then ends, and says so. When it ends is
        another matter: it may be frozen meanwhile."""
        now = time.monotonic()
        if self._nemesis is not None and FULL_KIND.name in self._nemesis.now:
            self._full_until = now + FULL_SECONDS
        return now < self._full_until

    def _look(self) -> Following:
        following, producer = self._following.look(), self._producer
        if producer.error is not None:
            raise BrokerError(f"nothing can be published: {producer.error}") from producer.error
        producer.allow(len(following.seen) + BACKLOG)
        nemesis = self._nemesis
        self._watch(
            Progress(
                seconds=time.monotonic() - self._began,
                published=producer.counts["confirmed"],
                handled=len(following.over),
                waiting=max(0, producer.counts["confirmed"] - len(following.seen)),
                faults=0 if nemesis is None else nemesis.struck,
                broken=() if nemesis is None else tuple(sorted(nemesis.now)),
                stage=self._stage,
            )
        )
        return following

    # The end.

    def _drain(self, crew: Crew) -> None:
        self._producer.stop()
        self._ledger.tell("quiet")
        self._stage = "draining"
        dead = self._until_all_is_over(crew)
        crew.stop(self._plan.config.drain_timeout_seconds + RECOVERY_SECONDS)
        notes = Ledger(self._plan.history, f"broker-{os.getpid()}.log")
        for name, reason, attempts in dead or asyncio.run(self._dead()):
            notes.note_without_time("dead", name, reason, attempts)
        for state, number in asyncio.run(self._waiting()).items():
            notes.note_without_time("left", state, number)
        notes.close()

    def _until_all_is_over(self, crew: Crew) -> list[tuple[str, str, int]]:
        """Until every confirmed message is over and nothing begins any more, or patience is; the dead letters.

        What is missing is waited for, but not where the broker has said twice, with a pause between, that it has nothing."""
        deadline, still_since, begun, empty = time.monotonic() + self._plan.drain_seconds, time.monotonic(), -1, 0
        while time.monotonic() < deadline:
            self._step(crew)
            following = self._following
            if following.begun != begun:
                begun, still_since, empty = following.begun, time.monotonic(), 0
            if time.monotonic() - still_since < STILL_SECONDS:
                continue
            dead, waiting = asyncio.run(self._dead()), asyncio.run(self._waiting())
            missing = self._producer.confirmed - following.over - {name.encode() for name, *_ in dead}
            empty = empty + 1 if len(waiting) == len(STATES) and not any(waiting.values()) else 0
            if not any(waiting.values()) and (not missing or empty > 1):
                return dead
            still_since = time.monotonic()
        return []


def _heartbeat(lease: float) -> int:
    """Seconds; two of them are longer than anything that nobody may notice."""
    return max(2, int(2 * lease))


def _make_room(folder: Path) -> None:
    """An empty folder for a history; only one of ours is emptied."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*-*.log", "nemesis-*.jsonl", "worker-*.txt", "run.json"):
        for path in folder.glob(pattern):
            path.unlink()
