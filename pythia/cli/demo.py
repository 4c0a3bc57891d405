"""``pythia demo``: real work to watch. Every file of this Python environment is verified against its recorded digest."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from pythia.cli import settings
from pythia.cli.demo_display import display
from pythia.cli.demo_report import print_report
from pythia.cli.demo_run import QUEUE, Demo
from pythia.cli.failure import CommandError
from pythia.cli.values import positive
from pythia.config import WorkerConfig, process_flags, set_config_file, set_process_flags, was_set

FILE = "pythia-demo.db"
LEASE_SECONDS = 5  # a demo that was killed is gone on with after so long
OWN_URL = f"sqlite:///{FILE}"

_EXAMPLES = f"""\
examples:
  pythia demo
  pythia demo --path other/.venv/lib/python3.13/site-packages
  pythia demo --json > verdict.json

It publishes one message for each installed file to {FILE} here and hashes them all. Exit 0: every file is what was installed;
1: some are not, and `pythia dead` tells about them. Ctrl-C stops it, and the next run goes on with what is left. The queue
file is removed when all is well. Of the configuration only the environment and --config count, never a project's own file.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia demo``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("-c", "--concurrency", metavar="N", type=positive, help="most files at once; default 8")
    parser.add_argument("--path", metavar="DIR", help="verify another environment: its site-packages")
    parser.add_argument("--keep", action="store_true", help=f"keep the queue file {FILE} when all is well")


def main(args: Namespace) -> int:
    """Verify; 0 when every file is as recorded, 1 when not, 128 + the signal when one ended it before that."""
    directory = None if args.path is None else _site_packages(args.path)
    config = _configuration(args)
    with display(args) as view:
        demo = Demo(config, view, directory)
        report = asyncio.run(demo.run())
    removable = args.broker_url is None and not args.keep and report.ok and not demo.shared
    if removable:
        _remove(Path(FILE))
    print_report(args, report, kept=demo.durable and not removable)
    if report.interrupted:
        return 128 + demo.ended_by
    return 0 if report.ok else 1


def _site_packages(path: str) -> Path:
    directory = Path(path)
    if not directory.is_dir():
        raise CommandError(f"--path {path}: there is no such directory")
    return directory.resolve()


def _configuration(args: Namespace) -> WorkerConfig:
    """The demo's own broker and queue, probes on, and of the log only what is fatal unless somebody set a level."""
    settings.apply(args)
    set_config_file(args.config or os.devnull)  # a project's file is about its own workers
    own = {"broker.url": args.broker_url or OWN_URL, "queues": [QUEUE], "http.enabled": True}
    set_process_flags({**process_flags(), **own})
    config = WorkerConfig()
    ours: dict[str, Any] = {}
    if args.json or not was_set(config, "log.level"):
        ours["log"] = {"level": "critical"}
    if not was_set(config, "lease_seconds"):
        ours["lease_seconds"] = LEASE_SECONDS
    return WorkerConfig(**ours)


def _remove(file: Path) -> None:
    """Delete a queue file that nobody has open, with what SQLite may have left beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            Path(f"{file}{suffix}").unlink()
