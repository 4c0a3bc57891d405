"""``pythia check``: everything that ``run`` would stumble over, told before it runs."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pythia.broker import Broker, Capabilities, QueueDepth, Survey
from pythia.cli import settings
from pythia.cli.connection import connected
from pythia.cli.installation import rival_distributions
from pythia.cli.output import print_json, print_table
from pythia.config import WorkerConfig, origins
from pythia.core.survey import at_most_once, survey
from pythia.core.worker import Worker
from pythia.errors import PythiaError
from pythia.target import load_target, make

_KUBERNETES_GRACE_SECONDS = 30

_EXAMPLES = """\
examples:
  pythia check
  pythia check shop.worker:OrderWorker
  pythia check shop.worker:OrderWorker --strict      exit 1 at a risk, for a deployment pipeline

Exit 0: it will run. 64: TARGET. 69: the broker is out of reach. 74: the queue file. 78: the configuration,
or the broker refuses it.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    result: Literal["ok", "risk", "failed"]
    detail: str
    exit_code: int = 0


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia check``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("target", metavar="TARGET", nargs="?", help="module:attribute of a worker")
    parser.add_argument("--strict", action="store_true", help="a risk is exit 1")


def main(args: Namespace) -> int:
    """Look at everything; the exit code of the first failure, or 0."""
    findings = asyncio.run(_findings(args))
    code = next((finding.exit_code for finding in findings if finding.result == "failed"), 0)
    if code == 0 and args.strict and any(finding.result == "risk" for finding in findings):
        code = 1
    if args.json:
        print_json({"ok": code == 0, "findings": [_as_json(finding) for finding in findings]})
    else:
        rows = [(finding.check, finding.result, finding.detail) for finding in findings]
        print_table(args, ("CHECK", "RESULT", "DETAIL"), rows)
    return code


def _as_json(finding: Finding) -> dict[str, object]:
    return {key: value for key, value in asdict(finding).items() if key != "exit_code"}


async def _findings(args: Namespace) -> list[Finding]:
    """All of them, as far as one failure does not hide the rest."""
    findings: list[Finding] = []
    check = "configuration" if args.target is None else "import"
    try:
        settings.apply(args)
        worker_class = None if args.target is None else load_target(args.target)
        if worker_class is not None:
            findings.append(Finding("import", "ok", f"{worker_class.__module__}:{worker_class.__qualname__}"))
        check = "configuration"
        config = WorkerConfig() if worker_class is None else make(worker_class).config
        findings.append(Finding("configuration", "ok", _sources(config)))
        check = "connection"
        async with connected(config) as broker:
            findings += [finding async for finding in _at_the_broker(broker, config)]
            check = "risks"
            found = await survey(broker, config)
            findings += [Finding("offers", "ok", offer) for offer in found.offers]
            findings += _risks(config, worker_class, broker.capabilities, found)
    except PythiaError as error:
        findings.append(Finding(check, "failed", str(error), error.exit_code))
    return findings


def _sources(config: WorkerConfig) -> str:
    said = {origin.where for origin in origins(config).values() if origin.layer == "file"}
    return f"file {', '.join(sorted(said))}" if said else "no file; environment and defaults"


async def _at_the_broker(broker: Broker, config: WorkerConfig) -> AsyncIterator[Finding]:
    await broker.ping()
    able = broker.capabilities
    version = f" {able.server_version}" if able.server_version else ""
    detail = f"; {able.detail}" if able.detail else ""
    yield Finding("connection", "ok", f"{config.broker.display_url}: {able.name}{version}, {able.guarantee}{detail}")
    for queue in config.queue_names:
        yield Finding("topology", "ok", _depth(await broker.depth(queue)))


def _depth(depth: QueueDepth) -> str:
    counts = {"ready": depth.ready, "in flight": depth.in_flight, "delayed": depth.delayed, "dead": depth.dead}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count is not None)
    return f"queue {depth.queue}: {told or 'how much it holds cannot be told'}"


def _risks(
    config: WorkerConfig, worker_class: type[Worker] | None, able: Capabilities, found: Survey
) -> Iterator[Finding]:
    risks = [
        *_of_the_broker(able),
        *found.risks,
        *_of_the_settings(config),
        *_of_the_worker(worker_class),
        *_of_the_machine(),
    ]
    for risk in risks:
        yield Finding("risks", "risk", risk)
    if not risks:
        yield Finding("risks", "ok", "none known")


def _of_the_broker(able: Capabilities) -> Iterator[str]:
    yield from at_most_once(able)
    if not able.durable and able.keeps:
        yield f"{able.name} keeps messages in the process: they end with it"
    if not able.dead_letters:
        yield f"{able.name} keeps no dead letters: what is given up is gone"


def _of_the_settings(config: WorkerConfig) -> Iterator[str]:
    if config.handler_timeout_seconds == 0:
        yield "handler_timeout_seconds = 0: a handler that hangs keeps its slot for ever" + (
            ", and RabbitMQ ends the consumer of one that runs for longer than the server's consumer_timeout"
            if config.broker.scheme in ("amqp", "amqps")
            else ""
        )
    if os.environ.get("KUBERNETES_SERVICE_HOST") and config.drain_timeout_seconds >= _KUBERNETES_GRACE_SECONDS:
        yield (
            f"drain_timeout_seconds = {config.drain_timeout_seconds:g} is not below Kubernetes' grace of 30 s, "
            "unless terminationGracePeriodSeconds is longer"
        )
    said = origins(config)["broker.url"]
    if said.layer == "file" and _has_password(config) and _others_can_read(said.where):
        yield f"{said.where} holds the broker's password and every user of this machine can read it"


def _has_password(config: WorkerConfig) -> bool:
    return config.broker.display_url != config.broker.url.get_secret_value()


def _others_can_read(path: str) -> bool:
    try:
        return bool(Path(path).stat().st_mode & 0o004)
    except OSError:
        return False


def _of_the_worker(worker_class: type[Worker] | None) -> Iterator[str]:
    if worker_class is None:
        return
    if worker_class.process_message is Worker.process_message and worker_class.process_batch is Worker.process_batch:
        yield f"{worker_class.__qualname__} defines neither process_message nor process_batch: every message would fail"


def _of_the_machine() -> Iterator[str]:
    rivals = rival_distributions()
    if rivals:
        yield f"two distributions install the import name pythia: {', '.join(rivals)}; uninstall all but one"
