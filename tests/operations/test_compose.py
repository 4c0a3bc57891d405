"""`docker compose up --build`, for real: what docs/operations.md says of it, and that kills of worker and broker lose nothing.

It takes minutes and a container engine, so it runs in `./dev soak`, and in `./dev test` where PYTHIA_TEST_DOCKER=1 is set; then
a missing engine fails it, else it is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
import yaml

from pythia import PythiaError, SyncPublisher
from tests.kit.processes import free_port
from tests.operations import dashboards
from tests.operations.engine import PYTHON, ROOT, Engine, EngineError, Project, engine, provide

ASKED = os.environ.get("PYTHIA_TEST_DOCKER") == "1"
pytestmark = [pytest.mark.timeout(1800), *([] if ASKED else [pytest.mark.soak])]

SERVICES = ("worker", "rabbitmq", "prometheus", "grafana")
UNTOLD = (
    "pythia_queue_oldest_age",
    "pythia_lease_renewals",
    "pythia_process_restarts",
)  # by RabbitMQ, and without a supervisor
SECONDS = 180.0
RECEIPTS = "receipts"
QUIET = """\
# The example without customers of its own, and with receipts that can be counted.
services:
  worker:
    environment:
      PYTHIA_SINK: receipts
      ORDERS_PER_SECOND: "0"
"""


@pytest.fixture(scope="module")
def docker() -> Iterator[Engine]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(engine())
            provide(found, [services[name]["image"] for name in SERVICES if name != "worker"])
        except EngineError as error:
            (pytest.fail if ASKED else pytest.skip)(f"docker compose was not run: {error}")
        yield found


@pytest.fixture(scope="module")
def project(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The services, built from the Dockerfile."""
    quiet = tmp_path_factory.mktemp("compose") / "quiet.yml"
    quiet.write_text(QUIET)
    ports = ("RABBITMQ_PORT", "RABBITMQ_UI_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
    made = Project(
        engine=docker,
        name=f"pythia-test-{secrets.token_hex(3)}",
        files=[ROOT / "docker-compose.yml", quiet],
        env={name: str(free_port()) for name in ports},
    )
    try:
        made("up", "--detach", "--build")
        yield made
    finally:
        made.close()


@pytest.fixture
def house(project: Project) -> Project:
    """The services, all of them healthy."""
    project("up", "--detach")
    until(lambda: all(health(project, service) == "healthy" for service in SERVICES), "every service is healthy")
    return project


def health(project: Project, service: str) -> str:
    return project.container(service)["State"]["Health"]["Status"]


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        time.sleep(0.5)


def url(project: Project) -> str:
    return f"amqp://pythia:local-only@127.0.0.1:{project.env['RABBITMQ_PORT']}/"


def orders(count: int, seconds: float = 0.02) -> Iterator[dict[str, Any]]:
    return ({"id": 20 * number + 1, "sku": "b-7", "seconds": seconds} for number in range(count))


class Receipts:
    """The orders whose receipts have come to the sink, read from the broker by a client that is not ours."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._ids: set[int] = set()

    def read(self) -> set[int]:
        connection = pika.BlockingConnection(pika.URLParameters(url(self._project)))
        try:
            channel = connection.channel()
            while True:
                method, _, body = channel.basic_get(RECEIPTS)
                if method is None:
                    return self._ids
                self._ids.add(json.loads(body)["order"])
                channel.basic_ack(method.delivery_tag)
        finally:
            connection.close()

    def has(self, wanted: set[int]) -> bool:
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            return wanted <= self.read()
        return False


def asked(project: Project, path: str, **query: str) -> Any:
    """What Prometheus answers."""
    address = f"http://127.0.0.1:{project.env['PROMETHEUS_PORT']}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=30) as response:
        answer = json.load(response)
    assert answer["status"] == "success", answer
    return answer["data"]


def test_a_message_that_is_published_by_the_line_of_the_documentation_is_processed(house: Project):
    line = r"docker compose exec worker pythia publish orders '(\{.*\})'"
    receipts = Receipts(house)
    for page in ("README.md", "docs/operations.md"):
        body = re.findall(line, (ROOT / page).read_text())[0]
        house.pythia("publish", "orders", body)
        until(lambda body=body: receipts.has({json.loads(body)["id"]}), "its receipt")


def test_prometheus_scrapes_the_worker_and_the_dashboard_is_filled(house: Project):
    with SyncPublisher(url(house)) as publisher:
        publisher.publish_many("orders", orders(50))
        publisher.publish("orders", {"id": 1, "sku": "unknown"})

    def counted(expression: str) -> float:
        return sum(float(row["value"][1]) for row in asked(house, "query", query=expression)["result"])

    until(lambda: counted('up{job="pythia"}') == 1, "the worker is scraped")
    until(
        lambda: counted('pythia_messages_processed_total{queue="orders", outcome="ack"}') >= 50,
        "what it did is counted",
    )
    until(lambda: counted('pythia_queue_depth{queue="orders", state="dead"}') >= 1, "the dead letter is counted")
    expressions = dashboards.expressions()
    assert expressions
    untold = {text for text in expressions if any(name in text for name in UNTOLD)}

    def empty() -> set[str]:
        return {text for text in expressions if not asked(house, "query", query=text)["result"]}

    until(lambda: empty() <= untold, "everything shows something, but for what this broker and one process cannot tell")
    rules = [rule for group in asked(house, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["name"] for rule in rules} == {alert["alert"] for alert in dashboards.alerts()}


@pytest.mark.parametrize("victim", ["worker", "rabbitmq"])
def test_a_kill_loses_nothing(house: Project, victim: str):
    receipts, confirmed, dead = Receipts(house), set[int](), dead_in(house)
    bodies = [
        {"id": 20 * (number + secrets.randbelow(10**9)) + 1, "sku": "a-1", "seconds": 0.2} for number in range(300)
    ]
    publisher = SyncPublisher(url(house))
    try:
        for number, body in enumerate(bodies):
            if number == len(bodies) // 2:
                house("kill", "-s", "SIGKILL", victim)
            try:
                publisher.publish("orders", body, timeout=5)
            except PythiaError:  # nobody has promised anything for this one
                break
            confirmed.add(body["id"])
        else:
            assert victim == "worker"
        assert len(confirmed) >= len(bodies) // 2
    finally:
        with contextlib.suppress(PythiaError):
            publisher.close()
    assert house.engine.run("ps", "--all", "--filter", f"name={house.name}", "--filter", "exited=137").count("\n") == 2
    house("up", "--detach")
    until(lambda: receipts.has(confirmed), "a receipt for every order that was confirmed")
    assert dead_in(house) == dead


def dead_in(project: Project) -> int:
    (row,) = json.loads(project.pythia("queues", "orders", "--json"))["queues"]
    return row["dead"]


def test_stop_lets_what_runs_come_to_its_end_within_the_grace(house: Project):
    receipts = Receipts(house)
    wanted = [body | {"id": body["id"] + 10**6} for body in orders(10, seconds=8.0)]
    with SyncPublisher(url(house)) as publisher:
        publisher.publish_many("orders", wanted)
    in_flight = 'pythia_messages_in_flight{queue="orders"} 10.0'
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    until(lambda: in_flight in in_worker(house, read).replace(',worker="order-worker"', ""), "all ten run")
    began = time.monotonic()
    house("stop", "worker")
    seconds, state = time.monotonic() - began, house.container("worker")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert seconds < 40
    assert receipts.read() >= {body["id"] for body in wanted}, "they were done before it ended"
    last = json.loads(house("logs", "--no-color", "--tail", "1", "worker").strip().splitlines()[-1].partition("| ")[2])
    assert (last["event"], last["exit_code"]) == ("worker.stopped", 0)


def in_worker(project: Project, script: str) -> str:
    return project("exec", "-T", "worker", "python3", "-c", script, seconds=60)


def test_the_worker_runs_without_privileges_on_a_root_that_cannot_be_written(house: Project):
    status = in_worker(house, "print(open('/proc/1/status').read())")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert facts["Gid"].split() == ["10001"] * 4
    assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    script = """
import errno
for path in ("/here", "/app/here", "/opt/pythia/here", "/etc/here"):
    try:
        open(path, "w")
    except OSError as error:
        print(path, errno.errorcode[error.errno])
open("/data/here", "w").close()
open("/tmp/here", "w").close()
"""
    said = dict(line.split() for line in in_worker(house, script).splitlines())
    assert said == dict.fromkeys(("/here", "/app/here", "/opt/pythia/here", "/etc/here"), "EROFS")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_confined_and_bounded(house: Project, service: str):
    container = house.container(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert not host["Privileged"]
    assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0
    assert container["Config"]["User"] not in ("", "0", "root")
    assert container["Config"]["StopTimeout"] == 40
    ports = [binding for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
    assert {binding["HostIp"] for binding in ports} <= {"127.0.0.1"}


def test_the_image_is_what_it_says(house: Project):
    image = house.engine.inspect("pythia-worker")
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["pythia"]
    assert config["Healthcheck"]["Test"] == ["CMD", "pythia", "health", "--live"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Labels"]["org.opencontainers.image.title"] == "pythia-worker"
    base = house.engine.inspect(PYTHON)
    assert image["Size"] - base["Size"] < 80 * 1024**2
    said = in_worker(house, "import importlib.util as u, os; print(u.find_spec('pip'), sorted(os.listdir('/app')))")
    assert said.split() == ["None", "['config']"]


def test_the_embedded_worker_and_the_one_on_redis_run_too(house: Project, request: pytest.FixtureRequest):
    provide(house.engine, [yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["image"]])
    others = ("worker-redis", "worker-embedded")
    redis = {"REDIS_PORT": str(free_port()), "ORDERS_PER_SECOND": "5"}
    more = Project(engine=house.engine, name=f"{house.name}-more", files=house.files[:1], env={**house.env, **redis})
    request.addfinalizer(more.close)
    more("--profile", "redis", "--profile", "embedded", "up", "--detach", *others)
    until(lambda: all(health(more, service) == "healthy" for service in others), "both are healthy")
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    done = re.compile(r'pythia_messages_processed_total\{outcome="ack",.*\} ([1-9]\d*)\.0')
    for service in others:
        until(
            lambda service=service: done.search(more("exec", "-T", service, "python3", "-c", read)), "orders are packed"
        )
