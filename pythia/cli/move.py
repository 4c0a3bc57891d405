"""``pythia move``: what waits in the queues of one broker, carried to another."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pythia.broker import Broker
from pythia.cli import settings
from pythia.cli.connection import connected
from pythia.cli.failure import CommandError
from pythia.cli.moving import AT_A_TIME, Tally, move
from pythia.cli.output import line, print_json, progress, say
from pythia.cli.places import file_of, is_file, same_place
from pythia.cli.values import queue_name
from pythia.config import WorkerConfig, redact_url
from pythia.config.urls import BROKER_SCHEMES, absolute_url, check_url
from pythia.errors import BrokerError, Unsupported

CONFIGURED = "-"
_WAIT_SECONDS = 1.0

_EXAMPLES = f"""\
examples:
  pythia move sqlite:///pythia.db amqp://shop@rabbitmq/ --wait
  pythia move sqlite:///pythia.db - orders       to the configured broker (PYTHIA_BROKER__URL_FILE hides its password)
  pythia move redis://localhost/0 redis://localhost/1?mode=list

Each message is confirmed by DST before it is acked at SRC. If the command is killed, none is gone, and at most {AT_A_TIME} are in
both (from RabbitMQ, which answers no ack, a few more), with the same id and idempotency key: dedup.enabled finds them by the
key (message.id, where the worker's idempotency_key says so). Run it again: it goes on with what is left; --yes, if it is less
than 15 s later.

Kept are id, body, headers, content type, correlation id, reply_to, priority, timestamp, idempotency and ordering key. The
count of attempts begins anew. What is delayed (also a retry) is moved once it is due: --wait goes on until nothing waits.
RabbitMQ does not tell what it delays. Dead letters are not moved: `pythia -b SRC dead export` keeps them, `dead replay`
makes them messages again, which are moved.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia move``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("source_url", metavar="SRC", help="the broker's URL, or - for the configured one")
    parser.add_argument("destination_url", metavar="DST", help="the same; its queues are made where that is allowed")
    parser.add_argument(
        "queues", metavar="QUEUE", nargs="*", type=queue_name, help="these only; default: all that SRC lists"
    )
    parser.add_argument("--wait", action="store_true", help="go on until nothing is delayed or in flight at SRC either")


def main(args: Namespace) -> int:
    """Move; 1 if something that is ready could not be."""
    config = settings.read(args)
    source, target = (
        _url(url, name, config) for url, name in ((args.source_url, "SRC"), (args.destination_url, "DST"))
    )
    if same_place(source, target):
        raise CommandError(f"SRC and DST are the same broker: {_shown(source)}")
    if is_file(source) and not file_of(source).exists():
        raise CommandError(f"nothing to move: there is no {file_of(source).absolute()}")
    return asyncio.run(_Move(args, source, target, config).run())


def _url(url: str, name: str, config: WorkerConfig) -> str:
    """The URL that an argument stands for, checked."""
    if url == CONFIGURED:
        url = config.broker.url.get_secret_value()
    try:
        check_url(url, BROKER_SCHEMES)
    except ValueError as error:
        raise CommandError(f"{name} {error}") from None
    if url.startswith("memory:"):
        raise Unsupported(f"{name}: memory:// lives in one process: a command shares nothing with it")
    return url


def _shown(url: str) -> str:
    return absolute_url(redact_url(url))


class _Move:
    """One run of the command."""

    def __init__(self, args: Namespace, source: str, target: str, config: WorkerConfig) -> None:
        self._args = args
        self._config = config
        self._urls = (source, target)
        self._tallies: list[Tally] = []

    async def run(self) -> int:
        source_url, target_url = self._urls
        async with connected(self._config, source_url) as source, connected(self._config, target_url) as target:
            for broker, name in ((source, "SRC"), (target, "DST")):
                if not broker.capabilities.keeps:
                    raise Unsupported(
                        f"{name}: {broker.capabilities.name} keeps no messages (SQLite, RabbitMQ, Redis do)"
                    )
            await self._look(source)
            try:
                await self._carry(source, target)
            except BrokerError:
                with suppress(BrokerError):
                    await self._look_again(source)
                raise
            finally:
                self._report(source)
        return 1 if any(tally.ready or tally.kept for tally in self._tallies) else 0

    async def _look(self, source: Broker) -> None:
        """Which queues, and whether they may be touched."""
        for queue in self._args.queues or await self._listed(source):
            self._tallies.append(Tally(queue=queue, depth=await source.depth(queue)))
        consumed = [tally.queue for tally in self._tallies if tally.depth.consumers]
        if consumed and not self._args.yes:
            text = (
                f"{', '.join(consumed)} of SRC is being consumed: stop its workers first; --yes moves what they leave"
            )
            raise CommandError(f"nothing was moved: {text}", exit_code=1)

    async def _listed(self, source: Broker) -> Sequence[str]:
        if not source.capabilities.lists_queues:
            raise CommandError(f"which queues? {source.capabilities.name} lists none: name them after SRC and DST")
        return await source.queues()

    async def _carry(self, source: Broker, target: Broker) -> None:
        known = [tally.depth.ready for tally in self._tallies]
        total = None if None in known else sum(number or 0 for number in known)
        with progress(self._args, "moving", total) as advance:
            while True:
                for tally in self._tallies:
                    await move(source, target, tally, advance)
                if not self._args.wait or not any(tally.waits for tally in self._tallies):
                    return
                await asyncio.sleep(_WAIT_SECONDS)
                await self._look_again(source)

    async def _look_again(self, source: Broker) -> None:
        for tally in self._tallies:
            tally.depth = await source.depth(tally.queue)

    def _report(self, source: Broker) -> None:
        moved = sum(tally.moved for tally in self._tallies)
        source_url, target_url = map(_shown, self._urls)
        if self._args.json:
            queues = [_as_json(tally) for tally in self._tallies]
            print_json({"source": source_url, "destination": target_url, "moved": moved, "queues": queues})
            return
        say(f"moved {moved} messages from {source_url} to {target_url}")
        for tally in self._tallies:
            for left in _left(tally, source_url, source.capabilities.name):
                say(f"{line(tally.queue)}: {left}")


def _left(tally: Tally, source_url: str, name: str) -> Iterator[str]:
    """What stays at the source, and what to do about it: a sentence each."""
    depth = tally.depth
    if tally.kept:
        yield f"{len(tally.kept)} cannot be moved and stay ({', '.join(tally.kept[:3])}): {tally.why_kept}"
    if tally.ready:
        yield f"{tally.ready} are ready and were not moved: run it again"
    if depth.in_flight:
        yield f"{depth.in_flight} are in a consumer's hands: run it again once they are back, or with --wait"
    if depth.delayed:
        yield f"{depth.delayed} are delayed: run it again when they are due, or with --wait"
    if depth.delayed is None:
        yield f"{name} does not tell what is delayed: run it again after the longest delay"
    if depth.dead:
        yield (
            f"{depth.dead} dead letters are not moved: pythia -b {source_url} dead export {tally.queue} prints them,"
            " dead replay makes them messages again"
        )


def _as_json(tally: Tally) -> dict[str, Any]:
    depth = tally.depth
    left = {name: getattr(depth, name) for name in ("ready", "in_flight", "delayed", "dead")}
    return {"queue": tally.queue, "moved": tally.moved, "left": left, "cannot_be_moved": tally.kept}
