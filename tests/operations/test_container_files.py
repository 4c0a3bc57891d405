"""Dockerfile and docker-compose.yml, read: what holds without an engine. test_compose.py runs them."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from pythia.config import WorkerConfig

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what they are given, of the last stage and those before."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def last_stage() -> dict[str, list[str]]:
    everything = instructions()
    begin = max(at for at, (name, _) in enumerate(everything) if name == "FROM")
    found: dict[str, list[str]] = {}
    for name, rest in everything[begin:]:
        found.setdefault(name, []).append(rest)
    return found


def test_the_image_starts_no_shell():
    stage = last_stage()
    assert "RUN" not in stage
    assert json.loads(stage["ENTRYPOINT"][0]) == ["pythia"]
    assert json.loads(stage["CMD"][0]) == ["run", "pythia.examples.orders:OrderWorker"]
    assert json.loads(stage["HEALTHCHECK"][0].partition("CMD ")[2]) == ["pythia", "health", "--live"]


def test_the_image_runs_as_nobody_in_particular_and_stops_on_sigterm():
    stage = last_stage()
    assert stage["USER"] == ["10001:10001"]
    assert stage["STOPSIGNAL"] == ["SIGTERM"]
    labels = set(re.findall(r"(org\.opencontainers\.image\.[a-z.]+)=", stage["LABEL"][0]))
    assert {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")} <= labels


def test_what_goes_into_the_image_is_locked_by_hash():
    commands = [part for name, rest in instructions() if name == "RUN" for part in rest.split("&&")]
    installs = [part for part in commands if re.search(r"pip\b.*\b(install|wheel)\b", part)]
    remote = [part for part in installs if "--no-deps" not in part]
    assert remote
    assert all("--require-hashes" in part and "--only-binary :all:" in part for part in remote)
    local = [part for part in installs if part not in remote]
    assert all("--no-build-isolation" in part or "--no-index" in part for part in local), "nothing is fetched unseen"
    for lock in ("runtime", "build"):
        assert "--hash=sha256:" in (ROOT / "requirements" / f"{lock}.txt").read_text()


def test_the_build_is_given_what_it_copies_and_no_more():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / path).exists() for path in copied)
    assert not [path for path in allowed if any(fnmatch(path, secret) for secret in ("*.env", ".git*", "*.db"))]


def test_the_configuration_in_the_image_is_one_that_the_worker_takes():
    config = WorkerConfig.load(str(ROOT / "config" / "container" / "pythia.toml"))
    assert config.broker.url.get_secret_value() == "sqlite:////data/pythia.db"
    assert last_stage()["VOLUME"] == ["/data"]


def test_a_password_that_is_mounted_as_a_file_wins_over_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broker_url").write_text("amqp://shop:s3cret@rabbitmq/\n")
    monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", str(tmp_path / "broker_url"))
    config = WorkerConfig.load(str(ROOT / "config" / "container" / "pythia.toml"))
    assert config.broker.url.get_secret_value() == "amqp://shop:s3cret@rabbitmq/"


def test_no_variable_of_the_image_or_of_a_service_is_one_that_a_command_would_refuse(monkeypatch: pytest.MonkeyPatch):
    """`docker compose exec worker pythia publish` sees them too."""
    (environment,) = last_stage()["ENV"]
    image = dict(word.partition("=")[::2] for word in environment.split())
    for name, service in SERVICES.items():
        if name.startswith("worker"):
            with monkeypatch.context() as patch:
                for key, value in {**image, **service["environment"]}.items():
                    if key.startswith("PYTHIA_"):
                        patch.setenv(key, value)
                assert WorkerConfig().http.host == "0.0.0.0"


def test_what_runs_without_a_profile_is_the_worker_its_broker_and_what_watches_them():
    assert "version" not in COMPOSE
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert {name for name, of in profiles.items() if not of} == {"worker", "rabbitmq", "prometheus", "grafana"}
    assert {name for name, of in profiles.items() if of == ["redis"]} == {"redis", "worker-redis"}
    assert {name for name, of in profiles.items() if of == ["embedded"]} == {"worker-embedded"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_confined_and_bounded(name: str):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD", "no shell"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == "40s"
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert all(
        SERVICES[other]["healthcheck"] and how == {"condition": "service_healthy"}
        for other, how in service.get("depends_on", {}).items()
    )


def test_every_volume_of_a_service_is_declared_and_every_mounted_file_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).is_dir() if source.startswith("./") else source in COMPOSE["volumes"]


def test_images_of_others_are_of_one_version():
    images = [service["image"] for name, service in SERVICES.items() if not name.startswith("worker")]
    assert all(re.fullmatch(r"[a-z/]+:v?\d[\w.-]*", image) for image in images), images


def test_no_password_is_fixed():
    """Each can be set from outside; what is written here is for this machine."""
    text = (ROOT / "docker-compose.yml").read_text()
    assert text.count("local-only") == text.count(":-local-only}")


def test_the_worker_that_the_image_runs_is_one():
    module, _, attribute = json.loads(last_stage()["CMD"][0])[1].partition(":")
    worker = getattr(importlib.import_module(module), attribute)
    assert worker.queue == "orders"


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_reads_the_file():
    command = ["docker-compose", "-f", ROOT / "docker-compose.yml", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
