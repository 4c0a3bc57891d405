"""A container engine for the tests: the machine's, or one of their own; and images, the official ones or stand-ins.

Where no engine answers and we are root, ``dockerd`` is started with a data root of its own, and nothing of it is left. Where
an image can neither be found nor pulled, a stand-in takes its name: Debian's package of the same server on a base made by
``debootstrap``. A stand-in for Grafana draws nothing: it only reads what it is provisioned with.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.processes import Started

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "python:3.13-slim"
BUILD_SECONDS, PULL_SECONDS = 900.0, 300.0
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INSTALL = "apt-get install -y --no-install-recommends docker.io docker-compose debootstrap"

_APT = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
_GRAFANA = """\
import http.server, json, os, pathlib
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            json.loads(pathlib.Path(os.environ["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).read_text())
            assert len(list(pathlib.Path("/etc/grafana/provisioning").glob("*/*.yml"))) == 2
            pathlib.Path("/var/lib/grafana/grafana.db").touch()
            self.send_response(200)
        except Exception as error:
            print(error, flush=True)
            self.send_response(503)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 3000), Answer).serve_forever()
"""
# Image → what its stand-in is made by, on top of the base. Without the tag: it stands in for any.
STANDINS = {
    "rabbitmq": f"""
        RUN {_APT} rabbitmq-server \\
            && rabbitmq-plugins enable --offline rabbitmq_management \\
            && chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /etc/rabbitmq
        ENV PATH=/usr/lib/rabbitmq/bin:$PATH HOME=/var/lib/rabbitmq LANG=C.UTF-8 \\
            RABBITMQ_LOGS=- RABBITMQ_LOG_BASE=/var/lib/rabbitmq/log
        VOLUME /var/lib/rabbitmq
        CMD ["rabbitmq-server"]
        """,
    "redis": f"""
        RUN {_APT} redis-server && mkdir /data && chown redis:redis /data
        VOLUME /data
        WORKDIR /data
        """,
    "prom/prometheus": f"""
        RUN {_APT} wget && cd /tmp && apt-get -qq download prometheus && dpkg -x prometheus_*.deb x \\
            && cp x/usr/bin/prom* /bin/ && rm -r x *.deb && mkdir /prometheus && chown nobody /prometheus
        USER nobody
        VOLUME /prometheus
        ENTRYPOINT ["/bin/prometheus"]
        """,
    "grafana/grafana": f"""
        RUN {_APT} wget && useradd --uid 472 grafana && mkdir /var/lib/grafana && chown grafana /var/lib/grafana
        COPY server.py /server.py
        USER grafana
        VOLUME /var/lib/grafana
        ENTRYPOINT ["python3", "/server.py"]
        """,
}


class EngineError(Exception):
    """There is no engine, or it could not do what it was asked; the text says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A container engine that answers, and the client that talks to it."""

    docker: str
    compose: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, *command: str, seconds: float = BUILD_SECONDS, stdin: str | None = None) -> str:
        """What ``docker COMMAND`` prints."""
        return _run([self.docker, *command], env=self.env, seconds=seconds, stdin=stdin)

    def inspect(self, name: str) -> dict[str, Any]:
        return json.loads(self.run("inspect", name))[0]

    def has(self, image: str) -> bool:
        with contextlib.suppress(EngineError):
            self.run("image", "inspect", image)
            return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The services of docker-compose.yml under a name of their own, at ports of their own."""

    engine: Engine
    name: str
    files: Sequence[Path]
    env: Mapping[str, str]

    def __call__(self, *command: str, seconds: float = BUILD_SECONDS, stdin: str | None = None) -> str:
        """What ``docker compose COMMAND`` prints."""
        files = [word for file in self.files for word in ("-f", str(file))]
        whole = [*self.engine.compose, "-p", self.name, "--project-directory", str(ROOT), *files, *command]
        return _run(whole, env={**self.engine.env, **self.env}, seconds=seconds, stdin=stdin)

    def pythia(self, *arguments: str) -> str:
        """What ``pythia ARGUMENTS`` prints in the worker's container."""
        return self("exec", "-T", "worker", "pythia", *arguments, seconds=60)

    def container(self, service: str) -> dict[str, Any]:
        """Everything that the engine knows of the service's one container."""
        (identity,) = self("ps", "-q", service).split()
        return self.engine.inspect(identity)

    def close(self) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout", "5")


def _run(command: Sequence[str], *, env: Mapping[str, str], seconds: float, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **env, "DOCKER_BUILDKIT": "0"},  # a builder of its own would be pulled
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise EngineError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """The machine's engine, else one of our own.

    Raises:
        EngineError: neither can be had.
    """
    docker = shutil.which("docker")
    if docker is None:
        raise EngineError(f"no docker command; on Debian: {INSTALL}")
    here = Engine(docker=docker, compose=_compose(docker))
    if _answers(here):
        yield here
        return
    dockerd = shutil.which("dockerd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if os.geteuid() != 0 or dockerd is None:
        raise EngineError(f"no container engine answers, and none can be started; on Debian, as root: {INSTALL}")
    with _network_as_it_is(), _started(dockerd, here) as own:
        yield own


def _compose(docker: str) -> Sequence[str]:
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return (docker, "compose")
    if found := shutil.which("docker-compose"):
        return (found,)
    raise EngineError(f"neither `docker compose` nor docker-compose; on Debian: {INSTALL}")


def _answers(candidate: Engine) -> bool:
    try:
        candidate.run("version", seconds=20)
    except EngineError:
        return False
    return True


@contextlib.contextmanager
def _started(dockerd: str, client: Engine) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="pythia-dockerd-"))
    host = f"unix://{folder}/docker.sock"
    roots = ("--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid")
    command = [dockerd, *roots, "--host", host, "--containerd-namespace", folder.name]
    server = Started(command, env=dict(os.environ), output=folder / "log")
    own = Engine(docker=client.docker, compose=client.compose, env={"DOCKER_HOST": host})
    try:
        server.wait_until(lambda: _answers(own))
        yield own
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _network_as_it_is() -> Iterator[None]:
    """Afterwards no bridge and no firewall rule is left of an engine."""
    bridge = Path("/sys/class/net/docker0")
    was_there, kept = bridge.exists(), {}
    for tool in ("iptables", "ip6tables"):
        with contextlib.suppress(EngineError):
            kept[tool] = _run([f"{tool}-save"], env={}, seconds=20)
    try:
        yield
    finally:
        for tool, rules in kept.items():
            with contextlib.suppress(EngineError):
                _run([f"{tool}-restore"], env={}, seconds=20, stdin=rules)
        if bridge.exists() and not was_there:
            with contextlib.suppress(EngineError):
                _run(["ip", "link", "delete", "docker0"], env={}, seconds=20)


def provide(engine: Engine, images: Sequence[str]) -> dict[str, str]:
    """See to it that each image is there; for each, ``here``, ``pulled`` or ``stand-in``.

    Raises:
        EngineError: one can neither be found, nor pulled, nor made.
    """
    return {image: _provided(engine, image) for image in (PYTHON, *images)}


def _provided(engine: Engine, image: str) -> str:
    if engine.has(image):
        return "here"
    with contextlib.suppress(EngineError):
        engine.run("pull", "--quiet", image, seconds=PULL_SECONDS)
        return "pulled"
    if image == PYTHON:
        _make_base(engine)
    else:
        with tempfile.TemporaryDirectory() as folder:
            recipe = STANDINS[image.partition(":")[0]].replace("\n        ", "\n")
            (Path(folder) / "Dockerfile").write_text(f"FROM {PYTHON}\n{recipe}")
            (Path(folder) / "server.py").write_text(_GRAFANA)
            engine.run("build", "--quiet", "--tag", image, folder)
    return "stand-in"


def _make_base(engine: Engine) -> None:
    """What Debian has of Python, under the official name; it trusts whom this machine trusts."""
    debootstrap = shutil.which("debootstrap", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if os.geteuid() != 0 or debootstrap is None:
        raise EngineError(f"{PYTHON} can be neither pulled nor made here; on Debian, as root: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="pythia-base-") as folder:
        base = Path(folder, "base")
        packages = "python3,python3-venv,python3-pip,ca-certificates"
        _run(
            [debootstrap, "--variant=minbase", f"--include={packages}", _suite(), str(base)],
            env={},
            seconds=BUILD_SECONDS,
        )
        shutil.copy(CERTIFICATES, base / "etc/ssl/certs/ca-certificates.crt")
        (base / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
        _run(["tar", "-C", str(base), "-cf", f"{folder}/base.tar", "."], env={}, seconds=BUILD_SECONDS)
        engine.run("import", f"{folder}/base.tar", PYTHON)


@functools.cache
def _suite() -> str:
    """The Debian release of this machine."""
    lines = Path("/etc/os-release").read_text().splitlines()
    said = dict(line.partition("=")[::2] for line in lines)
    return said["VERSION_CODENAME"].strip('"')
