"""One process of a case, forked with everything imported: a worker that handles the case's message, or who publishes it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pythia import Defer, Drop, Message, Reject, RetryPolicy, Worker
from pythia.broker import Published
from pythia.brokers import open_broker
from pythia.config import WorkerConfig
from pythia.core.events import ConsumerRegistered, Event
from pythia.errors import BrokerUnavailable
from pythia.message import Envelope
from pythia.service import RunOptions, life_of, run
from tests.crashes import amqp_boundary, engine_boundary, mutants, redis_boundary, sqlite_boundary
from tests.crashes.points import Point, Points

ID = "the-message"
LEASE_SECONDS = 1.0
DELAY_SECONDS = 0.25
SLOW_SECONDS = 0.55  # a renewal is due every third of a lease
RELEASE_SECONDS = 0.3
QUEUE, OUTPUT = "crash", "made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a process is to do. ``ends``: once its message has come to an end. ``watched``: it notes its points."""

    url: str
    suffix: str  # of the case's queues
    folder: Path
    outcome: str
    publishes: bool = False
    ends: bool = False
    watched: bool = False
    deadly: Point | None = None
    mutant: str = ""

    @property
    def queue(self) -> str:
        return f"{QUEUE}-{self.suffix}"

    @property
    def output(self) -> str:
        return f"{OUTPUT}-{self.suffix}"


def main(order: Order) -> NoReturn:
    """Never returns: nothing of the parent's runs on in its child."""
    code = 70
    try:
        _detach(order)
        points = Points(order.deadly, leaving_out="" if order.outcome == "slow ack" else "renewal of the lease")
        if order.watched:
            _instrument(order, points)
        mutants.plant(order.mutant)
        code = asyncio.run(_publish(order, points)) if order.publishes else _work(order, points)
        if order.watched:
            (order.folder / "points").write_text(json.dumps(points.passed))
    finally:
        sys.stderr.flush()
        os._exit(code)


def _detach(order: Order) -> None:
    log = os.open(order.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["XDG_STATE_HOME"] = str(order.folder)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _instrument(order: Order, points: Points) -> None:
    engine_boundary.instrument(points)
    match order.url.partition(":")[0]:
        case "sqlite":
            sqlite_boundary.instrument(points)
        case "amqp":
            amqp_boundary.instrument(points, order.queue, order.output)
        case "redis":
            redis_boundary.instrument(points)


# -- the one who publishes ---------------------------------------------------------------------------------------------


async def _publish(order: Order, points: Points) -> int:
    body = b"{not json" if order.outcome == "undecodable" else b"1"
    broker = open_broker(order.url, config=_config(order))
    await broker.connect()
    points.passing("publisher: connected")
    answers = await broker.publish(order.queue, [Envelope(body, id=ID)])
    points.passing("publisher: answered")
    if list(answers) != [Published.CONFIRMED]:
        raise BrokerUnavailable(f"not published: {answers}")
    note(order, "confirmed")
    points.over()
    await broker.close()
    return 0


# -- the worker --------------------------------------------------------------------------------------------------------


class Crossing(Worker):
    """What ``order.outcome`` says happens to its one message."""

    order: Order
    points: Points
    deferred = False

    async def process_message(self, message: Message[Any]) -> Any:
        self.points.passing("handler: begins")
        note(self.order, "begin", message.attempt)
        match self.order.outcome:
            case "slow ack":
                await asyncio.sleep(SLOW_SECONDS)
            case "retry" if message.attempt == 1:
                raise LookupError("not yet")
            case "defer" if not self.deferred:
                self.deferred = True
                raise Defer(DELAY_SECONDS)
            case "release" if self.order.ends:
                self.stop(timeout=RELEASE_SECONDS)
                await asyncio.Event().wait()
        note(self.order, "effect", message.attempt)
        self.points.passing("handler: its effect is there")
        match self.order.outcome:
            case "dead letter":
                raise Reject("never")
            case "drop":
                raise Drop("not wanted")
            case "ack with output":
                return {"made of": message.id}
        return None


def _work(order: Order, points: Points) -> int:
    Crossing.order, Crossing.points = order, points
    worker = Crossing(_config(order))
    worker.retry = RetryPolicy(base_seconds=DELAY_SECONDS, factor=1.0, jitter=0.0)
    life = life_of(worker)

    def on_event(event: Event) -> None:
        if isinstance(event, ConsumerRegistered):
            note(order, "ready")

    life.emit.add(on_event)
    if order.ends:
        points.on_over = worker.stop
    return run(worker, RunOptions(http=False))


def _config(order: Order) -> WorkerConfig:
    return WorkerConfig.load(
        os.devnull,
        **{
            "broker.url": order.url,
            "queue": order.queue,
            "concurrency": 1,
            "prefetch": 1,
            "lease_seconds": LEASE_SECONDS,
            "log.level": "error",
            "sink": order.output if order.outcome == "ack with output" else None,
        },
    )


def note(order: Order, *words: object) -> None:
    """A line in the case's ledger: whole, whatever happens to who writes it."""
    file = os.open(order.folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, (" ".join([*map(str, words), str(os.getpid()), f"{time.monotonic():.4f}"]) + "\n").encode())
    os.close(file)
