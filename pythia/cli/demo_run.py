"""One run of ``pythia demo``, from the first look at the queue to the report.

The files become messages, all in one transaction, so that a run that is killed leaves all of them or none. An
``IntegrityWorker`` in this process handles them. Files that an earlier run left on the queue come first; the environment is
published only when those were not its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pythia import signals
from pythia.broker import Broker, QueueDepth
from pythia.cli.connection import connected
from pythia.cli.demo_display import Display, Snapshot
from pythia.cli.demo_files import Installed, installed_files
from pythia.cli.demo_report import Problem, Report
from pythia.cli.failure import CommandError
from pythia.config import WorkerConfig
from pythia.core.events import DeliveryEvent, Event, MessageDead, WorkerFailed, WorkerStarting
from pythia.core.publishing import confirm, make_envelope
from pythia.examples.integrity import IntegrityWorker, RecordedFile
from pythia.message import Envelope, Message
from pythia.service import life_of

QUEUE = IntegrityWorker.queue
SITE = "site"  # the header that tells which environment a file belongs to
LOOK_SECONDS = 0.1
MOST_SHOWN = 20  # problems; all are in the queue file


class _SiteWorker(IntegrityWorker):
    """Notes whose files it sees."""

    worker_name = "integrity-worker"

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        self.sites: set[object] = set()

    async def process_message(self, message: Message[RecordedFile]) -> None:
        self.sites.add(message.headers.get(SITE))
        await super().process_message(message)


class Demo:
    """One run, from the first look at the queue to the report."""

    durable = True  # the broker outlives this process
    shared = False  # somebody else consumes the queue
    ended_by = 0  # the first signal that came

    def __init__(self, config: WorkerConfig, view: Display, directory: Path | None) -> None:
        self._config = config
        self._view = view
        self._directory = directory
        self._site = str(directory or sys.prefix)
        self._worker = _SiteWorker(config)
        self._life = life_of(self._worker)
        self._interrupted = asyncio.Event()
        self._installed: Installed | None = None
        self._problems: list[Problem] = []
        self._resumed = self._total = self._left = 0
        self._began = self._ended = 0.0
        self._finished = False

    async def run(self) -> Report:
        """Verify everything, or until a signal comes.

        Raises:
            CommandError: there is nothing to verify. BrokerError: the queue cannot be used.
        """
        async with connected(self._config) as broker:
            self.durable = broker.capabilities.durable
            loop = asyncio.get_running_loop()
            actions = {int(number): partial(self._interrupt, loop, int(number)) for number in signals.STOP}
            self._resumed = self._total = _waiting(await broker.depth(QUEUE))  # before the worker takes any
            with self._life.emit.to(self._hear), signals.installed(loop, actions):
                async with self._worker.running():
                    await self._work(broker)
            depth = await broker.depth(QUEUE)
            self._left, self.shared = _waiting(depth), bool(depth.consumers)
            return self._report(depth.dead or 0)

    async def _work(self, broker: Broker) -> None:
        self._began = time.monotonic()
        if self._resumed:
            self._view.say(f"going on with {self._resumed:,} files that an earlier run left")
            await self._until_done(broker)
        if not self._interrupted.is_set() and not await self._were_ours(broker):
            await self._publish(broker)
            await self._until_done(broker)
        self._ended, self._finished = time.monotonic(), not self._interrupted.is_set()

    async def _were_ours(self, broker: Broker) -> bool:
        """Whether what was on the queue, dead letters included, was this environment's."""
        if self._site in self._worker.sites:
            return True
        async for letter in broker.dead_letters(QUEUE).scan():
            if letter.envelope.headers.get(SITE) == self._site:
                return True
        return False

    async def _publish(self, broker: Broker) -> None:
        """Publish every recorded file in one call: on a broker with transactions that is all of them or none."""
        installed = self._installed = await asyncio.to_thread(installed_files, self._directory)
        if not installed.files:
            raise CommandError(f"{self._site}: no installed distribution records a file there", exit_code=64)
        envelopes = await asyncio.to_thread(_envelopes, installed, self._site)
        if self._interrupted.is_set():
            return
        text = f"verifying {len(envelopes):,} files of {installed.distributions:,} distributions in {self._site}"
        await confirm(broker, QUEUE, envelopes)
        self._view.say(text)
        self._total += len(envelopes)
        self._began = self._began if self._resumed else time.monotonic()

    async def _until_done(self, broker: Broker) -> None:
        """Until nothing waits and nothing runs, here or in another process, or a signal comes."""
        while self._worker.is_running and not self._interrupted.is_set():
            self._left = _waiting(await broker.depth(QUEUE))
            self._view.update(self._snapshot(time.monotonic()))
            if not self._left:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._interrupted.wait()

    def _interrupt(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """The first signal stops, the second hurries."""
        loop.call_soon_threadsafe(self._life.hurry.set if self.ended_by else self._interrupted.set)
        self.ended_by = self.ended_by or number

    def _hear(self, event: Event) -> None:
        """Say in words what a person should know; the worker's failure is raised anyway."""
        match event:
            case WorkerStarting(http=str(http)):
                self._view.say(f"{self._config.broker.display_url}; {http}/health {http}/metrics")
            case MessageDead():
                self._dead(event)
            case WorkerFailed() | DeliveryEvent():
                pass
            case _ if event.level in ("warning", "error"):
                self._view.say(f"{event.level}: {_sentence(event)}")

    def _dead(self, event: MessageDead) -> None:
        one = Problem(id=event.delivery.envelope.id, reason=event.reason, attempts=event.attempts, detail=event.detail)
        self._problems.append(one)
        if len(self._problems) <= MOST_SHOWN:
            self._view.say(f"dead-lettered ({one.reason}, attempt {one.attempts}): {one.detail}")
        elif len(self._problems) == MOST_SHOWN + 1:
            self._view.say("dead-lettered: more, counted but not shown")

    def _snapshot(self, now: float) -> Snapshot:
        sums = self._life.tally.outcomes()
        return Snapshot(
            total=self._total,
            left=self._left,
            attempts=sums["received"] - sums["release"] - sums["in_flight"],
            bytes=int(self._worker.bytes_hashed._value),  # noqa: SLF001 - what the metrics facade calls it
            dead=sums["dead_letter"],
            seconds=now - self._began,
        )

    def _report(self, dead: int) -> Report:
        tally = self._life.tally
        return Report(
            site=self._site,
            broker=self._config.broker.display_url,
            queue=QUEUE,
            work=self._snapshot(self._ended),
            messages=tally.outcomes(),
            dead_reasons=dict(tally.queue(QUEUE).dead_reasons),
            dead_left=dead,
            problems=tuple(self._problems),
            resumed=self._resumed,
            without_digest=None if self._installed is None else self._installed.without_digest,
            without_record=None if self._installed is None else self._installed.without_record,
            interrupted=not self._finished,
        )


def _waiting(depth: QueueDepth) -> int:
    """Messages that still have to be handled, by whomever."""
    return (depth.ready or 0) + (depth.in_flight or 0) + (depth.delayed or 0)


def _envelopes(installed: Installed, site: str) -> list[Envelope]:
    return [make_envelope(file, headers={SITE: site}) for file in installed.files]


def _sentence(event: Event) -> str:
    fields: dict[str, Any] = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    error = fields.get("error")
    return event.text.format_map(fields) + (f": {error}" if error is not None else "")
