"""A run whose workers are another program: it reads its task and writes a history, and the judge judges it like ours."""

from __future__ import annotations

import sys
from pathlib import Path

from pythia.config import WorkerConfig
from pythia.proof.checker import Verdict
from pythia.proof.run import Plan, verify
from pythia.proof.schedule import PROCESS_KINDS
from tests.kit.private_redis import PrivateRedis
from tests.kit.servers import require_private_redis

# A consumer by hand; LEAVES is what it acknowledges and does not handle.
PROGRAM = """
import json, os, signal, sys
from itertools import count
from pathlib import Path

import redis

from pythia.proof.ledger import Ledger, digest_of

task = json.loads(sys.stdin.readline())
stream, over = task["flags"]["queues"][0], []
signal.signal(signal.SIGTERM, lambda *_: over.append(True))
ledger, numbers = Ledger(Path(task["folder"]), f"handler-{os.getpid()}.log"), count()
client = redis.Redis.from_url(task["flags"]["broker.url"].partition("?")[0])
parent = os.getppid()
while not over and os.getppid() == parent:
    for _, entries in client.xreadgroup("pythia", f"w{os.getpid()}", {stream: ">"}, count=5, block=100):
        for name, fields in entries:
            number = next(numbers)
            if number % 20 not in LEAVES:
                ledger.note("started", number, fields[b"pythia-id"].decode(), 1, digest_of(fields[b"body"]))
                ledger.note("finished", number)
            client.xack(stream, "pythia", name)
"""


def run(folder: Path, leaves: tuple[int, ...]) -> Verdict:
    """Two such programs on a stream for a few seconds, while one of them stands still now and then."""
    (folder / "program.py").write_text(PROGRAM.replace("LEAVES", repr(leaves)))
    require_private_redis()
    with PrivateRedis() as server:
        return verify(
            Plan(
                url=f"{server.url}?mode=stream",
                folder=folder,
                config=WorkerConfig(),
                command=(sys.executable, str(folder / "program.py")),
                seconds=5.0,
                lease=1.0,
                rate=200.0,
                kinds=[kind for kind in PROCESS_KINDS if kind.name == "pause"],
                drain_seconds=60.0 if not leaves else 5.0,
            )
        ).verdict


def test_another_program_that_loses_nothing_passes(tmp_path: Path):
    verdict = run(tmp_path, ())
    assert verdict.word == "PASS", str(verdict)
    assert verdict.counts["confirmed"] > 100


def test_another_program_that_loses_messages_is_found_out(tmp_path: Path):
    verdict = run(tmp_path, (7,))
    assert verdict.word == "FAIL"
    assert verdict.flaws["lost"]
