"""The HTTP surface as a prober, a scraper, an operator and an attacker meet it: a real server on a free port."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pythia.config import WorkerConfig, plan
from pythia.core.events import Notice, TaskFailed
from pythia.core.metrics import Metrics
from pythia.core.reloading import Reloaded
from pythia.core.state import WorkerState
from pythia.core.status import Connection, Status
from pythia.core.tally import Tally
from pythia.errors import LifecycleError
from pythia.http import app as app_module
from pythia.http import serving as serving_module
from pythia.http.server import HttpServer, listen
from pythia.message import Delivery, Envelope
from pythia.observability.watchdog import Watchdog

DEADLINE = 20.0
TOKEN = "s3cret-tökén"


class Control:
    def __init__(self):
        self.calls = []
        self.error = None
        self.reloaded = None

    def pause(self):
        self._do("pause")

    def resume(self):
        self._do("resume")

    def reload(self):
        self._do("reload")
        answer = Future()
        if self.reloaded is not None:
            answer.set_result(self.reloaded)
        return answer

    def planned(self):
        self._do("planned")
        return self.reloaded

    def _do(self, what):
        if self.error is not None:
            raise self.error
        self.calls.append(what)


class Served:
    """A server, what it serves, and ways to ask it."""

    def __init__(self, status):
        self.status, self.control, self.events = status, Control(), []
        self.server = HttpServer("127.0.0.1", 0, status=status, control=self.control, emit=self.events.append)
        self.port = self.server.start()

    def ask(self, method, path, headers=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def json(self, method, path, headers=None):
        response, body = self.ask(method, path, headers)
        assert response.getheader("Content-Type") == "application/json; charset=utf-8"
        return response.status, json.loads(body)

    def raw(self, data):
        """Send bytes; whatever comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(data)
            return drained(connection)


def drained(connection):
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def make_status(**config):
    status = Status(
        WorkerConfig(worker_name="orders", worker_id="o-1", broker={"url": "amqp://shop:hunter2@rabbitmq/"}, **config),
        Tally(),
        Metrics(),
    )
    status.state = WorkerState.RUNNING
    status.started_up = True
    status.connection = Connection(connected=True, since=time.time())
    status.tally.queue("orders").registered = True
    return status


@pytest.fixture
def serve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = []

    def serve(**config):
        status = make_status(**config)
        started.append(Served(status))
        return started[-1]

    yield serve
    for served in started:
        served.server.stop()


@pytest.fixture
def served(serve):
    served = serve()
    turning = threading.Event()

    def beat():
        while not turning.wait(0.1):
            served.status.heartbeat = time.monotonic()

    thread = threading.Thread(target=beat)
    thread.start()
    yield served
    turning.set()
    thread.join()


PROBES = ["/livez", "/healthz", "/readyz", "/startupz"]
READABLE = [*PROBES, "/health", "/metrics", "/config", "/"]


@pytest.mark.parametrize("path", PROBES)
def test_probes_of_a_worker_at_work_say_yes(served, path):
    assert served.json("GET", path) == (200, {"ok": True, "state": "running", "reasons": []})


def test_a_probe_that_says_no_is_503_with_its_reasons(served):
    served.status.paused = True
    assert served.json("GET", "/readyz") == (503, {"ok": False, "state": "running", "reasons": [{"code": "paused"}]})
    assert served.json("GET", "/livez")[0] == 200
    served.status.failure = "no"
    for path in PROBES:
        assert served.json("GET", path)[0] == 503


def test_health_answers_whatever_is_wrong(served):
    served.status.failure = "no"
    status, told = served.json("GET", "/health")
    assert (status, told["status"], told["worker"]) == (200, "failed", "orders")
    assert told["broker"]["url"] == "amqp://shop:***@rabbitmq/"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [(None, "text/plain; version=0.0.4"), ("application/openmetrics-text", "application/openmetrics-text")],
)
def test_metrics_are_served_in_the_format_asked_for(served, accept, kind):
    response, body = served.ask("GET", "/metrics", {} if accept is None else {"Accept": accept})
    assert response.status == 200
    assert response.getheader("Content-Type").startswith(kind)
    assert b'pythia_worker_state{worker="orders"} 2.0' in body


def test_metrics_hammered_are_the_same_rendering_and_then_a_new_one(served):
    deadline = time.monotonic() + DEADLINE
    served.ask("GET", "/metrics")
    served.status.tally.queue("orders").received = 41
    while (
        b'pythia_messages_received_total{queue="orders",worker="orders"} 41.0' not in served.ask("GET", "/metrics")[1]
    ):
        assert time.monotonic() < deadline


def test_config_is_shown_without_its_secrets(serve):
    served = serve(http={"admin_token": TOKEN})
    response, body = served.ask("GET", "/config", {"Authorization": f"Bearer {TOKEN}".encode()})
    assert response.status == 200
    shown = json.loads(body)
    assert shown["worker_name"] == "orders"
    assert shown["broker"]["url"] == "amqp://shop:***@rabbitmq/"
    assert b"hunter2" not in body
    assert "s3cret" not in body.decode()


def test_pause_and_resume_reach_the_worker(served):
    assert served.json("POST", "/pause") == (200, {"paused": True, "state": "running"})
    assert served.json("POST", "/resume") == (200, {"paused": False, "state": "running"})
    assert served.control.calls == ["pause", "resume"]


def test_what_the_worker_refuses_is_409_in_its_own_words(served):
    served.control.error = LifecycleError("a worker that is stopped cannot pause")
    assert served.json("POST", "/pause") == (409, {"error": "a worker that is stopped cannot pause"})


# Who may


def reloaded(result, cause=None):
    before, after = WorkerConfig(), WorkerConfig(concurrency=20, broker={"url": "redis://:hunter2@r/"})
    return Reloaded(result=result, generation=3, plan=plan(before, after), cause=cause)


CHANGES = [
    {"key": "concurrency", "old": "10", "new": "20", "class": "hot"},
    {"key": "broker.url", "old": '"sqlite:///pythia.db"', "new": '"redis://:***@r/"', "class": "reconnect"},
]


@pytest.mark.parametrize(("result", "code"), [("applied", 200), ("refused", 409), ("rolled_back", 409)])
def test_a_reload_answers_with_what_came_of_it_and_no_secret(served, result, code):
    served.control.reloaded = reloaded(result, None if result == "applied" else "because")
    cause = served.control.reloaded.cause
    answer = {"result": result, "generation": 3, "cause": cause, "changes": CHANGES}
    assert served.json("POST", "/reload") == (code, answer)
    assert served.control.calls == ["reload"]


def test_a_plan_is_asked_for_and_nothing_is_reloaded(served):
    served.control.reloaded = reloaded("applied")
    assert served.json("POST", "/reload?plan=1")[0] == 200
    served.control.reloaded = reloaded("refused", "because")
    assert served.json("POST", "/reload?plan=1")[0] == 409
    assert served.control.calls == ["planned", "planned"]


def test_a_reload_that_takes_its_time_goes_on_without_the_caller(served, monkeypatch):
    monkeypatch.setattr(app_module, "RELOAD_SECONDS", 0.01)
    code, answer = served.json("POST", "/reload")
    assert code == 202
    assert "goes on" in answer["error"]


def test_with_a_token_admin_routes_want_it_and_the_others_do_not(serve):
    served = serve(http={"admin_token": TOKEN})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}, {"Authorization": "Bearer"}):
        response, _ = served.ask("POST", "/pause", headers)
        assert response.status == 401
        assert response.getheader("WWW-Authenticate") == "Bearer"
    assert served.json("GET", "/config")[0] == 401
    assert served.control.calls == []
    assert served.json("POST", "/pause", {"Authorization": f"bearer {TOKEN}".encode()})[0] == 200
    assert served.ask("GET", "/metrics")[0].status == 200


def test_a_new_token_holds_at_once(serve):
    served = serve(http={"admin_token": "old"})
    served.status.config = make_status(http={"admin_token": "new"}).config
    assert served.json("POST", "/pause", {"Authorization": "Bearer old"})[0] == 401
    assert served.json("POST", "/pause", {"Authorization": "Bearer new"})[0] == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Host": "localhost:8080"}, True),
        ({"Host": "127.0.0.1"}, True),
        ({"Host": "[::1]:8080"}, True),
        ({"Host": "localhost", "Origin": "http://localhost:8080"}, True),
        ({"Host": "evil.example"}, False),
        ({"Host": "evil.example:8080"}, False),
        ({"Host": "127.0.0.1.evil.example"}, False),
        ({"Host": "[::1"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
    ],
)
def test_without_a_token_only_this_machine_may_and_no_web_page_in_its_name(served, headers, allowed):
    assert served.json("POST", "/pause", headers)[0] == (200 if allowed else 403)
    assert served.control.calls == (["pause"] if allowed else [])


def test_without_a_token_a_caller_from_another_machine_may_not(serve, monkeypatch):
    monkeypatch.setattr("aiohttp.web_request.BaseRequest.remote", "192.0.2.7")
    served = serve()
    for method, path in (("POST", "/pause"), ("POST", "/resume"), ("POST", "/reload"), ("GET", "/config")):
        assert served.json(method, path)[0] == 403
    assert served.json("GET", "/readyz")[0] == 200
    assert served.control.calls == []


# What every answer is like


@pytest.mark.parametrize("path", READABLE)
def test_head_answers_like_get_without_a_body(served, path):
    got, body = served.ask("GET", path)
    head, nothing = served.ask("HEAD", path)
    assert (head.status, nothing) == (got.status, b"")
    assert body


@pytest.mark.parametrize("path", [*READABLE, "/nowhere"])
def test_no_answer_is_stored_sniffed_framed_or_says_what_serves_it(served, path):
    response, _ = served.ask("GET", path)
    assert response.getheader("Cache-Control") == "no-store"
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert "frame-ancestors 'none'" in response.getheader("Content-Security-Policy")
    assert response.getheader("Server") == "pythia"


def test_an_unknown_route_is_404_and_lists_what_there_is(served):
    status, told = served.json("GET", "/nowhere")
    assert status == 404
    assert "GET /readyz" in told["routes"]
    assert "POST /pause" in told["routes"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/pause", "POST"), ("POST", "/livez", "GET,HEAD"), ("DELETE", "/metrics", "GET,HEAD")],
)
def test_the_wrong_method_is_405_and_names_the_right_one(served, method, path, allow):
    response, body = served.ask(method, path)
    assert response.status == 405
    assert response.getheader("Allow") == allow
    assert json.loads(body) == {"error": "Method Not Allowed"}


def test_the_index_names_every_route(served):
    response, body = served.ask("GET", "/")
    assert response.getheader("Content-Type").startswith("text/plain")
    for route in ("/livez", "/readyz", "/startupz", "/health", "/metrics", "/config", "/pause", "/resume", "/reload"):
        assert route in body.decode()


def test_a_defect_in_a_route_is_500_without_a_traceback_and_the_log_says_more(served):
    served.control.error = ZeroDivisionError("secret detail")
    response, body = served.ask("POST", "/pause")
    assert response.status == 500
    assert json.loads(body) == {"error": "internal error; the log says more"}
    (event,) = served.events
    assert isinstance(event, TaskFailed)
    assert event.where == "POST /pause"
    assert served.json("GET", "/livez")[0] == 200


def test_a_metric_that_cannot_be_exported_is_told_to_the_operator(served):
    served.status.metrics.gauge("pythia_paused").set(1)
    served.ask("GET", "/metrics")
    (event,) = served.events
    assert isinstance(event, Notice)
    assert "pythia_paused" in event.detail


# While the worker cannot answer


async def test_every_route_answers_while_a_handler_blocks_the_loop_and_names_it(served):
    """The loop of this test stands still until another thread has had its answers."""
    status, answers, told = served.status, {}, threading.Event()
    delivery = Delivery(Envelope(b"", id="m-1"), queue="orders", token=None, first_seen=0.0)

    def asking():
        told.wait(DEADLINE)
        try:
            for path in READABLE:
                response, body = served.ask("GET", path)
                answers[path] = response.status, body.decode()
            answers["pause"] = served.json("POST", "/pause")[0], ""
        finally:
            release.set()

    def process_message():
        status.heartbeat = time.monotonic() - 45
        return release.wait(DEADLINE)

    release, thread = threading.Event(), threading.Thread(target=asking)
    status.__class__ = Frozen
    watch = Watchdog(status, lambda _event: told.set(), threading.get_ident(), lambda: delivery)
    thread.start()
    watch.start()
    assert process_message()
    thread.join()
    watch.stop()
    assert {path: code for path, (code, _) in answers.items()} == {**dict.fromkeys(READABLE, 200), "pause": 200}
    for path in ("/livez", "/readyz"):
        told_there = json.loads(answers[path][1])
        assert told_there["ok"] is True
        (reason,) = told_there["reasons"]
        assert reason["code"] == "loop_blocked"
        assert reason["message_id"] == "m-1"
        assert "test_http.py:" in reason["detail"]
        assert "in process_message" in reason["detail"]
    assert json.loads(answers["/health"][1])["status"] == "degraded"
    lag = sample(answers["/metrics"][1], "pythia_event_loop_lag_seconds")
    assert lag >= 45


class Frozen(Status):
    """A status whose heartbeat the fixture's thread can no longer set: the loop that it stands for is blocked."""

    def __setattr__(self, name, value):
        if name != "heartbeat" or value < time.monotonic() - 1:
            super().__setattr__(name, value)


def sample(text, name):
    return next(s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)


# Attackers


def test_what_is_not_http_is_refused_and_the_server_goes_on(served):
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(5000)) + b"\r\n",
        b"nonsense\r\n\r\n",
    ):
        answer = served.raw(data)
        assert b" 400 Bad Request\r\n" in answer or answer == b""
        assert b"aiohttp" not in answer
        assert b"Traceback" not in answer
    assert served.events == []
    assert served.json("GET", "/livez")[0] == 200


def test_a_body_nobody_asked_for_is_not_read_to_its_end(served):
    response, _ = served.ask("POST", "/pause", {"Content-Length": str(100 * 2**20)}, body=b"x" * 1000)
    assert response.status == 200


def test_a_request_that_never_arrives_is_hung_up_on(serve, monkeypatch):
    monkeypatch.setattr(serving_module, "HEAD_SECONDS", 0.3)
    served = serve()
    for beginning in (b"", b"GET /livez HTTP/1.1\r\nHo"):
        assert served.raw(beginning) == b""


def test_an_old_connection_is_closed_however_busy(serve, monkeypatch):
    monkeypatch.setattr(serving_module, "LIFE_SECONDS", 0.0)
    monkeypatch.setattr(serving_module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(serving_module, "_SWEEP_SECONDS", 0.05)
    served, deadline = serve(), time.monotonic() + DEADLINE
    with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE) as connection:
        try:
            while True:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if not connection.recv(65536):
                    break
                assert time.monotonic() < deadline
        except (BrokenPipeError, ConnectionResetError):
            pass


def test_an_old_connection_that_does_nothing_is_closed(serve, monkeypatch):
    monkeypatch.setattr(serving_module, "LIFE_SECONDS", 0.0)
    monkeypatch.setattr(serving_module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(serving_module, "_SWEEP_SECONDS", 0.05)
    assert serve().raw(b"") == b""


def test_idle_connections_cannot_keep_a_probe_out(serve, monkeypatch):
    monkeypatch.setattr(serving_module, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(serving_module, "HEAD_SECONDS", 1000.0)
    served = serve()
    idle = [socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE) for _ in range(20)]
    try:
        assert served.json("GET", "/livez")[0] == 200
        assert idle[0].recv(1) == b""
    finally:
        for connection in idle:
            connection.close()


# Its own life


def test_a_busy_port_is_an_error_that_says_so_and_leaves_nothing_running(serve):
    served = serve()
    other = HttpServer("127.0.0.1", served.port, status=served.status, control=served.control, emit=lambda _event: None)
    with pytest.raises(OSError, match=str(served.port)) as caught:
        other.start()
    assert caught.value.errno == errno.EADDRINUSE
    assert [thread.name for thread in threading.enumerate()].count("pythia-http") == 1
    served.server.stop()
    assert other.start() == served.port
    other.stop()


def test_start_and_stop_may_be_called_twice_and_in_any_order(serve):
    served = serve()
    assert served.server.start() == served.port
    served.server.stop()
    served.server.stop()
    with pytest.raises(ConnectionRefusedError):
        served.ask("GET", "/livez")
    served.port = served.server.start()
    assert served.ask("GET", "/livez")[0].status == 200
    never = HttpServer("127.0.0.1", 0, status=served.status, control=served.control, emit=lambda _event: None)
    never.stop()


def test_an_open_connection_does_not_hold_up_the_stop(serve):
    served = serve()
    with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        served.server.stop()
        drained(connection)
    assert "pythia-http" not in {thread.name for thread in threading.enumerate()}


async def test_it_is_a_loop_of_its_own_beside_the_callers(serve):
    served = serve()
    assert await asyncio.to_thread(served.json, "GET", "/startupz") == (
        200,
        {"ok": True, "state": "running", "reasons": []},
    )


def test_what_the_server_needs_is_loaded_when_somebody_asks_and_not_before_the_first_messages():
    script = """
import sys, urllib.request
from pythia import Worker
from pythia.http import server
from pythia.service import life_of

class App(Worker):
    async def process_message(self, message): ...

server._HEAD_START_SECONDS = 3600.0
life = life_of(App())
probes = server.HttpServer("127.0.0.1", 0, status=life.status, control=life, emit=print)
port = probes.start()
assert "aiohttp" not in sys.modules
try:
    urllib.request.urlopen(f"http://127.0.0.1:{port}/nothing", timeout=20)
except urllib.error.HTTPError as error:
    assert error.code == 404, error
assert "aiohttp" in sys.modules
probes.stop()
idle = server.HttpServer("127.0.0.1", 0, status=life.status, control=life, emit=print)
idle.start()
idle.stop()
assert not idle._thread
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_name_of_several_addresses_is_served_at_all_of_them():
    listening = listen("localhost", 0)
    try:
        ports = {one.getsockname()[1] for one in listening}
        assert len(ports) == 1
        assert {one.getsockname()[0] for one in listening} <= {"127.0.0.1", "::1"}
        with pytest.raises(OSError, match=str(ports)[1:-1]):
            listen("127.0.0.1", ports.pop())
    finally:
        for one in listening:
            one.close()
    with pytest.raises(OSError):  # as the resolver words it
        listen("no.such.host.invalid", 0)
