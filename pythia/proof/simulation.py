"""Thousands of seeded worlds a minute: the real engine on the memory broker's model, in virtual time, with everything going wrong.

    python -m pythia.proof.simulation --seeds 0:3000           # the script of this package
    python -m pythia.proof.simulation --seed 17                # one of them, with its history
    python -m pythia.proof.simulation --target app:OrderWorker --seeds 0:500

The same seed gives the same history, in every process. What a simulation does not show: the adapters of the real brokers, threads,
and whatever a handler does outside the event loop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pythia.config import WorkerConfig
from pythia.core.worker import Worker
from pythia.errors import ConfigError, TargetError, Unsupported
from pythia.observability import logs
from pythia.proof.history import digest_of
from pythia.proof.scenario import MakeBody, Outcome, Plan, run_seed
from pythia.target import load_target
from pythia.utils.isolation import LoggingBefore, isolated_config

TAIL = 40  # lines of a failing history that are shown
USERS_HEAL_SECONDS = 2 * 86_400.0  # a user's retries may take hours, which are virtual
SCRIPT = Plan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a run of seeds showed. ``verdict`` is ``ok`` or the first failing seed's word, ``digest`` the same for the same run."""

    seeds: int
    messages: int
    events: int
    faults: Mapping[str, int]
    verdict: str
    digest: str
    target: str | None = None  # `module:class` of a user's worker
    failing_seed: int | None = None
    findings: Sequence[str] = ()
    tail: Sequence[str] = ()  # the end of the failing history

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        head = f"{self.verdict}: {self.seeds} seeds, {self.messages} messages, faults: {faults or 'none'}"
        if self.failing_seed is None:
            return head
        return "\n".join([head, f"seed {self.failing_seed} (again: {self.again})", *self.findings, *self.tail])

    @property
    def again(self) -> str:
        """The command that runs the failing seed again."""
        target = "" if self.target is None else f" --target {self.target}"
        return f"python -m pythia.proof.simulation{target} --seed {self.failing_seed}"


def simulate(
    worker_class: type[Worker] | None = None,
    seeds: Iterable[int] = range(100),
    *,
    body: MakeBody | None = None,
    overrides: Mapping[str, Any] | None = None,
    told: Callable[[Outcome], None] = lambda _outcome: None,
) -> Simulated:
    """Simulate ``worker_class`` (None: the script) under each of ``seeds``, until one fails.

    ``body`` makes the n-th message's body (``{"n": n}`` if None), ``overrides`` are keys of the configuration; neither file nor
    environment is read. ``told`` hears of every seed. Not inside a running event loop.

    Raises:
        Unsupported: the worker needs what a simulation has not: threads, sockets, processes.
    """
    plan = SCRIPT if worker_class is None else _users_plan(worker_class, body, overrides or {})
    return simulate_plan(plan, seeds, told=told)


def simulate_plan(
    plan: Plan, seeds: Iterable[int], *, told: Callable[[Outcome], None] = lambda _outcome: None
) -> Simulated:
    """The same, of a plan."""
    count = messages = events = 0
    faults: Counter[str] = Counter()
    digests: list[str] = []
    with _quiet():
        for seed in seeds:
            outcome = run_seed(seed, plan)
            told(outcome)
            count, messages, events = count + 1, messages + outcome.messages, events + len(outcome.events)
            faults += outcome.faults
            digests.append(outcome.digest)
            _check_able(plan.worker_class, outcome)
            if outcome.findings:
                break
    failing = outcome if count and outcome.findings else None
    return Simulated(
        seeds=count,
        messages=messages,
        events=events,
        faults=dict(faults),
        verdict="ok" if failing is None else failing.findings[0].verdict,
        digest=digest_of(digests),
        target=None if plan.scripted else f"{plan.worker_class.__module__}:{plan.worker_class.__qualname__}",
        failing_seed=None if failing is None else failing.seed,
        findings=() if failing is None else [str(finding) for finding in failing.findings],
        tail=() if failing is None else _tail(failing),
    )


def _users_plan(worker_class: type[Worker], body: MakeBody | None, overrides: Mapping[str, Any]) -> Plan:
    return Plan(worker_class=worker_class, body=body, overrides=overrides, heals_within=USERS_HEAL_SECONDS)


def _check_able(worker_class: type[Worker], outcome: Outcome) -> None:
    if outcome.needs is not None:
        raise Unsupported(
            f"{worker_class.__name__} cannot be simulated: it needs {outcome.needs}, which a simulation has not; "
            "verify it on a real broker"
        )


def _tail(outcome: Outcome) -> Sequence[str]:
    """The history of the messages that the first finding is about, up to it; else its last lines."""
    at = outcome.findings[0].at
    before = [event for event in outcome.events if not at or event.at <= at]
    return [str(event) for event in before[-TAIL:]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Workers of simulations say nothing."""
    before = LoggingBefore()
    logs.configure(isolated_config(WorkerConfig, {}).log)
    try:
        yield
    finally:
        before.restore()


# The command.


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m pythia.proof.simulation``: 0 when nothing is wrong, 1 when a seed failed."""
    options = _parser().parse_args(arguments)
    seeds = range(*(int(part) for part in options.seeds.split(":"))) if options.seed is None else (options.seed,)
    try:
        worker_class = None if options.target is None else load_target(options.target)
        simulated = simulate(worker_class, seeds, told=_teller(options))
    except (Unsupported, ConfigError, TargetError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{json.dumps(asdict(simulated)) if options.json else simulated}\n")
    return 0 if simulated.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pythia.proof.simulation", description="Simulate seeded worlds.")
    parser.add_argument("--seeds", default="0:100", metavar="FROM:TO", help="which ones (default: 0:100)")
    parser.add_argument("--seed", type=int, help="one alone, with its whole history")
    parser.add_argument("--target", metavar="MODULE:CLASS", help="a worker of yours instead of the script")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    return parser


def _teller(options: argparse.Namespace) -> Callable[[Outcome], None]:
    def tell(outcome: Outcome) -> None:
        if options.seed is not None and not options.json:
            sys.stdout.write("".join(f"{event}\n" for event in outcome.events))

    return tell


if __name__ == "__main__":
    sys.exit(main())
