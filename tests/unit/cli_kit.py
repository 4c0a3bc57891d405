"""What the tests of the command line share: a process of it, and a queue file with dead letters in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pythia
from pythia.broker import ConsumeOptions, Failure, Settled, Settlement
from pythia.brokers import open_broker
from pythia.message import Envelope

ROOT = Path(pythia.__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "pythia"]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def pythia_command(*args: str, cwd: Path, stdin: str | bytes | None = None, **variables: str) -> Ended:
    """Run ``pythia ARGS`` as a user would, in a process of its own, without a terminal."""
    done = subprocess.run(
        [*COMMAND, *args],
        cwd=cwd,
        env=environment(**variables),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


async def bury(url: str, queue: str, envelopes: Sequence[Envelope], failures: Sequence[Failure]) -> None:
    """Publish ``envelopes`` to ``queue`` and dead-letter each with its failure."""
    broker = open_broker(url)
    await broker.connect()
    try:
        await broker.publish(queue, envelopes)
        options = ConsumeOptions(prefetch=len(envelopes), lease=30, max_hold=None, consumer="the gravedigger")
        async with broker.consume(queue, options) as consumer:
            by_id = dict(zip((envelope.id for envelope in envelopes), failures, strict=True))
            left = len(envelopes)
            while left:
                held = await consumer.receive(left)
                answers = await consumer.settle(
                    [Settlement(delivery, "dead_letter", record=by_id[delivery.envelope.id]) for delivery in held]
                )
                assert set(answers) == {Settled.DONE}
                left -= len(held)
    finally:
        await broker.close()


def failure(**fields: Any) -> Failure:
    """A failure with everything known about it."""
    known: dict[str, Any] = {
        "reason": "attempts_exhausted",
        "detail": "ConnectError: no route to host",
        "error_type": "httpx.ConnectError",
        "error_message": "no route to host",
        "traceback": "Traceback (most recent call last):\n  boom\nhttpx.ConnectError: no route to host\n",
        "worker": "orders",
        "worker_id": "orders-a1-7",
        "attempts": 8,
    }
    return Failure(**(known | fields))
