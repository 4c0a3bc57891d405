"""``pythia publish``: messages from an argument, a file or a pipe. All of them are checked before the first is sent."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

from pythia.cli import settings
from pythia.cli.connection import check_shared
from pythia.cli.failure import INPUT, CommandError
from pythia.cli.output import line, print_json, progress
from pythia.cli.values import positive, queue_name, seconds
from pythia.config import WorkerConfig
from pythia.core.codecs import JSON
from pythia.publisher import Publisher

_AT_A_TIME = 500
_IN_MEMORY_BYTES = 64 * 1024 * 1024

_EXAMPLES = """\
examples:
  pythia publish orders '{"id": 7}'
  pythia publish orders --file orders.ndjson --lines
  generate | pythia publish orders - --lines
  pythia publish notes 'as it is' --content-type text/plain
  pythia publish orders '{"id": 7}' --id order-7 -H tenant=acme --delay 60

Prints the id of each message once the broker has confirmed it. What is not JSON is refused with exit code 65,
and then nothing is published.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia publish``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("queue", metavar="QUEUE", type=queue_name, help="where to")
    parser.add_argument("body", metavar="JSON", nargs="?", help="the message, or - for standard input")
    parser.add_argument("--file", metavar="F", help="read the message from this file")
    parser.add_argument("--lines", action="store_true", help="one message a line; empty lines are skipped")
    parser.add_argument("-H", "--header", metavar="K=V", action="append", default=[], help="a header; repeatable")
    parser.add_argument("--id", metavar="ID", help="the message's id, instead of a new one")
    parser.add_argument("--delay", metavar="SECONDS", type=seconds, default=0.0, help="hand it out after this long")
    parser.add_argument("--content-type", metavar="TYPE", default=JSON, help=f"what the body is; default {JSON}")
    parser.add_argument("-n", "--count", metavar="N", type=positive, default=1, help="publish it this many times")


def main(args: Namespace) -> int:
    """Publish; 0 once all are confirmed."""
    _check_options(args)
    headers = dict(_header(text) for text in args.header)
    config = settings.read(args)
    with _input(args) as source:
        total = sum(1 for _ in _checked(source, args)) * args.count
        if not total:
            raise CommandError(f"{source.name} holds no message: nothing was published", exit_code=INPUT)
        asyncio.run(_publish(args, config, source, total, headers))
    return 0


class _Source:
    """Where messages are read from: a name for people and a file that can be read twice."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self.file = file

    def bodies(self, *, lines: bool) -> Iterator[tuple[int, bytes]]:
        """Each body with the line that it begins on, 1 the first."""
        self.file.seek(0)
        if not lines:
            yield 1, self.file.read()
            return
        for number, body in enumerate(self.file, start=1):
            if body.strip():
                yield number, body.rstrip(b"\r\n")


def _check_options(args: Namespace) -> None:
    if args.body is not None and args.file is not None:
        raise CommandError("give the message as an argument or with --file, not both")
    if args.body is None and args.file is None:
        raise CommandError("what to publish? give JSON, --file F, or - for standard input; see pythia publish --help")
    if args.id is not None and (args.lines or args.count > 1):
        raise CommandError("--id names one message: not with --lines or --count")
    if args.lines and args.count > 1:
        raise CommandError("--count repeats one message: not with --lines")


@contextmanager
def _input(args: Namespace) -> Iterator[_Source]:
    if "-" in (args.body, args.file):
        with _spooled(sys.stdin.buffer) as file:
            yield _Source("standard input", file)
    elif args.file is None:
        with _spooled_bytes(args.body) as file:
            yield _Source("the argument", file)
    else:
        with _opened(args.file) as file:
            yield _Source(args.file, file)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    try:
        with Path(path).open("rb") as file:
            if file.seekable():
                yield file
            else:
                with _spooled(file) as copy:
                    yield copy
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror or error}", exit_code=INPUT) from error


@contextmanager
def _spooled(pipe: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
        shutil.copyfileobj(pipe, file)
        yield file


@contextmanager
def _spooled_bytes(text: str) -> Iterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        yield file


def _checked(source: _Source, args: Namespace) -> Iterator[bytes]:
    """The bodies as they will be sent; the first that is not what was said ends it."""
    for number, body in source.bodies(lines=args.lines):
        yield _json_body(body, source, number) if _is_json(args.content_type) else body


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or kind.endswith("+json")


def _json_body(body: bytes, source: _Source, number: int) -> bytes:
    """``body`` without what surrounds the JSON; its digits and spaces stay as they were written."""
    try:
        text = body.decode("utf-8-sig").strip()
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        _refuse(source, number + error.lineno - 1, f"column {error.colno}: {error.msg}")
    except UnicodeDecodeError as error:
        _refuse(source, number, f"byte {error.start + 1} is not UTF-8")
    except RecursionError:
        _refuse(source, number, "it is nested too deep")
    except ValueError as error:
        _refuse(source, number, str(error))
    return text.encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse(source: _Source, number: int, why: str) -> NoReturn:
    hint = "nothing was published; text goes as it is with --content-type text/plain"
    raise CommandError(f"not JSON: {source.name}, line {number}: {why}; {hint}", exit_code=INPUT)


async def _publish(args: Namespace, config: WorkerConfig, source: _Source, total: int, headers: dict[str, str]) -> None:
    ids: list[str] = []
    said: dict[str, Any] = {"headers": headers, "content_type": args.content_type, "delay": args.delay}
    try:
        with progress(args, f"publishing to {line(args.queue)}", total) as advance:
            async for some in _confirmed(args, config, source, said):
                advance(len(some))
                if args.json:
                    ids += some
                else:
                    print(*some, sep="\n")
    finally:
        if args.json:
            print_json({"queue": args.queue, "published": len(ids), "ids": ids})


async def _confirmed(
    args: Namespace, config: WorkerConfig, source: _Source, said: dict[str, Any]
) -> AsyncIterator[list[str]]:
    """Publishes, and gives the ids of what is confirmed, some at a time."""
    bodies = (body for body in _checked(source, args) for _ in range(args.count))
    check_shared(config)
    async with Publisher(config=config) as publisher:
        if args.id is not None:
            yield [await publisher.publish(args.queue, next(bodies), id=args.id, **said)]
            return
        while some := list(islice(bodies, _AT_A_TIME)):
            yield await publisher.publish_many(args.queue, some, **said)


def _header(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CommandError(f"-H takes key=value, not {text!r}")
    return key.strip(), value
