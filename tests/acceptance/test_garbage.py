"""Garbage in: one clear line and an exit code, or a dead letter with the reason; never a traceback, a loss or a hang."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.service_kit import NOTE, Place, assert_one_clear_line, assert_one_failure, until

APP = (
    NOTE
    + """
from dataclasses import dataclass
from pythia import Message

@dataclass
class Order:
    n: int

class App(Worker):
    async def process_message(self, message: Message[Order]):
        note("handled", message.id, message.body.n)
"""
)
MIB = 1024 * 1024


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, APP)


# -- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A message that nobody can read: what it claims, and what its dead letter must say."""

    body: bytes
    content_type: str = "application/json"
    encoding: str | None = None
    reason: str = "undecodable"
    text: str


def hostile() -> dict[str, Hostile]:
    return {
        "no-utf8": Hostile(body=b'{"n": "\xff\xfe"}', text="not JSON"),
        "no-json": Hostile(body=b'{"n": 1', text="not JSON"),
        "empty": Hostile(body=b"", text="not JSON"),
        "not-a-number": Hostile(body=b'{"n": NaN}', text="not JSON"),
        "no-text": Hostile(body=b"\xff", content_type="text/plain; charset=utf-8", text="not UTF-8"),
        "no-codec": Hostile(body=b"\x81\xa1n\x01", content_type="application/msgpack", text="msgpack"),
        "wrong-type": Hostile(body=b'{"n": 1}', content_type="image/png", reason="invalid", text="Order"),
        "wrong-field": Hostile(body=b'{"m": 1}', reason="invalid", text="n: "),
        "huge": Hostile(body=bytes(100 * MIB), reason="too_large", text=f"limit is {16 * MIB}"),
        "deep": Hostile(body=b"[" * 10_000 + b"]" * 10_000, reason="too_large", text="nested deeper than 128"),
        "bomb": Hostile(body=_bomb(), encoding="gzip", reason="too_large", text=f"more than {64 * MIB}"),
        "no-gzip": Hostile(body=b'{"n": 1}', encoding="gzip", text="not gzip"),
        "no-encoding": Hostile(body=b'{"n": 1}', encoding="br", text="'br'"),
    }


def _bomb() -> bytes:
    return gzip.compress(bytes(65 * MIB), 1)


def test_each_message_that_cannot_be_read_is_a_dead_letter_at_once_and_the_good_ones_are_handled(place: Place) -> None:
    sent = hostile()
    for name, one in sent.items():
        place.publish_bytes("default", one.body, id=name, content_type=one.content_type)
        _say_encoding(place, name, one.encoding)
    place.publish_bytes("default", gzip.compress(b'{"n": 8}'), id="zipped", content_type="application/json")
    _say_encoding(place, "zipped", "gzip")
    place.publish_bytes("default", b'{"n": 7}', id="good", content_type="application/json")
    with place.running("--port", "0") as service:
        until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "everything is settled")
        until(lambda: service.health()["messages"]["in_flight"] == 0, "and counted")
        messages = service.health()["messages"]
        assert (messages["dead_letter"], messages["retry"], messages["ack"]) == (len(sent), 0, 2)
        assert messages["residual"] == 0
        assert service.stop() == 0
    assert sorted(place.ledger()) == ["handled good 7", "handled zipped 8"]
    letters = {letter["id"]: letter for letter in place.dead()}
    assert {name: letter["reason"] for name, letter in letters.items()} == {
        name: one.reason for name, one in sent.items()
    }
    for name, one in sent.items():
        assert one.text in letters[name]["error"]["message"], letters[name]["error"]
        assert (letters[name]["attempts"], letters[name]["body_bytes"]) == (1, len(one.body))
    shown = json.loads(place.command("dead", "show", "default", "no-text", "--json").stdout)
    assert shown["items"][0]["body"] == {"base64": "/w=="}


def _say_encoding(place: Place, name: str, encoding: str | None) -> None:
    """As a foreign producer would; ``publish`` has no such option."""
    with sqlite3.connect(place.file) as connection:
        connection.execute("UPDATE messages SET content_encoding = ? WHERE id = ?", (encoding, name))
    connection.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"n": 1', r"not JSON.*line 1"),
        ("[" * 100_000, r"not JSON.*nested too deep|not JSON"),
        ('{"n": NaN}', "not JSON.*NaN"),
        ("", "nothing was published|no message|not JSON"),
    ],
)
def test_publish_refuses_what_is_not_json_with_65_and_stores_nothing(place: Place, body: str, words: str) -> None:
    done = place.command("publish", "default", "-", stdin=body)
    assert done.returncode == 65
    assert_one_clear_line(done.stderr, words)
    assert done.stdout == ""
    assert not place.file.exists() or place.depth()["ready"] == 0


# -- targets and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "source", "words"),
    [
        ("nowhere:App", "", "no module 'nowhere'"),
        ("app:Ap", APP, "did you mean App"),
        ("app", "x = 1", "defines no Worker"),
        ("app", "from pythia import Worker\nclass A(Worker): pass\nclass B(Worker): pass", "app:A, app:B"),
        ("app:App", "def broken(:", r"SyntaxError.*app\.py:1"),
        ("app:App", "raise RuntimeError('no database')", r"RuntimeError: no database.*app\.py:1"),
        ("app:App", "raise SystemExit(3)", "SystemExit"),
        ("app:App", "App = 5", "instance of int"),
        (
            "app:App",
            "from pythia import Worker\nclass App(Worker):\n    def __init__(self): pass",
            r"super\(\).__init__",
        ),
        ("", "", "TARGET is module:attribute"),
    ],
)
def test_a_target_that_is_no_worker_ends_with_64_and_one_line(
    place: Place, target: str, source: str, words: str
) -> None:
    (place.directory / "app.py").write_text(source)
    code, text = place.run_to_the_end(target=target)
    assert code == 64, text
    assert_one_clear_line(text, words)


@pytest.mark.parametrize(
    ("file", "environment", "words"),
    [
        ("concurency = 3", {}, ("concurency", r"pythia\.toml line 1", "did you mean concurrency")),
        ("[broker]\nurll = 'x'", {}, ("line 2", r"did you mean broker\.url")),
        ("concurrency = 'many'", {}, ("concurrency", "line 1", "whole number")),
        ("concurrency = ", {}, ("not valid TOML",)),
        (None, {"PYTHIA_CONCURENCY": "3"}, ("PYTHIA_CONCURENCY", "did you mean PYTHIA_CONCURRENCY")),
        (None, {"PYTHIA_RETRY__MAX_ATEMPTS": "3"}, ("did you mean PYTHIA_RETRY__MAX_ATTEMPTS",)),
        (None, {"PYTHIA_CONCURRENCY": "0"}, ("PYTHIA_CONCURRENCY", "at least 1")),
        (None, {"PYTHIA_BROKER__URL": "ftp://shop:hunter2@host/"}, ("broker.url", "ftp://")),
    ],
)
def test_a_setting_that_cannot_be_used_ends_with_78_and_one_line_that_names_it(
    place: Place, file: str | None, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    arguments = []
    if file is not None:
        (place.directory / "pythia.toml").write_text(file)
        arguments = ["--config", "pythia.toml"]
    code, text = place.run_to_the_end(*arguments, **environment)
    assert code == 78, text
    assert_one_clear_line(text, *words)
    assert "hunter2" not in text


# -- ports ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("said", ["flag", "environment"])
def test_a_port_that_was_set_and_is_busy_ends_with_69(place: Place, busy_port: int, said: str) -> None:
    arguments = ["--port", str(busy_port)] if said == "flag" else []
    environment = {} if said == "flag" else {"PYTHIA_HTTP__PORT": str(busy_port)}
    done = place.command("run", "app:App", "--log-format", "json", *arguments, **environment)
    assert done.returncode == 69
    assert_one_failure(done.stdout + done.stderr, f"http.port {busy_port}", "in use")
    assert not place.file.exists()


def test_a_default_port_that_is_busy_gives_way_to_a_free_one_with_a_notice(place: Place) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the last one left behind is not in the way
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has it: as busy as can be
        service = place.start(default_port=True)
        try:
            service.wait_for("consumer.registered")
            port = int(service.url.rpartition(":")[2])
            assert port != 8080
            assert service.ask("/readyz")[0] == 200
            notices = [line for line in service.lines if "8080" in line["message"]]
            assert [line["level"] for line in notices] == ["warning"]
            assert str(port) in notices[0]["message"]
            assert service.stop() == 0
        finally:
            service.kill()


# -- queue files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = Place(tmp_path_factory.mktemp("sound"))
    place.publish("default", [{"n": number, "pad": "x" * 200} for number in range(300)])
    return place.file.read_bytes()


def _scribbled(sound: bytes) -> bytes:
    page = b"\xa5" * 64
    return sound[:8192] + b"".join(page + sound[at + 64 : at + 4096] for at in range(8192, len(sound), 4096))


def _foreign() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE theirs (a)")
    return connection.serialize()


BAD_FILES = {
    "scribbled": (_scribbled, "is corrupt"),
    "cut": (lambda sound: sound[: len(sound) // 2], "is corrupt"),
    "no-root": (lambda sound: sound[:100] + bytes(200) + sound[300:], "is corrupt"),
    "text": (lambda _sound: b"not a database\n" * 100, "is not a SQLite database"),
    "foreign": (lambda _sound: _foreign(), "not a Pythia queue"),
    "newer": (lambda sound: sound[:60] + (99).to_bytes(4, "big") + sound[64:], "version 99"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_sound_queue_is_refused_with_74_and_left_as_it_is(
    place: Place, sound_file: bytes, name: str
) -> None:
    make, words = BAD_FILES[name]
    place.file.write_bytes(make(sound_file))
    before = _state_of(place.directory)
    done = place.command("publish", "default", "{}")
    assert done.returncode == 74
    assert_one_clear_line(done.stderr, words, "queue.db")
    code, text = place.run_to_the_end("--burst")
    assert code == 74
    assert_one_failure(text, words, "queue.db")
    assert _state_of(place.directory) == before


def test_a_directory_in_the_place_of_the_file_is_refused_with_74(place: Place) -> None:
    place.file.mkdir()
    done = place.command("publish", "default", "{}")
    assert done.returncode == 74
    assert_one_clear_line(done.stderr, "is a directory")


def test_a_missing_directory_is_refused_with_74_and_not_made(place: Place) -> None:
    place.url = f"sqlite:///{place.directory}/missing/queue.db"
    done = place.command("publish", "default", "{}")
    assert done.returncode == 74
    assert_one_clear_line(done.stderr, "no directory")
    code, text = place.run_to_the_end()
    assert code == 74
    assert_one_failure(text, "no directory")
    assert not (place.directory / "missing").exists()


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_read_only_file_or_directory_is_refused_with_74_and_left_as_it_is(
    place: Place, sound_file: bytes, what: str
) -> None:
    inside = place.directory / "inside"
    inside.mkdir()
    place.file = inside / "queue.db"
    place.url = f"sqlite:///{place.file}"
    place.file.write_bytes(sound_file)
    (place.file if what == "file" else inside).chmod(stat.S_IRUSR | (stat.S_IXUSR if what == "directory" else 0))
    before = _state_of(inside)
    try:
        for command in (["publish", "default", "{}"], ["run", "app:App", "--no-http", "--log-format", "json"]):
            done = place.command(*command, as_anybody=True)
            assert done.returncode == 74, done.stderr + done.stdout
            said = done.stderr + done.stdout
            (assert_one_failure if command[0] == "run" else assert_one_clear_line)(said, "read-only")
        assert _state_of(inside) == before
    finally:
        inside.chmod(stat.S_IRWXU)


def test_a_queue_file_deleted_under_a_running_worker_ends_it_with_74(place: Place) -> None:
    """What it would write now would be lost with the file: it says so instead of going on."""
    with place.running() as service:
        place.file.unlink()
        assert service.ended(deadline=60) == 74
        assert_one_failure("".join(service.text), "deleted or replaced")
    assert not place.file.exists()


def _state_of(directory: Path) -> dict[str, str]:
    """A digest of the queue file, and of whatever lies beside it under its name."""
    files = sorted(directory.glob("queue.db*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
