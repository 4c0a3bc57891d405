"""Workers that are broken on purpose, and what makes the engine of ``pythia verify`` find each one out.

Nothing here depends on how busy the machine is: each mutation is met by every message of a kind, or by all that is in hand when
a fault strikes, which is some dozen messages; and each fault is planned surely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pythia.config import WorkerConfig
from pythia.proof.checker import Verdict
from pythia.proof.run import Plan, Result, verify
from pythia.proof.schedule import PROCESS_KINDS

WORKER = """
import asyncio, os
from pythia import Reject, RetryPolicy, Worker
from pythia.broker import Settled
from pythia.brokers.sqlite import holder, store
from pythia.core import held, outcome, processor

USUAL = LONG = 0.2

class App(Worker):
    concurrency = 8
    retry = RetryPolicy(base_seconds=0.3, jitter=0.0)

    async def process_message(self, message):
        n = message.body["n"]
        await asyncio.sleep(LONG if n % 50 == 5 else USUAL * (0.5 + n * 7 % 10 / 10))  # no two at a time
        if n % 10 == 7 and message.attempt == 1:
            raise LookupError("not yet")
        if n % 10 == 9:
            raise Reject("never")
"""
RATE = 30.0  # a worker handles 40 a second: it has something in hand all the time, and gets through with it
LEASE = 1.0
AT_ONCE = 6
SECONDS = 6.0  # one fault
PATIENCE_SECONDS = 60.0
SHORT_SECONDS = 4.0  # where the mutation never lets anything end


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """``patch``: what is planted. ``kinds``: the faults that meet it. ``flaw``: as what the judge must find it. ``endless``: it
    never comes to an end. ``long``: for the soak."""

    patch: str
    flaw: str
    kinds: Sequence[str] = ("pause",)
    rate: float = RATE
    flags: Mapping[str, float] = field(default_factory=dict)
    endless: bool = False
    long: bool = False


MUTANTS = {
    "ack before the handler": Mutant(
        patch="""
handle = processor.Processor.handle

async def hasty(self, group):
    for one in group:
        one.settle(outcome.ACK)
    return await handle(self, group)

processor.Processor.handle = hasty
USUAL = 1.0
""",
        kinds=("kill-all",),
        rate=6.0,
        flaw="lost",
    ),
    "swallow and ack": Mutant(patch="held.Held.judge = lambda self, error: outcome.ACK\n", flaw="lost"),
    "reject is drop": Mutant(
        patch="""
decide = held.decide

def dropping(error, **how):
    return outcome.Outcome("drop", "never") if isinstance(error, Reject) else decide(error, **how)

held.decide = dropping
""",
        flaw="not dead",
    ),
    "no renewal of leases": Mutant(
        patch="LONG = 2.5\nholder.Holder.renew = lambda self, store: holder.Renewal(0, [])\n",
        flaw="unexplained",
        endless=True,
    ),
    "drop on SIGTERM": Mutant(
        patch="""
USUAL = 2.0  # too long for the drain, which hands back what it has to interrupt
store._RELEASE = store._REMOVE
""",
        kinds=("stop",),
        rate=3.0,
        flags={"drain_timeout_seconds": 1.0},
        flaw="lost",
    ),
    "a retry forgets its attempt": Mutant(
        patch="""
store._LATER = store._LATER.replace("attempt = attempt + ?", "attempt = attempt + 0 * ?")
""",
        flaw="unexplained",
        long=True,
        endless=True,
    ),
    "acked in word only": Mutant(
        patch="store.Store.settle = lambda self, batch: [Settled.DONE for _ in batch]\n",
        flaw="unexplained",
        long=True,
        endless=True,
    ),
    "goes silent after a while": Mutant(
        patch="""
work, left = App.process_message, [40]

async def falls_silent(self, message):
    left[0] -= 1
    if left[0] < 0:
        await asyncio.Event().wait()
    await work(self, message)

App.process_message = falls_silent
""",
        flaw="late",
        long=True,
        endless=True,
    ),
    "ends by itself": Mutant(
        patch="""
work, left = App.process_message, [40]

async def gives_up(self, message):
    left[0] -= 1
    if left[0] < 0 and not os.path.exists("ended"):
        open("ended", "w").close()
        os._exit(3)
    await work(self, message)

App.process_message = gives_up
""",
        flaw="died",
        long=True,
    ),
}


CONTROL = "none"
WITHOUT = Mutant(patch="LONG = 2.5\n", flaw="", kinds=("kill-all", "stop", "pause"))
"""What has no mutation, and meets every fault that the others meet."""


def run(name: str, folder: Path) -> Result:
    """The engine's run with this mutant, whose module must be importable from the current directory as ``module_of(name)``."""
    mutant = MUTANTS.get(name, WITHOUT)
    plan = Plan(
        url=f"sqlite:///{folder / 'queue.db'}",
        folder=folder,
        config=WorkerConfig(),
        target=f"{module_of(name)}:App",
        seconds=SECONDS if name in MUTANTS else 3 * SECONDS,
        workers=1 if name in MUTANTS else 2,
        lease=LEASE,
        rate=mutant.rate,
        flags=mutant.flags,
        kinds=[replace(kind, weight=1) for kind in PROCESS_KINDS if kind.name in mutant.kinds],
        drain_seconds=SHORT_SECONDS if mutant.endless else PATIENCE_SECONDS,
    )
    return verify(plan)


def module_of(name: str) -> str:
    return "worker_" + name.lower().replace(" ", "_")


def write_modules(folder: Path) -> None:
    """A module for each, and for the one without a mutation."""
    for name in (CONTROL, *MUTANTS):
        (folder / f"{module_of(name)}.py").write_text(WORKER + MUTANTS.get(name, WITHOUT).patch)


def run_all(folder: Path, names: Sequence[str]) -> dict[str, Verdict]:
    """These, many at a time: each waits most of the time. The current directory is to be ``folder``."""
    write_modules(folder)

    def one(name: str) -> Verdict:
        (folder / module_of(name)).mkdir()
        return run(name, folder / module_of(name)).verdict

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))
