"""``pythia verify``: kill a worker, cut its connections, stop the machine under it, and see whether a message is lost."""

from __future__ import annotations

import ipaddress
import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pythia.cli import settings
from pythia.cli.failure import INPUT, CommandError
from pythia.cli.output import console, print_json, say
from pythia.cli.values import positive

if TYPE_CHECKING:
    from pythia.proof.run import Plan, Progress

DEFAULT_BODY = {"n": 17}
LINE_SECONDS = 5.0

_EXAMPLES = """\
examples:
  pythia verify                                              this machine and SQLite, with a worker of our own
  pythia verify --broker-url redis://127.0.0.1/0             a broker, with the same
  pythia verify shop:OrderWorker --body '{"sku": "silk"}'    your worker: what its handler does, it does
  pythia verify --schedule isolated --minutes 10 --seed 7
  pythia verify shop:OrderWorker --simulate                  the same engine in simulated time, many schedules

It uses a queue of its own, pythia.verify.…, and takes it away at the end. Exit 0: every promise was kept; 1: not, or the run
proves nothing. DIR/report.html tells the rest; DIR/history can be judged again: python -m pythia.proof.checker DIR/history
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia verify``."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", help="module:attribute, your worker; default: one of our own"
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--minutes", metavar="N", type=_minutes, default=5.0, help="how long faults strike; default 5")
    run.add_argument("--seed", metavar="N", type=_seed, default=1, help="the same seed, the same schedule; default 1")
    run.add_argument(
        "--schedule", choices=("dense", "isolated", "paired"), default="dense", help="how close faults are"
    )
    run.add_argument("--workers", metavar="N", type=positive, default=2, help="worker processes; default 2")
    run.add_argument("--lease", metavar="SECONDS", type=_lease, default=5.0, help="lease_seconds of the run; default 5")
    run.add_argument(
        "--rate", metavar="N", type=positive, help="publish at most N a second; default: as fast as they go"
    )
    run.add_argument("--body", metavar="JSON", help='the body of every message; default {"n": 17}')
    run.add_argument("--bodies", metavar="FILE", help="bodies, one JSON value a line, used in turn")
    run.add_argument(
        "--report", metavar="DIR", default="verify-report", help="where the report goes; default verify-report"
    )
    run.add_argument("--yes-this-broker", action="store_true", help="break connections to a broker on another machine")
    simulated = parser.add_argument_group("simulation")
    simulated.add_argument("--simulate", action="store_true", help="simulate instead: no broker, no time, no processes")
    simulated.add_argument(
        "--seeds", metavar="N", type=positive, default=1000, help="schedules to simulate; default 1000"
    )


def main(args: Namespace) -> int:
    """Verify; 0 when every promise was kept, else 1."""
    if args.simulate:
        return _simulate(args)
    return _verify(args)


def _simulate(args: Namespace) -> int:
    from pythia.proof.simulation import simulate
    from pythia.target import load_target

    settings.apply(args)
    worker = None if args.target is None else load_target(args.target)
    bodies = _bodies(args)
    in_turn = _in_turn(bodies or [DEFAULT_BODY])
    body = None if bodies is None else lambda _chance, number: in_turn(number)
    report = simulate(worker, range(args.seed, args.seed + args.seeds), body=body)
    if args.json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        say(report)
    return 0 if report.ok else 1


def _verify(args: Namespace) -> int:
    from pythia.proof.report import write_reports
    from pythia.proof.run import verify

    with _plan(args) as plan, _watching(args) as watch:
        result = verify(plan, watch)
        document = write_reports(plan, result)
    if args.json:
        print_json(document)
    else:
        say(document["line"])
        say(f"report: {Path(args.report) / 'report.html'}")
    return 0 if result.verdict.word == "PASS" else 1


@contextmanager
def _plan(args: Namespace) -> Iterator[Plan]:
    """What to run, as the arguments and the configuration say."""
    from pythia.config import WorkerConfig, was_set
    from pythia.proof.files import QueueFile, small_disk
    from pythia.proof.run import OUR_TARGET, Plan

    folder = Path(args.report).absolute()
    settings.apply(args)
    target, config = _target(args)
    own_file = not was_set(config, "broker.url")
    url = config.broker.url.get_secret_value()
    with small_disk(folder / "disk") if own_file else nullcontext() as disk:
        if own_file:
            url = f"sqlite:///{(disk or folder) / 'queue.db'}"
            _remove_queue(Path(url.removeprefix("sqlite:///")))
        _check_ours_to_break(url, sure=args.yes_this_broker)
        file = Path(unquote(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else None
        bodies = _bodies(args)
        plan: dict[str, Any] = (
            {} if bodies is None and target is None else {"bodies": _in_turn(bodies or [DEFAULT_BODY])}
        )
        yield Plan(
            url=url,
            folder=folder,
            config=WorkerConfig() if target is None else config,
            target=target or OUR_TARGET,
            seconds=args.minutes * 60,
            seed=args.seed,
            mode=args.schedule,
            workers=args.workers,
            rate=args.rate,
            lease=args.lease,
            config_file=args.config,
            venue=None if file is None else QueueFile(file, own_disk=disk is not None),
            **plan,
        )


def _target(args: Namespace) -> tuple[str | None, Any]:
    """The worker as ``module:attribute``, and the configuration that it has."""
    from pythia.config import WorkerConfig
    from pythia.target import load_target, make, workers_of

    if args.target is None:
        return None, WorkerConfig()
    worker = load_target(args.target)
    text = args.target
    if ":" not in text:
        names = [name for name, found in workers_of(sys.modules[text]).items() if found is worker]
        text = f"{text}:{names[0]}"
    return text, make(worker).config


def _check_ours_to_break(url: str, *, sure: bool) -> None:
    """Raise unless the broker is on this machine, or somebody says that it may be broken.

    Raises:
        CommandError: it is another machine's, or lives in one process.
    """
    scheme = url.partition("://")[0]
    if scheme == "memory":
        raise CommandError(
            "memory:// lives in one process: there is nothing to kill; --simulate runs the worker in one"
        )
    if scheme == "sqlite" or sure or _is_loopback(urlsplit(url).hostname or ""):
        return
    raise CommandError(
        f"the broker is on {urlsplit(url).hostname}, and verify breaks connections and fills a queue: "
        "--yes-this-broker says that it may"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _remove_queue(file: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _bodies(args: Namespace) -> list[Any] | None:
    """The bodies that were given; None: none were.

    Raises:
        CommandError: what is no JSON.
    """
    if args.body is not None:
        return [_json(args.body, "--body")]
    if args.bodies is None:
        return None
    try:
        lines = Path(args.bodies).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--bodies {args.bodies}: {error}", exit_code=INPUT) from None
    bodies = [
        _json(line, f"--bodies {args.bodies} line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not bodies:
        raise CommandError(f"--bodies {args.bodies}: it has no line", exit_code=INPUT)
    return bodies


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{where}: not JSON: {error}", exit_code=INPUT) from None


def _in_turn(bodies: list[Any]) -> Callable[[int], Any]:
    from pythia.proof.producer import cycled

    return cycled(bodies)


@contextmanager
def _watching(args: Namespace) -> Iterator[Callable[[Progress], None]]:
    """How the run is shown: one changing line on a terminal, a line now and then elsewhere."""
    stream = sys.stderr if args.json else sys.stdout
    if stream.isatty():
        with console(args, stderr=args.json).status("starting") as status:
            yield lambda progress: status.update(_shown(progress))
        return
    due = time.monotonic() + LINE_SECONDS

    def tell(progress: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            print(_shown(progress), file=stream, flush=True)

    yield tell


def _shown(progress: Progress) -> str:
    broken = f" · now: {', '.join(progress.broken)}" if progress.broken else ""
    return (
        f"{progress.stage} · {progress.seconds:.0f} s · published {progress.published:,} · handled {progress.handled:,} · "
        f"waiting {progress.waiting:,} · faults {progress.faults}{broken}"
    )


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        raise ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _minutes(text: str) -> float:
    return _number(text, 0.1, 24 * 60, "a number of minutes from 0.1 to 1440")


def _lease(text: str) -> float:
    return _number(text, 1, 300, "a number of seconds from 1 to 300")


def _seed(text: str) -> int:
    return int(_number(text, 0, 2**53, "a whole number from 0"))
