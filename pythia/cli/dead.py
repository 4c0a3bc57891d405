"""``pythia dead`` (``dlq``): what was set aside for a person, and what the person does with it."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, get_args

from pythia.broker import Broker, DeadLetter
from pythia.cli import settings
from pythia.cli.connection import connected
from pythia.cli.dead_letters import Filter, moment, named, selected, shown_body, summary, what_happened, whole
from pythia.cli.failure import CommandError
from pythia.cli.output import ask, duration, plain, print_json, print_json_line, print_table, progress, say
from pythia.cli.values import positive
from pythia.errors import DeadReason, Unsupported

_LISTED = 100  # shown by list and show unless --limit says otherwise
_AT_A_TIME = 500
_COLUMNS = ("ID", "REASON", "ATTEMPTS", "ERROR", "DEAD FOR")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?")
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}

_EXAMPLES = """\
examples:
  pythia dead list orders
  pythia dead show orders 0199c2d4-...
  pythia dead replay orders --all --error ConnectError --rate 50/s
  pythia dead replay orders --all --dry-run
  pythia dead purge orders --all --since 7d
  pythia dead export orders > orders.ndjson

`dead COMMAND --help` tells the options of each. `dlq` is the same as `dead`.
"""

Action = Callable[[Namespace, Broker], Awaitable[None]]


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia dead``."""
    parser.epilog = _EXAMPLES
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, action: Action, summary_line: str) -> ArgumentParser:
        one = actions.add_parser(name, help=summary_line, description=f"{summary_line[:1].upper()}{summary_line[1:]}.")
        one.set_defaults(action=action)
        one.add_argument("queue", metavar="QUEUE", help="the queue whose dead letters are meant")
        _add_filters(one)
        return one

    add("list", _list, "list dead letters, oldest first")
    show = add("show", _show, "show dead letters with body, headers and traceback")
    replay = add("replay", _replay, "send dead letters back to their queue; attempts start at 1 again")
    purge = add("purge", _purge, "delete dead letters for ever")
    add("export", _export, "print dead letters as NDJSON, one `show --json` item a line")
    show.add_argument("ids", metavar="ID", nargs="*", help="these only")
    for one in (replay, purge):
        one.add_argument("ids", metavar="ID", nargs="*", help="these; else --all")
        one.add_argument("--all", action="store_true", help="every one that the filters leave")
        one.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    replay.add_argument("--to", metavar="QUEUE", dest="destination", help="send them to another queue")
    replay.add_argument(
        "--rate", metavar="N/s", type=_rate, default=math.inf, help="at most so many a second (N/m, N/h)"
    )


def _add_filters(parser: ArgumentParser) -> None:
    reasons = get_args(DeadReason)
    parser.add_argument("--reason", metavar="R", choices=reasons, help=f"with this reason: {', '.join(reasons)}")
    parser.add_argument("--error", metavar="TYPE", help="with this error, with or without its module")
    parser.add_argument("--since", metavar="T", type=_moment, help="dead since: 15m, 2h, 7d or 2026-11-22T10:00:00Z")
    parser.add_argument("--limit", metavar="N", type=positive, help="at most so many")


def main(args: Namespace) -> int:
    """Do what was asked; 1 when a dead letter that was named is not there."""
    asyncio.run(_main(args))
    return 0


async def _main(args: Namespace) -> None:
    async with connected(settings.read(args)) as broker:
        if not broker.capabilities.dead_letters:
            raise Unsupported(f"{broker.capabilities.name} keeps no dead letters")
        await args.action(args, broker)


async def _list(args: Namespace, broker: Broker) -> None:
    letters = broker.dead_letters(args.queue)
    found, total = await selected(letters, Filter.of(args), args.limit or _LISTED)
    if args.json:
        print_json({"queue": args.queue, "total": total, "items": [summary(letter) for letter in found]})
        return
    if not found:
        say(f"no dead letters in {args.queue}")
        return
    now = time.time()
    print_table(args, _COLUMNS, [_row(letter, now) for letter in found])
    if total > len(found):
        say(f"{len(found)} of {total} shown; --limit shows more")


def _row(letter: DeadLetter, now: float) -> tuple[object, ...]:
    age = None if letter.dead_at is None else duration(now - letter.dead_at)
    return (letter.id, letter.reason, letter.attempts, _error_line(letter), age)


def _error_line(letter: DeadLetter) -> str | None:
    name = (letter.error_type or "").rpartition(".")[2]
    text = ": ".join(part for part in (name, what_happened(letter) or "") if part)
    return text if len(text) <= 120 else f"{text[:119]}…"


async def _show(args: Namespace, broker: Broker) -> None:
    letters = broker.dead_letters(args.queue)
    if args.ids:
        found = await named(letters, args.queue, args.ids)
        total = len(found)
    else:
        found, total = await selected(letters, Filter.of(args), args.limit or _LISTED)
    if args.json:
        print_json({"queue": args.queue, "total": total, "items": [whole(letter) for letter in found]})
        return
    for letter in found:
        print("\n".join(_page(letter)), end="\n\n")
    if not found:
        say(f"no dead letters in {args.queue}")
    elif total > len(found):
        say(f"{len(found)} of {total} shown; --limit shows more")


def _page(letter: DeadLetter) -> Iterator[str]:
    """One dead letter for a person."""
    item = whole(letter)
    for name in ("id", "reason", "attempts", "published_at", "first_seen_at", "dead_at", "worker", "worker_id"):
        yield _field(name, item[name])
    for name in ("origin_queue", "content_type", "body_bytes", "correlation_id"):
        yield _field(name, item[name])
    for name, value in item["headers"].items():
        yield _field(f"header {name}", value)
    yield _field("error", ": ".join(part for part in (letter.error_type, what_happened(letter)) if part) or None)
    if letter.traceback:
        yield from (f"    {plain(text)}" for text in letter.traceback.rstrip().splitlines())
    yield "body"
    yield from (f"    {plain(text)}" for text in _readable(letter).splitlines())


def _field(name: str, value: object) -> str:
    return f"{plain(name).replace('_', ' '):<16} {'-' if value is None else plain(value)}"


def _readable(letter: DeadLetter) -> str:
    body = shown_body(letter.envelope.body, letter.envelope.content_type)
    return body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)


async def _export(args: Namespace, broker: Broker) -> None:
    letters, wanted, left = broker.dead_letters(args.queue), Filter.of(args), args.limit or math.inf
    with progress(args, f"exporting {plain(args.queue)}", await letters.count()) as advance:
        async for letter in letters.scan():
            advance(1)
            if wanted.lets(letter):
                print_json_line(whole(letter))
                left -= 1
            if left <= 0:
                break


async def _replay(args: Namespace, broker: Broker) -> None:
    letters = broker.dead_letters(args.queue)
    ids = await _ids(args, broker)
    to = args.destination or args.queue
    if args.dry_run:
        _report(args, "replayed", 0, ids, to=to)
        return
    if args.all and ids:
        ask(args, f"Replay {len(ids)} dead letters of {args.queue} to {to}?")

    async def some(batch: Sequence[str]) -> int:
        return await letters.replay(batch, args.destination)

    moved = await _in_batches(args, f"replaying {plain(args.queue)}", ids, some, args.rate)
    _report(args, "replayed", moved, ids, to=to)


async def _purge(args: Namespace, broker: Broker) -> None:
    letters = broker.dead_letters(args.queue)
    ids = await _ids(args, broker)
    if args.dry_run:
        _report(args, "purged", 0, ids)
        return
    if ids:
        ask(args, f"Delete {len(ids)} dead letters of {args.queue} for ever?")
    gone = await _in_batches(args, f"purging {plain(args.queue)}", ids, letters.purge, math.inf)
    _report(args, "purged", gone, ids)


async def _ids(args: Namespace, broker: Broker) -> list[str]:
    """Which are meant; collected before anything moves, so that what dies again meanwhile is not taken twice."""
    if bool(args.ids) == args.all:
        raise CommandError(f"say which: ids, or --all; see pythia dead {args.action.__name__.strip('_')} --help")
    letters = broker.dead_letters(args.queue)
    if args.ids:
        return [letter.id for letter in await named(letters, args.queue, args.ids)]
    wanted = Filter.of(args)
    ids: list[str] = []
    async for letter in letters.scan():
        if wanted.lets(letter):
            ids.append(letter.id)
        if len(ids) == args.limit:
            break
    return ids


async def _in_batches(
    args: Namespace, label: str, ids: Sequence[str], act: Callable[[Sequence[str]], Awaitable[int]], rate: float
) -> int:
    """Acts on ``ids`` some at a time, at most ``rate`` a second; how many the broker says it did."""
    at_a_time = int(min(_AT_A_TIME, max(1.0, rate / 10)))
    began, done = time.monotonic(), 0
    with progress(args, label, len(ids)) as advance:
        for start in range(0, len(ids), at_a_time):
            await asyncio.sleep(max(0.0, began + start / rate - time.monotonic()))
            batch = ids[start : start + at_a_time]
            done += await act(batch)
            advance(len(batch))
    return done


def _report(args: Namespace, done: str, count: int, ids: Sequence[str], **more: Any) -> None:
    if args.json:
        print_json({"queue": args.queue, done: count, "dry_run": args.dry_run, **more, "ids": list(ids)})
        return
    where = f" to {more['to']}" if "to" in more else ""
    if args.dry_run:
        for one in ids:
            say(one)
        say(f"would be {done}{where}: {len(ids)}")
        return
    gone = f"; {len(ids) - count} were gone already" if count < len(ids) else ""
    say(f"{done}{where}: {count}{gone}")


def _moment(text: str) -> float:
    try:
        return moment(text)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"{text!r} is neither an age (15m, 2h, 7d) nor a time (2026-11-22T10:00:00Z)") from None


def _rate(text: str) -> float:
    found = _RATE.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise ArgumentTypeError(f"{text!r} is not a rate: write 50/s, 100/m or 20")
    return float(found[1]) / _PER[found[2]]
