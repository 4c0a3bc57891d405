"""Every credential a canary, a worker in trouble, and not one of them anywhere: log, probes, dead letters, dumps, commands.

``tests/acceptance/test_secrets.py`` does this for brokers that are not there; here they are, and it is the handlers that quote
their configuration, the connections that are cut, and the password that is changed while the worker runs.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import pickle
import signal
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pythia import WorkerConfig
from tests.acceptance.service_kit import DEADLINE, PYTHIA, Service, until
from tests.faults.effects import HANDLER
from tests.faults.probes import QUEUE, QUICK
from tests.faults.venues import RabbitVenue, RedisVenue, venue_of

CANARY = "c4n4ry"
PASSWORD, OTHER = f"{CANARY}-broker", f"{CANARY}-changed"
TOKEN, GUESS, API_KEY = f"{CANARY}-admin", f"{CANARY}-guess", f"{CANARY}-api-key"

WORKER = (
    HANDLER
    + """
from pydantic import SecretStr
from pythia import WorkerConfig

class ShopConfig(WorkerConfig):
    api_key: SecretStr = SecretStr("")

class App(Worker):
    config_class = ShopConfig
    retry = RetryPolicy(base_seconds=0.2, jitter=0.0, max_attempts=2)

    async def process_message(self, message):
        note("start", message)
        config, broker, dumped = self.config, self.config.broker, self.config.model_dump()
        match message.body:
            case "quotes":
                raise RuntimeError(f"{config} {config!r} {broker} {broker.url} {config.http} {dumped} {vars(config)}")
            case "prints":
                print(config, broker.url, self, message, config.pythia_origins())
                self.logger.error("trouble", config=config, url=broker.url, key=config.api_key)
            case "rejects":
                raise Reject(f"{config.api_key} {broker.display_url}")
            case "attribute":
                raise AttributeError(name=repr(config), obj=config)
            case "nested":
                try:
                    raise KeyError(config)
                except KeyError as error:
                    raise ExceptionGroup("several", [error, ValueError(str(dumped))]) from error
            case "publishes":
                await self.publish("elsewhere", {1, config.broker})
        note("end", message)
"""
)
BODIES = ["quotes", "prints", "rejects", "attribute", "nested", "publishes", "fine"]


@pytest.fixture(params=["sqlite", "rabbitmq", "redis-stream", "redis-list"])
def venue(request: pytest.FixtureRequest) -> Iterator[RabbitVenue | RedisVenue | None]:
    """None: SQLite, which has no password."""
    if request.param == "sqlite":
        yield None
        return
    with venue_of(request.param) as venue:
        yield venue


def set_password(venue: RabbitVenue | RedisVenue, password: str) -> str:
    """The URL of the user ``shop``, who has this password from now on."""
    if isinstance(venue, RabbitVenue):
        if "shop" not in venue.rabbit.ctl("list_users"):
            venue.rabbit.ctl("add_user", "shop", password)
        venue.rabbit.change_password("shop", password)
        venue.rabbit.set_permissions("shop", (".*",) * 3, venue.vhost)
        return venue.rabbit.url_of("shop", password, venue.vhost)
    venue.redis.cli("ACL", "SETUSER", "shop", "reset", "on", f">{password}", "~*", "&*", "+@all")
    return venue.url.replace("redis://", f"redis://shop:{password}@")


def assert_clean(what: str, text: str) -> None:
    found = [line for line in text.splitlines() if CANARY in line.lower()]
    assert not found, f"{what}: {found[0][:300]}"


class Shop:
    """A place whose processes have every credential there is; the broker's in a file."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        (folder / "app.py").write_text(WORKER)
        (folder / "url").write_text(url)
        (folder / "url").chmod(0o600)
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("PYTHIA_")}
        self._environment = theirs | QUICK | {"PYTHIA_HTTP__ADMIN_TOKEN": TOKEN, "PYTHIA_BROKER__URL_FILE": "url"}

    def start(self, log_format: str) -> Service:
        more = {"PYTHIA_API_KEY": API_KEY, "PYTHONASYNCIODEBUG": "1", "PYTHONUNBUFFERED": "1"}
        command = [*PYTHIA, "run", "app:App", "--port", "0", "--log-level", "debug", "--log-format", log_format]
        environment = self._environment | more
        with_pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return Service(subprocess.Popen(command, cwd=self._folder, env=environment, **with_pipe))

    def says(self, *arguments: str, stdin: str = "") -> str:
        """What a command prints."""
        command, place = [*PYTHIA, *arguments], {"cwd": self._folder, "env": self._environment}
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False, **place
        )
        return done.stdout + done.stderr

    def effects(self) -> str:
        path = self._folder / "effects"
        return path.read_text() if path.exists() else ""


def posted(service: Service, path: str, token: str) -> str:
    """What an admin route answers to somebody with this token."""
    where = urlsplit(service.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    try:
        connection.request("POST", f"{path}?token={token}", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def look_everywhere(service: Service) -> None:
    """Its routes, its process, and what those say who may, or may not, tell it what to do."""
    for path in ("/health", "/readyz", "/livez", "/startupz", "/metrics", "/config", "/", "/nowhere"):
        assert_clean(path, service.ask(path)[1])
    for path in ("/pause", "/resume", "/nowhere"):
        for token in (GUESS, TOKEN):
            assert_clean(f"POST {path}", posted(service, path, token))
    for shown in ("cmdline", "comm", "status"):
        assert_clean(shown, Path(f"/proc/{service.pid}/{shown}").read_text())


COMMANDS = [
    *(("check", "--json"), ("queues", "--json"), ("queues",), ("dead", "list", QUEUE), ("dead", "export", QUEUE)),
    *(("config", "show", "--origin"), ("config", "show", "--json"), ("-v", "dead", "show", QUEUE, "no such id")),
]


def test_no_credential_is_shown_by_a_worker_in_trouble(venue: RabbitVenue | RedisVenue | None, tmp_path: Path) -> None:
    url = "sqlite:///queue.db" if venue is None else set_password(venue, PASSWORD)
    shop = Shop(tmp_path, url)
    service = shop.start("json")
    try:
        service.wait_for("consumer.registered")
        assert_clean("publish", shop.says("publish", QUEUE, "-", "--lines", stdin="\n".join(map(json.dumps, BODIES))))
        service.wait_for("message.dead", count=4)
        service.signal(signal.SIGUSR2)
        look_everywhere(service)
        for command in COMMANDS:
            assert_clean(" ".join(command), shop.says(*command))
        assert_clean("check", shop.says("check", "app:App"))
        letters = [json.loads(line) for line in shop.says("dead", "export", QUEUE).splitlines()]
        assert len(letters) >= 4  # on RabbitMQ nobody takes what was published
        assert any("**********" in letter["error"]["message"] for letter in letters), "they did quote it"
        if venue is not None:
            in_trouble(service, venue, shop)
        service.stop()
    finally:
        service.kill()
    said = "".join(service.text)
    assert_clean("the log", said)
    assert_clean("the effects", shop.effects())
    assert "**********" in said


def in_trouble(service: Service, venue: RabbitVenue | RedisVenue, shop: Shop) -> None:
    """Its connections are cut, and then it is not let in any more."""
    venue.cut()
    service.wait_for("broker.lost")
    service.wait_for("broker.connected", count=2)
    set_password(venue, OTHER)
    venue.cut()
    service.wait_for("broker.refused")
    look_everywhere(service)
    for command in COMMANDS[:2]:
        assert_clean(f"refused: {' '.join(command)}", shop.says(*command))


def test_a_console_log_shows_no_credential_either(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "redis://shop:c4n4ry@127.0.0.1:1/0")
    service = shop.start("console")
    try:
        until(lambda: any("broker.lost" in line or "lost" in line for line in service.text), "it says so")
        service.signal(signal.SIGUSR2)
        service.signal(signal.SIGTERM)
        service.ended()
    finally:
        service.kill()
    assert_clean("the console", "".join(service.text))


def test_no_form_of_a_configuration_but_its_pickle_holds_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle is the configuration, on its way to another process of ours."""
    monkeypatch.setenv("PYTHIA_BROKER__URL", f"amqp://shop:{PASSWORD}@host/")
    monkeypatch.setenv("PYTHIA_HTTP__ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("PYTHIA_DEDUP__STORE_URL", f"redis://:{PASSWORD}@host/0")
    config = WorkerConfig.load(os.devnull)
    changed = config.model_copy()
    for one in (config, changed, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        for form in (repr, str, vars, "{}".format, lambda one: one.model_dump(), lambda one: one.model_dump_json()):
            assert_clean(str(form), repr(form(one)))
        for section in (one.broker, one.http, one.dedup):
            assert_clean("a section", f"{section} {section!r} {section.model_dump_json()}")
        assert_clean("origins", repr(one.pythia_origins()))
        assert one.broker.url.get_secret_value().count(PASSWORD) == 1
    try:
        _use(config)
    except ZeroDivisionError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert_clean("a traceback with locals", "".join(shown.format()))


def _use(config: WorkerConfig) -> None:
    broker, url = config.broker, config.broker.url
    raise ZeroDivisionError(f"with {broker} and {url} in hand")


def test_a_canary_that_is_shown_is_found() -> None:
    with pytest.raises(AssertionError, match="the log"):
        assert_clean("the log", f"x\ny {PASSWORD.upper()}\n")
