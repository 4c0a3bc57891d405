"""``pythia health``: yes is 0, anything else is 1, and the reasons are printed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pythia.cli import main
from tests.unit.cli_kit import ROOT, pythia_command

UNREADY = {
    "ok": False,
    "state": "running",
    "reasons": [{"code": "consumer_missing", "queue": "orders", "detail": "cancelled by the server 3 s ago"}],
}


class Probes(ThreadingHTTPServer):
    """A worker's HTTP server, answering what it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, status: int, body: object) -> None:
        self.answers[path] = (status, body if isinstance(body, bytes) else json.dumps(body).encode())


class _Handler(BaseHTTPRequestHandler):
    server: Probes

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body = self.server.answers.get(self.path, (404, b"{}"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def probes() -> Iterator[Probes]:
    with Probes() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_ready_worker_is_zero(probes, capsys):
    probes.answer("/readyz", 200, {"ok": True, "state": "running", "reasons": []})
    assert main(["health", "--url", probes.url]) == 0
    assert capsys.readouterr().out == "ready (running)\n"


def test_a_worker_that_is_not_ready_is_one_and_says_why(probes, capsys):
    probes.answer("/readyz", 503, UNREADY)
    assert main(["health", "--url", probes.url]) == 1
    told = capsys.readouterr().out
    assert told == "not ready (running): consumer_missing orders: cancelled by the server 3 s ago\n"


def test_live_asks_another_question(probes, capsys):
    probes.answer("/livez", 200, {"ok": True, "state": "running", "reasons": []})
    probes.answer("/readyz", 503, UNREADY)
    assert main(["health", "--live", "--url", probes.url]) == 0
    assert main(["health", "--ready", "--url", probes.url]) == 1
    assert probes.asked == ["/livez", "/readyz"]


def test_a_path_in_the_url_is_asked_as_it_is(probes):
    probes.answer("/behind/readyz?x=1", 200, {"ok": True, "state": "running", "reasons": []})
    assert main(["health", "--url", f"{probes.url}/behind/readyz?x=1"]) == 0


def test_json_is_the_probes_answer(probes, capsys):
    probes.answer("/readyz", 503, UNREADY)
    assert main(["health", "--json", "--url", probes.url]) == 1
    assert json.loads(capsys.readouterr().out) == UNREADY


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_probes_counts_by_its_status(probes, capsys, body):
    probes.answer("/readyz", 503, body)
    assert main(["health", "--url", probes.url]) == 1
    assert capsys.readouterr().out == "not ready: HTTP 503\n"
    probes.answer("/readyz", 200, body)
    assert main(["health", "--url", probes.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "state": None, "reasons": []}


def test_what_a_worker_says_cannot_steer_the_terminal(probes, capsys):
    probes.answer("/readyz", 503, {"ok": False, "state": "\x1b[2J", "reasons": ["x", {}, {"code": "a\nb"}]})
    main(["health", "--url", probes.url])
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert told.count("\n") == 1


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_nobody_there_is_one_and_one_line(closed_port, capsys):
    assert main(["health", "--url", f"http://127.0.0.1:{closed_port}"]) == 1
    assert capsys.readouterr().err == f"pythia: no answer from http://127.0.0.1:{closed_port}: Connection refused\n"


def test_nobody_there_as_json_has_the_shape_of_a_probe(closed_port, capsys):
    assert main(["health", "--json", "--url", f"http://127.0.0.1:{closed_port}"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["state"], answer["reasons"][0]["code"]) == (False, None, "unreachable")


@pytest.mark.parametrize(
    "url",
    ["nonsense", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:99999", "http://[::1", "http://\u00e9\u2603\x00/"],
)
def test_a_url_that_cannot_be_asked_is_one(url, capsys):
    assert main(["health", "--url", url]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_does_not_speak_http_is_one(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert main(["health", "--url", f"http://127.0.0.1:{server.getsockname()[1]}"]) == 1
        thread.join()
    assert "the answer is not HTTP" in capsys.readouterr().err


def test_a_server_that_does_not_speak_tls_is_one(probes, capsys):
    assert main(["health", "--url", probes.url.replace("http", "https")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_never_answers_is_one(monkeypatch, capsys):
    from pythia.cli import health

    monkeypatch.setattr(health, "_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert main(["health", "--url", f"http://127.0.0.1:{server.getsockname()[1]}"]) == 1
    assert "timed out" in capsys.readouterr().err


def test_without_a_url_it_asks_where_the_environment_says(probes, monkeypatch):
    probes.answer("/readyz", 200, {})
    monkeypatch.setenv("PYTHIA_HTTP__PORT", str(probes.server_port))
    monkeypatch.setenv("PYTHIA_HTTP__HOST", "0.0.0.0")
    assert main(["health"]) == 0


def test_without_a_url_it_asks_where_the_configuration_file_says(probes, workdir, monkeypatch):
    probes.answer("/readyz", 200, {})
    (workdir / "config").mkdir()
    (workdir / "config/pythia.toml").write_text(f"[http]\nport = {probes.server_port}\n")
    assert main(["health"]) == 0
    (workdir / "other.toml").write_text(f"[http]\nport = {probes.server_port}\n")
    (workdir / "config/pythia.toml").unlink()
    assert main(["health", "--config", "other.toml"]) == 0
    monkeypatch.setenv("PYTHIA_CONFIG_FILE", "other.toml")
    assert main(["health"]) == 0


ELSEWHERE = {"PYTHIA_HTTP__HOST": "127.0.0.9"}  # another worker of this machine may answer at the default


@pytest.mark.parametrize("text", ["[http\n", "http = 3\n", "[http]\nport = 'x'\n"])
def test_a_broken_configuration_file_is_no_other_exit_code(workdir, text):
    (workdir / "broken.toml").write_text(text)
    assert pythia_command("health", "--config", "broken.toml", cwd=workdir, **ELSEWHERE).code == 1


def test_what_takes_longer_to_import_than_to_ask_is_not_imported(probes):
    probes.answer("/readyz", 200, {})
    script = (
        "import sys; from pythia.cli import main; "
        f"code = main(['health', '--url', 'http://127.0.0.1:{probes.server_port}']); "
        "print(code, sorted({'typing', 'shutil', 'asyncio', 'pydantic', 'pathlib', 'datetime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_documented_default_is_this_machines_8080(workdir, monkeypatch, capsys):
    from pythia.cli import health

    monkeypatch.setattr(health, "_get", lambda url, route: (_ for _ in ()).throw(OSError(f"{url}{route}")))
    assert main(["health"]) == 1
    assert "http://127.0.0.1:8080/readyz" in capsys.readouterr().err
    monkeypatch.setenv("PYTHIA_HTTP__HOST", "::")
    main(["health"])
    assert "http://[::1]:8080/readyz" in capsys.readouterr().err
