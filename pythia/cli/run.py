"""``pythia run``: a worker, or several, in one process or in many, until they are told to stop."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pythia import signals
from pythia.cli import settings
from pythia.cli.failure import CommandError
from pythia.cli.output import warn
from pythia.cli.values import port, positive
from pythia.errors import ConfigError

if TYPE_CHECKING:
    from pythia.config import WorkerConfig
    from pythia.service import RunOptions
    from pythia.supervisor.order import Post

_EXAMPLES = """\
examples:
  pythia run shop.worker:OrderWorker
  pythia run shop.worker -c 50                       the one worker that the module defines
  pythia run shop.worker:OrderWorker -b sqlite:////data/shop.db -q orders -q orders.bulk
  pythia run shop.worker:OrderWorker --burst         until nothing is ready, then end: for cron and tests
  pythia run shop.worker:OrderWorker -p 4            four processes, one port, restarted when they crash
  pythia run shop.worker:Orders shop.worker:Mails    several workers; without a TARGET, those of [workers]
  pythia run shop.worker:OrderWorker --reload        while you write it

SIGTERM and SIGINT: take nothing more, finish what runs, exit 0; what could not finish goes back, exit 75.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia run``."""
    parser.epilog = _EXAMPLES
    parser.set_defaults(apart="targets")
    parser.add_argument(
        "targets",
        metavar="TARGET",
        nargs="*",
        help="module:attribute, a Worker class or @handler function; none: those of [workers] in the configuration file",
    )
    _add_worker_options(parser)
    _add_http_options(parser)
    _add_ending_options(parser)
    _add_development_options(parser)


def _add_worker_options(parser: ArgumentParser) -> None:
    worker = parser.add_argument_group("worker")
    worker.add_argument(
        "-q", "--queue", dest="consume", metavar="Q", action="append", help="consume this queue; repeatable"
    )
    worker.add_argument("-c", "--concurrency", metavar="N", type=positive, help="most handlers at once")
    worker.add_argument(
        "-p", "--processes", "-w", "--workers", metavar="N", type=positive, help="processes of each TARGET"
    )
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
    ending.add_argument("--max-messages", metavar="N", type=positive, help="after so many messages, in each process")
    ending.add_argument("--fail-fast", action="store_true", help="exit 69 when the broker is out of reach, do not wait")


def _add_development_options(parser: ArgumentParser) -> None:
    development = parser.add_argument_group("development")
    development.add_argument("--reload", action="store_true", help="drain and start again when a source file changes")
    development.add_argument(
        "--reload-dir", metavar="D", action="append", help="watch this folder, default the current one; repeatable"
    )


def main(args: Namespace) -> int:
    """Run the worker; its exit code."""
    with signals.early():  # user code may take long to import, and a reload signal must not kill us meanwhile
        return _run(args)


def _run(args: Namespace) -> int:
    from pythia.cli.installation import rival_distributions

    if args.env_file is not None:
        _read_env_file(args.env_file)
    settings.apply(args)
    if rivals := rival_distributions():
        warn(f"two distributions install the import name pythia ({', '.join(rivals)}): uninstall all but one")
    developing = args.reload or args.reload_dir is not None
    if len(args.targets) == 1 and not developing and settings.read(args).processes == 1:
        return _run_here(args)
    return _supervise(args, [Path(name) for name in args.reload_dir or ["."]] if developing else None)


def _run_here(args: Namespace) -> int:
    from pythia.supervisor import first

    return first.run_beneath(lambda: _run_alone(args)) if first.is_first() else _run_alone(args)


def _run_alone(args: Namespace) -> int:
    from pythia import service
    from pythia.target import load_target, make

    return service.run(make(load_target(args.targets[0])), _options(args))


def _supervise(args: Namespace, watched: list[Path] | None) -> int:
    from pythia.supervisor.main import Service, Wanted
    from pythia.supervisor.order import Common

    _check(args, watched or [])
    common = Common(burst=args.burst, max_messages=args.max_messages, fail_fast=args.fail_fast)
    wanted = Wanted(posts=partial(_posts, args), common=common, reload_directories=watched)
    ended = Service(wanted).run()
    if ended.error is not None:
        raise CommandError(ended.error, exit_code=ended.exit_code)
    return ended.exit_code


def _check(args: Namespace, watched: list[Path]) -> None:
    """That what was said makes sense together, and is there."""
    from pythia.target import check_target

    workers = args.targets or settings.read(args).workers
    if not workers:
        raise CommandError("run needs a TARGET, or tables [workers.NAME] in the configuration file")
    if len(set(workers)) < len(workers):
        raise CommandError("a TARGET stands there twice: say --processes N for several processes of it")
    if len(workers) > 1 and (args.consume or args.worker_name):
        raise CommandError("--queue and --name are for one worker: of several, each has its own")
    if not watched:  # else it may come yet
        for target in args.targets:
            check_target(target)
    for directory in watched:
        if not directory.is_dir():
            raise CommandError(f"--reload-dir {directory}: there is no such folder")


def _posts(args: Namespace, config: WorkerConfig) -> list[Post]:
    """What is to be run: the TARGETs, else the workers that the configuration file names."""
    from pythia.supervisor.order import Post

    if args.targets:
        return [Post(key=target, target=target, processes=config.processes) for target in args.targets]
    if not config.workers:
        raise ConfigError("[workers] is empty: at least one table [workers.NAME] must stay", key="workers")
    return [
        Post(key=name, target=table["target"], processes=config.for_worker(name).processes, table=name)
        for name, table in config.workers.items()
    ]


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
