"""A RabbitMQ node of one's own, to restart, cut, starve and kill without anybody else noticing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.kit.private_server import PrivateServer
from tests.kit.processes import Started, free_port
from tests.kit.protocol import amqp_serves

# Where the package puts the scripts themselves. Debian's /usr/sbin/rabbitmq-server is a wrapper that becomes the user
# rabbitmq and forgets the environment.
_FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
)
_MEMORY, _DISK = "512MB", "50MB"

_SETTINGS = """
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
vm_memory_high_watermark.absolute = {memory}
disk_free_limit.absolute = {disk}
log.console = false
log.file.level = warning
"""


def rabbit_binaries() -> Path | None:
    """The folder of the installed RabbitMQ's scripts; None without one, or without Erlang."""
    if shutil.which("epmd") is None or shutil.which("erl") is None:
        return None
    found = [Path(folder) for folder in _FOLDERS if Path(folder, "rabbitmq-server").exists()]
    return found[0] if found else None


class PrivateRabbit(PrivateServer):
    """One node with its own ports, cookie, epmd and data, which outlive ``stop`` and ``kill`` until it is closed.

    Everything here blocks (a boot takes about seven seconds, a ``ctl`` one): inside a loop use ``asyncio.to_thread``.
    """

    def __init__(self, settings: str = "") -> None:
        binaries = rabbit_binaries()
        assert binaries is not None, "RabbitMQ is not installed"
        self._binaries = binaries
        super().__init__("rabbit")
        self.port, self._distribution, self._epmd_port = free_port(), free_port(), free_port()
        self.node = f"pythia{self.port}@localhost"
        self._env = self._environment()
        self._write_files(settings)
        epmd = shutil.which("epmd")
        assert epmd is not None
        command = (epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1")
        self._epmd = Started(command, env=self._env, output=self.folder / "epmd.log")

    @property
    def url(self) -> str:
        return self.url_of("guest", "guest")

    def url_of(self, user: str, password: str, vhost: str = "/") -> str:
        """The URL with which ``user`` connects."""
        path = "" if vhost == "/" else quote(vhost, safe="")
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}/{path}"

    def _started(self) -> Started:
        script = self._binaries / "rabbitmq-server"
        server = Started((script,), env=self._env, output=self.folder / "server.log")
        server.wait_until(lambda: amqp_serves("127.0.0.1", self.port))
        self.ctl("await_startup")  # on a busy machine it listens before it can be told anything
        return server

    def close(self) -> None:
        self.kill()
        self._epmd.kill()
        super().close()

    def ctl(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` prints."""
        command = (self._binaries / "rabbitmqctl", "-q", "-n", self.node, *arguments)
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def close_all_connections(self, reason: str = "closed by a test") -> None:
        self.ctl("close_all_connections", reason)

    def memory_alarm(self, on: bool) -> None:
        """While on, connections that publish are blocked."""
        self.ctl("set_vm_memory_high_watermark", *(("0.000001",) if on else ("absolute", _MEMORY)))

    def disk_alarm(self, on: bool) -> None:
        """The same for want of disk."""
        self.ctl("set_disk_free_limit", "999999GB" if on else _DISK)

    def add_user(self, name: str, password: str, permissions: Sequence[str] = (".*",) * 3, vhost: str = "/") -> None:
        """``permissions`` are the patterns for configure, write and read."""
        self.ctl("add_user", name, password)
        self.set_permissions(name, permissions, vhost)

    def set_permissions(self, name: str, permissions: Sequence[str], vhost: str = "/") -> None:
        self.ctl("set_permissions", "-p", vhost, name, *permissions)

    def change_password(self, name: str, password: str) -> None:
        self.ctl("change_password", name, password)

    def add_vhost(self, name: str) -> None:
        """A vhost that guest may use."""
        self.ctl("add_vhost", name)
        self.set_permissions("guest", (".*",) * 3, name)

    def list_queues(self, *columns: str, vhost: str = "/") -> list[dict[str, Any]]:
        return self._listed("list_queues", "-p", vhost, *(columns or ("name", "messages", "consumers", "type")))

    def list_connections(self, *columns: str) -> list[dict[str, Any]]:
        return self._listed("list_connections", *(columns or ("pid", "user", "state")))

    def delete_queue(self, name: str, vhost: str = "/") -> None:
        self.ctl("delete_queue", "-p", vhost, name)

    def _listed(self, *arguments: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.ctl("--formatter", "json", *arguments))
        return rows

    def _environment(self) -> dict[str, str]:
        at = self.folder
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(at),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONFIG_FILE": f"{at}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{at}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{at}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{at}/mnesia",
            "RABBITMQ_LOG_BASE": f"{at}/log",
            "RABBITMQ_LOGS": f"{at}/log/rabbit.log",
            "RABBITMQ_PID_FILE": f"{at}/pid",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{at}/generated",
            "RABBITMQ_SCHEMA_DIR": f"{at}/schema",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +A 4 +sbwt none",
        }

    def _write_files(self, settings: str) -> None:
        at = self.folder
        (at / "rabbitmq.conf").write_text(_SETTINGS.format(port=self.port, memory=_MEMORY, disk=_DISK) + settings)
        (at / "advanced.config").write_text("[{kernel,[{inet_dist_use_interface,{127,0,0,1}}]}].\n")
        (at / "enabled_plugins").write_text("[].\n")
        (at / ".erlang.cookie").write_text(f"PYTHIA{os.urandom(12).hex()}")
        (at / ".erlang.cookie").chmod(0o400)
