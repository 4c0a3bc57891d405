"""``pythia pause``, ``resume``, ``reload`` and ``config diff``: which worker is meant, and what it answered."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pythia import runtime_file
from pythia.cli import main
from pythia.config import set_config_file, set_process_flags


class Admin(ThreadingHTTPServer):
    """A worker's admin routes, answering what they are told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.status = 200
        self.body = b'{"paused": true, "state": "running"}'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Admin

    def do_POST(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def worker() -> Iterator[Admin]:
    with Admin() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def runtime(workdir, monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(workdir))
    yield
    set_process_flags({})
    set_config_file(None)


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_worker_is_told_by_its_url(worker, capsys, verb):
    assert main([verb, worker.url]) == 0
    assert worker.asked == [(f"/{verb}", None)]
    assert capsys.readouterr().out.startswith(f"{worker.url}: {verb}d")


def test_a_url_may_come_without_its_scheme(worker):
    assert main(["pause", f"127.0.0.1:{worker.server_port}"]) == 0


def test_a_worker_is_told_by_its_pid(worker):
    with runtime_file.announced(worker.url):
        assert main(["pause", str(os.getpid())]) == 0
    assert worker.asked == [("/pause", None)]


def test_the_only_worker_needs_no_name(worker):
    with runtime_file.announced(worker.url):
        assert main(["resume"]) == 0
    assert worker.asked == [("/resume", None)]


def test_of_several_one_must_be_named(worker, monkeypatch, capsys):
    monkeypatch.setattr(runtime_file, "running", lambda: {7: "http://127.0.0.1:1", 8: worker.url})
    assert main(["pause"]) == 64
    assert capsys.readouterr().err == (
        f"pythia: several workers run here; say which: 7 (http://127.0.0.1:1), 8 ({worker.url})\n"
    )
    assert worker.asked == []


def test_without_any_announced_the_configured_port_is_asked(worker, monkeypatch):
    monkeypatch.setenv("PYTHIA_HTTP__PORT", str(worker.server_port))
    monkeypatch.setenv("PYTHIA_HTTP__HOST", "0.0.0.0")
    assert main(["pause"]) == 0


def test_a_pid_that_is_no_workers_says_which_are(worker, capsys):
    with runtime_file.announced(worker.url):
        assert main(["pause", "1"]) == 64
    assert f"process id 1 (there are: {os.getpid()})" in capsys.readouterr().err


def test_the_admin_token_goes_with_it(worker, monkeypatch):
    monkeypatch.setenv("PYTHIA_HTTP__ADMIN_TOKEN", "open-sesame")
    assert main(["pause", worker.url]) == 0
    assert worker.asked == [("/pause", "Bearer open-sesame")]


def test_json_is_the_workers_answer(worker, capsys):
    assert main(["pause", worker.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"paused": True, "state": "running"}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"{}", "it wants its admin token: set PYTHIA_HTTP__ADMIN_TOKEN here as there"),
        (403, b'{"error": "callers on this machine only"}', "callers on this machine only"),
        (404, b"<html>", "no worker's admin routes are there"),
        (409, b'{"error": "the worker is stopped"}', "the worker is stopped"),
        (500, b"", "HTTP 500"),
    ],
)
def test_a_refusal_is_one_and_says_why(worker, capsys, status, body, said):
    worker.status, worker.body = status, body
    assert main(["pause", worker.url]) == 1
    assert capsys.readouterr().err == f"pythia: {worker.url} refused to pause: {said}\n"


@pytest.mark.parametrize(
    ("where", "code"),
    [("http://127.0.0.1:1", 69), ("ftp://127.0.0.1", 64), ("http://127.0.0.1:99999", 64), ("http://[::1", 64)],
)
def test_nobody_there_is_one_line(where, code, capsys):
    assert main(["pause", where]) == code
    assert capsys.readouterr().err.count("\n") == 1


CHANGED = {
    "result": "applied",
    "generation": 3,
    "cause": None,
    "changes": [{"key": "concurrency", "old": "10", "new": "20", "class": "hot"}],
}


def answers(worker: Admin, status: int, **others: object) -> None:
    worker.status, worker.body = status, json.dumps({**CHANGED, **others}).encode()


def test_a_reload_that_was_applied_shows_what_changed(worker, capsys):
    answers(worker, 200)
    assert main(["reload", worker.url]) == 0
    assert worker.asked == [("/reload", None)]
    assert capsys.readouterr().out.splitlines() == [
        "KEY          OLD  NEW  TAKES",
        "concurrency  10   20   hot",
        f"{worker.url}: applied as generation 3",
    ]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            {"result": "refused", "cause": "worker_name: only a restart can change it"},
            "refused, nothing changed: worker",
        ),
        ({"result": "rolled_back", "cause": "_apply_config_changes raised"}, "rolled back: _apply_config_changes"),
    ],
)
def test_a_reload_that_was_refused_is_1_and_shows_the_plan_and_why(worker, capsys, others, said):
    answers(worker, 409, **others)
    assert main(["reload", worker.url]) == 1
    out = capsys.readouterr().out
    assert "concurrency" in out
    assert f"{worker.url}: {said}" in out


def test_a_reload_without_a_change_says_so(worker, capsys):
    answers(worker, 200, changes=[])
    assert main(["reload", worker.url]) == 0
    assert capsys.readouterr().out == f"{worker.url}: nothing to change; generation 3\n"


def test_a_reload_in_json_is_the_workers_answer(worker, capsys):
    answers(worker, 409, result="refused", cause="no")
    assert main(["reload", worker.url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["result"] == "refused"


def test_a_reload_that_goes_on_or_cannot_be_had_is_no_success(worker, capsys):
    worker.status, worker.body = 202, b'{"error": "not done within 25 s"}'
    assert main(["reload", worker.url]) == 1
    assert capsys.readouterr().err == f"pythia: {worker.url} did not reload: not done within 25 s\n"


def test_a_diff_is_the_workers_plan(worker, capsys):
    answers(worker, 200)
    with runtime_file.announced(worker.url):
        assert main(["config", "diff"]) == 0
        assert main(["config", "diff", str(os.getpid()), "--json"]) == 0
    assert worker.asked == [("/reload?plan=1", None)] * 2
    table, _, told = capsys.readouterr().out.partition("{")
    assert "concurrency  10   20   hot" in table
    assert json.loads("{" + told) == {"against": worker.url, **CHANGED}


def test_a_diff_that_would_be_refused_is_1(worker, capsys):
    answers(worker, 409, result="refused", cause="line 3: not valid TOML", changes=[])
    assert main(["config", "diff", worker.url]) == 1
    assert capsys.readouterr().out == f"{worker.url}: a reload would be refused: line 3: not valid TOML\n"


def test_a_diff_without_a_worker_is_against_the_defaults(capsys, monkeypatch, workdir):
    (workdir / "my.toml").write_text("concurrency = 50\nworker_name = 'orders'\n[retry]\nmax_attempts = 16\n")
    monkeypatch.setenv("PYTHIA_BROKER__URL", "amqp://shop:hunter2@r/")
    assert main(["config", "diff", "--config", "my.toml"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()] == ["KEY", "worker_name", "concurrency", "broker.url"]
    assert "hunter2" not in told
    assert "50" in told
