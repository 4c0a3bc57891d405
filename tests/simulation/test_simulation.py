"""The real engine in seeded worlds where everything goes wrong: nothing is lost, and the same seed is the same world."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pythia import Message, RetryPolicy, Worker
from pythia.errors import Unsupported
from pythia.proof.scenario import Plan, run_seed
from pythia.proof.simulation import main, simulate
from pythia.proof.weather import FAULTS

ROOT = Path(__file__).resolve().parents[2]
SEEDS, BLOCK, BESIDE = 3000, 500, 2
SOAK, SOAK_BLOCK = 100_000, 10_000
DEADLINE_SECONDS = 500.0  # of 10 to 30 on a machine of one's own


@contextmanager
def launched(first: int, last: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A fresh interpreter that simulates these seeds; ended at the end."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "pythia.proof.simulation",
        "--seeds",
        f"{first}:{last}",
        "--json",
    ]
    env = {**os.environ, **environment}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def report(process: subprocess.Popen[str], seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it stands
        out, err = process.communicate()
    assert process.returncode in {0, 1}, err
    return json.loads(out)


def hold_nothing_lost(first: int, last: int, *, seconds: float = DEADLINE_SECONDS) -> Counter[str]:
    """Simulate a block of seeds in two processes side by side; the faults that struck."""
    step = (last - first) // BESIDE
    faults: Counter[str] = Counter()
    with ExitStack() as stack:
        processes = [stack.enter_context(launched(start, start + step)) for start in range(first, last, step)]
        for one in [report(process, seconds) for process in processes]:
            again = f"python -m pythia.proof.simulation --seed {one['failing_seed']}"
            assert one["verdict"] == "ok", "\n".join(["", again, *one["findings"], *one["tail"]])
            assert one["seeds"] == step
            faults += Counter(one["faults"])
    return faults


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_loses_or_invents_or_repeats_anything_without_a_cause(first):
    faults = hold_nothing_lost(first, first + BLOCK)
    assert all(faults[kind] >= 10 for kind in FAULTS), f"some faults never strike: {faults}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + SOAK, SOAK_BLOCK))
def test_no_seed_of_a_hundred_thousand_does(first):
    hold_nothing_lost(first, first + SOAK_BLOCK, seconds=3500)


def test_the_same_seed_gives_the_same_history_in_every_process():
    with launched(0, 25, PYTHONHASHSEED="1") as one, launched(0, 25, PYTHONHASHSEED="2") as other:
        first, second = report(one), report(other)
    assert first["digest"] == second["digest"]
    assert first["events"] > 1000


def test_another_seed_gives_another_history():
    assert len({run_seed(seed, Plan()).digest for seed in range(5)}) == 5


def test_a_seed_is_the_same_whatever_was_simulated_before_it():
    alone = run_seed(7, Plan()).digest
    simulate(None, range(3))
    assert run_seed(7, Plan()).digest == alone


# A user's own worker.


class Orders(Worker):
    """Fails now and then, publishes, and waits."""

    retry = RetryPolicy(max_attempts=5, base_seconds=1)
    concurrency = 3

    async def process_message(self, message: Message[dict[str, int]]) -> None:
        await asyncio.sleep(0.05)
        if message.body["n"] % 7 == 0 and message.attempt < 3:
            raise ConnectionError("the shop is closed")
        await self.publish("shipped", {"n": message.body["n"]})


class Careless(Worker):
    """Forgets in a bare except what a drain is."""

    handler_timeout_seconds = 2

    async def process_message(self, message: Message[Any]) -> None:
        try:
            await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)


class Threaded(Worker):
    def process_message(self, message: Message[Any]) -> None:
        """A plain ``def`` runs in a thread."""


class Connecting(Worker):
    async def on_startup(self) -> None:
        await asyncio.open_connection("127.0.0.1", 9)

    async def process_message(self, message: Message[Any]) -> None: ...


class Spawning(Worker):
    async def process_message(self, message: Message[Any]) -> None:
        await asyncio.create_subprocess_exec("true")


class Batched(Worker):
    async def process_batch(self, messages: Any) -> None:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("worker_class", [Orders, Careless, Batched])
def test_a_users_worker_is_simulated_as_it_is(worker_class):
    simulated = simulate(worker_class, range(25))
    assert simulated.ok, str(simulated)
    assert simulated.messages > 250
    assert simulated.faults["kill"] > 0


@pytest.mark.parametrize(
    ("worker_class", "need"), [(Threaded, "a thread"), (Connecting, "a socket"), (Spawning, "a process")]
)
def test_what_a_simulation_has_not_is_said_in_one_sentence(worker_class, need):
    with pytest.raises(Unsupported, match=f"{worker_class.__name__} cannot be simulated: it needs {need}"):
        simulate(worker_class, range(5))


def test_bodies_are_made_by_whoever_asks():
    seen = []

    class Taking(Worker):
        async def process_message(self, message: Message[Any]) -> None:
            seen.append(message.body["sku"])

    assert simulate(Taking, range(3), body=lambda random, n: {"sku": f"s{n}"}).ok
    assert "s0" in seen


def test_virtual_hours_pass_in_no_time():
    class Hopeless(Worker):
        async def process_message(self, message: Message[Any]) -> None:
            raise RuntimeError("sixteen attempts, four hours")

    began = time.monotonic()
    simulated = simulate(Hopeless, range(1))
    assert simulated.ok, str(simulated)
    assert time.monotonic() - began < 60


def test_a_simulation_starts_no_thread():
    before = threading.active_count()
    simulate(None, range(2))
    assert threading.active_count() == before


# The command.


def test_one_seed_is_shown_with_its_history(capsys):
    assert main(["--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "stored" in out
    assert "ok: 1 seeds" in out


def test_a_failing_seed_is_named_with_the_way_to_run_it_again(monkeypatch, capsys):
    from pythia.core.held import Held
    from pythia.core.outcome import ACK

    monkeypatch.setattr(Held, "judge", lambda self, error: ACK)
    assert main(["--seeds", "0:20"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("untrue: ")
    assert "python -m pythia.proof.simulation --seed " in out
    assert "process 1" in out
