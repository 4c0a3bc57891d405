"""Publishes while things break, and notes each message's fate: intended, confirmed, in doubt, refused.

A message in doubt is published again with the same id until the broker has said yes; one that was certainly not taken is never
tried again, so that it must never be seen. Of an ordering key the next message waits until the fate of the one before is known.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pythia.config import WorkerConfig
from pythia.core.codecs import encode
from pythia.errors import BrokerUnavailable, PublishError
from pythia.proof.ledger import Ledger, digest_of
from pythia.publisher import Publisher

LANES = 48
TRICKLE_SECONDS = 0.5  # something is published at least so often, so that whoever recovers has something to do
PUBLISH_SECONDS = 10.0
PAUSE_SECONDS = 0.2  # after a no

Bodies = Callable[[int], Any]


def numbered(number: int) -> Any:
    """Bodies for the worker of our own."""
    return {"n": number}


def cycled(bodies: Sequence[Any]) -> Bodies:
    """The user's bodies, one after the other, again and again."""
    return lambda number: bodies[number % len(bodies)]


class Producer(threading.Thread):
    """Publishes up to ``allowed`` messages, which grows as the workers get on; ``rate`` a second at the most.
    ``keys``: so many lanes have an ordering key each."""

    def __init__(
        self,
        url: str,
        config: WorkerConfig,
        queue_name: str,
        folder: Path,
        bodies: Bodies,
        *,
        keys: int = 0,
        rate: float | None = None,
    ) -> None:
        super().__init__(name="producer", daemon=True)
        self._publisher = Publisher(url, config=config)
        self._queue = queue_name
        self._bodies = bodies
        self._keys = keys
        self._rate = rate
        self._ledger = Ledger(folder, f"producer-{os.getpid()}.log")
        self._numbers = count()
        self._extra: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._pace = asyncio.Lock()
        self._stopping = False
        self._next_at = 0.0
        self._allowed = 0
        self._begun = 0
        self.counts: Counter[str] = Counter()  # confirmed, doubt, refused
        self.confirmed: set[bytes] = set()
        self.error: BaseException | None = None

    def allow(self, messages: int) -> None:
        """So many may have been published in all. From any thread."""
        if messages > self._allowed:
            self._allowed = messages
            self._wake()

    def say(self, body: Any) -> str:
        """Publish one message apart; its id. From any thread."""
        name = f"x{next(self._numbers)}"
        self._extra.put((name, body))
        self._wake()
        return name

    def stop(self) -> None:
        """Publish nothing more; returns when the fate of all is known, or nobody will know."""
        self._stopping = True
        self._wake()
        self.join(PUBLISH_SECONDS + 5)

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._publish_all())
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for us
            self.error = error

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    async def _publish_all(self) -> None:
        async with self._publisher, asyncio.TaskGroup() as lanes:
            for lane in range(LANES):
                lanes.create_task(self._lane(lane))

    async def _lane(self, lane: int) -> None:
        key, place = f"k{lane}" if lane < self._keys else None, count()
        patience = TRICKLE_SECONDS if lane == LANES - 1 else None
        while await self._may_go(patience):
            if self._extra.qsize() and key is None:
                name, body = self._extra.get_nowait()
            else:
                number = next(self._numbers)
                name, body = f"m{number}", self._bodies(number)
            await self._publish(name, body, key, next(place))

    async def _may_go(self, patience: float | None) -> bool:
        """Wait until another message may be published; False: none any more."""
        loop = asyncio.get_running_loop()
        while not self._stopping and self._begun >= self._allowed and not self._extra.qsize():
            self._news.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                break
        self._begun += 1
        if self._rate is not None:
            async with self._pace:  # one at a time, so that nobody sleeps for long when we stop
                if not self._stopping:
                    self._next_at = max(self._next_at + 1 / self._rate, loop.time())
                    await asyncio.sleep(self._next_at - loop.time())
        return not self._stopping

    async def _publish(self, name: str, body: Any, key: str | None, place: int) -> None:
        """Until the broker has said yes, or certainly no, or we stop."""
        self._ledger.note("intent", name, key or "-", place, digest_of(encode(body, None)[0]))
        doubted = False
        while not (doubted and self._stopping):
            try:
                await self._publisher.publish(self._queue, body, id=name, ordering_key=key, timeout=PUBLISH_SECONDS)
            except (BrokerUnavailable, PublishError) as error:
                if isinstance(error, PublishError) and error.in_doubt:
                    doubted = True
                    self._note("doubt", name)
                elif not doubted:
                    self._note("refused", name)
                    await asyncio.sleep(PAUSE_SECONDS)
                    return
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self._note("confirmed", name)
                self.confirmed.add(name.encode())
                return

    def _note(self, fate: str, name: str) -> None:
        self._ledger.note(fate, name)
        self.counts[fate] += 1
