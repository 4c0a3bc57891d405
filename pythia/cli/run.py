"""``pythia run``: a worker until it is told to stop."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pythia import signals
from pythia.cli import settings
from pythia.cli.failure import CommandError
from pythia.cli.output import warn
from pythia.cli.values import port, positive

if TYPE_CHECKING:
    from pythia.service import RunOptions

_EXAMPLES = """\
examples:
  pythia run shop.worker:OrderWorker
  pythia run shop.worker -c 50                       the one worker that the module defines
  pythia run shop.worker:OrderWorker -b sqlite:////data/shop.db -q orders -q orders.bulk
  pythia run shop.worker:OrderWorker --burst         until nothing is ready, then end: for cron and tests

SIGTERM and SIGINT: take nothing more, finish what runs, exit 0; what could not finish goes back, exit 75.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia run``."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "targets", metavar="TARGET", nargs="+", help="module:attribute, a Worker class or @handler function"
    )
    _add_worker_options(parser)
    _add_http_options(parser)
    _add_ending_options(parser)


def _add_worker_options(parser: ArgumentParser) -> None:
    worker = parser.add_argument_group("worker")
    worker.add_argument(
        "-q", "--queue", dest="consume", metavar="Q", action="append", help="consume this queue; repeatable"
    )
    worker.add_argument("-c", "--concurrency", metavar="N", type=positive, help="most handlers at once")
    worker.add_argument("-p", "--processes", "-w", "--workers", metavar="N", type=positive, help="processes; 1 so far")
    worker.add_argument(
        "-n", "--name", dest="worker_name", metavar="NAME", help="the worker's name in logs and metrics"
    )
    worker.add_argument("-l", "--log-level", metavar="LEVEL", help="debug, info, warning, error")
    worker.add_argument("--log-format", metavar="FORMAT", help="auto, json, console")
    worker.add_argument("--env-file", metavar="F", help="set variables from this file; the environment's own win")


def _add_http_options(parser: ArgumentParser) -> None:
    http = parser.add_argument_group("health, metrics and admin routes")
    http.add_argument("--host", metavar="HOST", help="listen here; default 127.0.0.1")
    http.add_argument("--port", metavar="PORT", type=port, help="and on this port; 0: any that is free; default 8080")
    http.add_argument("--no-http", dest="http", action="store_false", default=None, help="serve none")


def _add_ending_options(parser: ArgumentParser) -> None:
    ending = parser.add_argument_group("when to end")
    ending.add_argument("--burst", action="store_true", help="when nothing is ready and nothing runs")
    ending.add_argument("--max-messages", metavar="N", type=positive, help="after so many messages")
    ending.add_argument("--fail-fast", action="store_true", help="exit 69 when the broker is out of reach, do not wait")


def main(args: Namespace) -> int:
    """Run the worker; its exit code."""
    with signals.early():  # user code may take long to import, and a reload signal must not kill us meanwhile
        return _run(args)


def _run(args: Namespace) -> int:
    from pythia import service
    from pythia.cli.installation import rival_distributions
    from pythia.cli.target import load_target, make

    if len(args.targets) > 1:
        raise CommandError("pythia run takes one TARGET: start one for each worker")
    if args.env_file is not None:
        _read_env_file(args.env_file)
    settings.apply(args)
    if rivals := rival_distributions():
        warn(f"two distributions install the import name pythia ({', '.join(rivals)}): uninstall all but one")
    worker = make(load_target(args.targets[0]))
    if worker.config.processes > 1:
        raise CommandError(f"pythia run is one process: start it {worker.config.processes} times, they share the queue")
    return service.run(worker, _options(args))


def _options(args: Namespace) -> RunOptions:
    from pythia.service import RunOptions

    return RunOptions(
        burst=args.burst,
        max_messages=args.max_messages,
        fail_fast=args.fail_fast,
        http=args.http is not False,
    )


def _read_env_file(path: str) -> None:
    from dotenv import dotenv_values

    if not Path(path).is_file():
        raise CommandError(f"--env-file {path}: there is no such file", exit_code=78)
    for name, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(name, value)
