"""Who is measured: which program a worker process is, in which environment, and what the server must be told for it.

A peer is installed from its hash-locked ``benchmarks/peers/NAME.txt`` into ``.venv-peers/NAME``, on first use.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pythia.proof.crew import CHILD

ROOT = Path(__file__).resolve().parents[2]
_VERSIONS = (
    "import sys; from importlib.metadata import version; print(*(f'{name} {version(name)}' for name in sys.argv[1:]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """``settings``: how a peer is set up; empty for Pythia."""

    name: str
    settings: str = ""
    text: str = ""

    @property
    def is_peer(self) -> bool:
        return bool(self.settings)

    def command(self, *, poison: bool) -> Sequence[str]:
        """What starts a worker process of it."""
        if not self.is_peer:
            return CHILD
        handler = "poisoned" if poison else "steady"
        return (str(python_of("faststream")), "-m", "benchmarks.peers.faststream_worker", self.settings, handler)

    def target(self, *, poison: bool) -> str:
        """What Pythia is to run."""
        return f"benchmarks.peers.pythia_worker:{'Poisoned' if poison else 'Steady'}"


CONTESTANTS = (
    Contestant(name="Pythia", text="as it comes; at most 16 handlers, 5 attempts"),
    Contestant(
        name="FastStream",
        settings="best",
        text="NACK_ON_ERROR; RabbitMQ: prefetch 16, delivery limit and dead-letter exchange; Redis: max_records 16, a second "
        "subscriber that claims what is pending (min_idle_time = the lease)",
    ),
    Contestant(name="FastStream, plain", settings="plain", text="a subscriber with names alone: its defaults"),
)


def python_of(peer: str) -> Path:
    """The Python of this peer's environment, which is made or brought up to date."""
    lock, folder = ROOT / "benchmarks" / "peers" / f"{peer}.txt", _environment(peer)
    python, stamp = folder / "bin" / "python", folder / "stamp"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
        env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], env=env, check=True)
        install = [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock]
        subprocess.run(install, env=env, check=True)
        stamp.write_text(wanted)
    return python


def is_installed(peer: str) -> bool:
    """Whether this peer has its environment."""
    return (_environment(peer) / "stamp").exists()


def _environment(peer: str) -> Path:
    return ROOT / ".venv-peers" / peer


def versions_of(python: Path | str, *names: str) -> str:
    """``NAME VERSION`` of what is installed there."""
    command = [python, "-c", _VERSIONS, *names]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
