"""``pythia queues``: what waits, what runs, what is dead."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pythia.broker import Broker, QueueDepth
from pythia.cli import settings
from pythia.cli.connection import check_shared, connected, missing_file
from pythia.cli.output import Row, console, drawn, duration, print_json, print_json_line, print_table, say
from pythia.config import WorkerConfig

_WATCH_SECONDS = 2.0
_COLUMNS = ("QUEUE", "READY", "IN FLIGHT", "DELAYED", "DEAD", "OLDEST", "CONSUMERS")

_EXAMPLES = """\
examples:
  pythia queues
  pythia queues orders --watch
  pythia queues --json
  pythia queues --exit-code       exit 1 if anything is dead, for a cron job

- is what this broker cannot tell.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia queues``."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "queues",
        metavar="QUEUE",
        nargs="*",
        help="these only; default: all that the broker knows, or, where it lists none (RabbitMQ), the configured ones",
    )
    parser.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")
    parser.add_argument("--exit-code", action="store_true", help="exit 1 if anything is dead")


def main(args: Namespace) -> int:
    """Show the queues; 1 with ``--exit-code`` if anything is dead."""
    anything_dead = _Flag()
    if args.watch:
        with suppress(KeyboardInterrupt):  # how a watch ends
            asyncio.run(_main(args, anything_dead))
    else:
        asyncio.run(_main(args, anything_dead))
    return 1 if args.exit_code and anything_dead.up else 0


_nap = asyncio.sleep


class _Flag:
    up = False


async def _main(args: Namespace, anything_dead: _Flag) -> None:
    config = settings.read(args)
    check_shared(config)
    url = config.broker.display_url
    if (missing := missing_file(config)) is not None and not args.watch:
        print_json(_as_json(url, [])) if args.json else say(f"no queues yet: there is no {missing}")
        return
    async with connected(config) as broker:
        if args.watch:
            await _watch(args, broker, config, anything_dead)
            return
        depths = await _depths(args, broker, config, anything_dead)
        where = broker.capabilities.detail or url
    if args.json:
        print_json(_as_json(url, depths))
    elif depths:
        print_table(args, _COLUMNS, [_row(depth) for depth in depths])
    else:
        say(f"no queues yet in {where}")


async def _depths(args: Namespace, broker: Broker, config: WorkerConfig, anything_dead: _Flag) -> list[QueueDepth]:
    depths = [await broker.depth(name) for name in args.queues or await _known(broker, config)]
    anything_dead.up = any(depth.dead for depth in depths)
    return depths


async def _known(broker: Broker, config: WorkerConfig) -> Sequence[str]:
    return await broker.queues() if broker.capabilities.lists_queues else config.queue_names


async def _watch(args: Namespace, broker: Broker, config: WorkerConfig, anything_dead: _Flag) -> None:
    url = config.broker.display_url
    if args.json or not sys.stdout.isatty():
        while True:
            depths = await _depths(args, broker, config, anything_dead)
            if args.json:
                print_json_line(_as_json(url, depths))
            else:
                print_table(args, _COLUMNS, [_row(depth) for depth in depths])
            sys.stdout.flush()
            await _nap(_WATCH_SECONDS)
    from rich.live import Live

    with Live(console=console(args), auto_refresh=False) as live:
        while True:
            depths = await _depths(args, broker, config, anything_dead)
            live.update(drawn(_COLUMNS, [_row(depth) for depth in depths]), refresh=True)
            await _nap(_WATCH_SECONDS)


def _row(depth: QueueDepth) -> Row:
    age = None if depth.oldest_age_seconds is None else duration(depth.oldest_age_seconds)
    return (depth.queue, depth.ready, depth.in_flight, depth.delayed, depth.dead, age, depth.consumers)


def _as_json(url: str, depths: Sequence[QueueDepth]) -> dict[str, Any]:
    return {"broker": url, "queues": [_depth_as_json(depth) for depth in depths]}


def _depth_as_json(depth: QueueDepth) -> dict[str, Any]:
    age = depth.oldest_age_seconds
    return asdict(depth) | {"oldest_age_seconds": None if age is None else round(age, 3)}
