"""A Redis of one's own, to restart, starve, flush and kill without anybody else noticing."""

from __future__ import annotations

import shutil
import subprocess

from tests.kit.private_server import PrivateServer
from tests.kit.processes import Started, free_port
from tests.kit.protocol import redis_serves


def redis_binary(name: str = "server") -> str | None:
    """``redis-server`` or ``valkey-server`` (``name="cli"``: their clients); None when neither is installed."""
    return shutil.which(f"redis-{name}") or shutil.which(f"valkey-{name}")


class PrivateRedis(PrivateServer):
    """One server with its own port and folder, which outlives ``stop`` and ``kill`` until it is closed.

    ``appendonly`` makes it remember over them (every write is synced, so that ``kill`` takes nothing). A boot takes 50 ms.
    """

    def __init__(self, *options: str, appendonly: bool = False) -> None:
        super().__init__("redis")
        self.port = free_port()
        written = ("--appendonly", "yes", "--appendfsync", "always") if appendonly else ("--appendonly", "no")
        self._options = (*written, *options)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _started(self) -> Started:
        binary = redis_binary()
        assert binary is not None, "Redis is not installed"
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--daemonize", "no")
        command = (binary, *where, "--save", "", *self._options)
        server = Started(command, env={"LANG": "C.UTF-8"}, output=self.folder / "server.log")
        server.wait_until(lambda: redis_serves("127.0.0.1", self.port))
        return server

    def cli(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What ``redis-cli`` prints; ``stdin`` is the last argument, as with its ``-x``."""
        binary = redis_binary("cli")
        assert binary is not None, "redis-cli is not installed"
        command = (binary, "-p", str(self.port), "-e", *(("-x",) if stdin is not None else ()), *arguments)
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=30)
        assert done.returncode == 0, f"redis-cli {arguments[0]}: {done.stderr.decode()}{done.stdout.decode()}"
        return done.stdout.decode()

    def fill_up(self, full: bool) -> None:
        """While full, every command that needs memory is refused."""
        self.cli("CONFIG", "SET", "maxmemory", "1" if full else "0")
