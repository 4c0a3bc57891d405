"""``pythia dead``: every command against a real queue file, its JSON held against the documented shape."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pythia.brokers import memory
from pythia.cli import dead, main
from pythia.config import set_config_file, set_process_flags
from pythia.errors import Unsupported
from pythia.message import Envelope
from tests.unit.cli_kit import bury, failure

# Copied from the documentation of the command line: the keys of an item, and the types of their values.
ITEM = {
    "id": str,
    "reason": str,
    "attempts": int,
    "error": dict,
    "published_at": str,
    "first_seen_at": str,
    "dead_at": str,
    "worker": str,
    "worker_id": str,
    "origin_queue": str,
    "content_type": str,
    "body_bytes": int,
    "correlation_id": (str, type(None)),
}
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def orders(workdir) -> Iterator[None]:
    """Three dead letters of the queue "orders": a, b (rejected), c."""
    envelopes = [
        Envelope(b'{"sku": 1}', id="a", headers={"tenant": "acme"}, timestamp=1_763_805_600.0, correlation_id="c1"),
        Envelope(b"plain \x1b[2J", id="b", content_type="text/plain", timestamp=1_763_805_601.0),
        Envelope(b"\xff\x00", id="c", content_type="application/octet-stream", timestamp=1_763_805_602.0),
    ]
    rejected = failure(
        reason="rejected", detail="unknown sku", error_type=None, error_message=None, traceback=None, attempts=1
    )
    asyncio.run(
        bury("sqlite:///pythia.db", "orders", envelopes, [failure(), rejected, failure(error_type="builtins.OSError")])
    )
    yield
    set_process_flags({})
    set_config_file(None)


@pytest.fixture
def told(capsys):
    """What ``pythia ARGS`` prints; it must end with ``code``."""

    def run(*args: str, code: int = 0) -> str:
        assert main(args) == code
        return capsys.readouterr().out if code == 0 else capsys.readouterr().err

    return run


def depth(told) -> tuple[int, int]:
    row = json.loads(told("queues", "orders", "--json"))["queues"][0]
    return row["ready"], row["dead"]


def ids(text: str) -> list[str]:
    return [item["id"] for item in json.loads(text)["items"]]


def test_list_json_has_the_documented_shape(told):
    listed = json.loads(told("dead", "list", "orders", "--json"))
    assert list(listed) == ["queue", "total", "items"]
    assert (listed["queue"], listed["total"]) == ("orders", 3)
    for item in listed["items"]:
        assert list(item) == list(ITEM)
        assert [key for key, kind in ITEM.items() if not isinstance(item[key], kind)] == []
        assert list(item["error"]) == ["type", "message"]
        assert all(STAMP.fullmatch(item[key]) for key in ("published_at", "first_seen_at", "dead_at"))


def test_an_item_tells_what_was_recorded(told):
    item = json.loads(told("dead", "list", "orders", "--json"))["items"][0]
    assert (item["id"], item["reason"], item["attempts"]) == ("a", "attempts_exhausted", 8)
    assert item["error"] == {"type": "httpx.ConnectError", "message": "no route to host"}
    assert (item["worker"], item["worker_id"], item["origin_queue"]) == ("orders", "orders-a1-7", "orders")
    assert (item["content_type"], item["body_bytes"], item["correlation_id"]) == ("application/json", 10, "c1")
    assert item["published_at"] == "2025-11-22T10:00:00.000Z"


def test_show_json_adds_body_headers_and_traceback(told):
    items = json.loads(told("dead", "show", "orders", "--json"))["items"]
    for item in items:
        assert list(item) == [*ITEM, "headers", "body"]
        assert list(item["error"]) == ["type", "message", "traceback"]
    assert [item["body"] for item in items] == [{"sku": 1}, "plain \x1b[2J", {"base64": "/wA="}]
    assert items[0]["headers"] == {"tenant": "acme"}
    assert "httpx.ConnectError: no route to host" in items[0]["error"]["traceback"]


def test_export_is_one_show_item_a_line(told):
    lines = told("dead", "export", "orders").splitlines()
    assert [json.loads(line) for line in lines] == json.loads(told("dead", "show", "orders", "--json"))["items"]


def test_export_obeys_filters_and_limit(told):
    assert len(told("dead", "export", "orders", "--limit", "2").splitlines()) == 2
    assert [
        json.loads(line)["id"] for line in told("dead", "export", "orders", "--reason", "rejected").splitlines()
    ] == ["b"]


def test_list_is_a_table_for_people(told):
    head, *rows = told("dead", "list", "orders").splitlines()
    assert head.split() == ["ID", "REASON", "ATTEMPTS", "ERROR", "DEAD", "FOR"]
    assert [row.split()[0] for row in rows] == ["a", "b", "c"]
    assert "ConnectError: no route to host" in rows[0]
    assert "unknown sku" in rows[1]


def test_show_explains_one_to_a_person_and_no_message_steers_the_terminal(told):
    text = told("dead", "show", "orders", "b")
    assert "error            unknown sku" in text
    assert r"plain \x1b[2J" in text
    assert "\x1b" not in text
    assert "header tenant    acme" in told("dead", "show", "orders", "a")


def test_dlq_is_the_same(told):
    assert told("dlq", "list", "orders", "--json") == told("dead", "list", "orders", "--json")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--reason", "rejected"], ["b"]),
        (["--error", "ConnectError"], ["a"]),
        (["--error", "builtins.OSError"], ["c"]),
        (["--reason", "attempts_exhausted", "--error", "OSError"], ["c"]),
        (["--since", "1h"], ["a", "b", "c"]),
        (["--since", "2999-01-01T00:00:00Z"], []),
        (["--limit", "2"], ["a", "b"]),
    ],
)
def test_filters_choose(told, options, expected):
    listed = told("dead", "list", "orders", "--json", *options)
    assert ids(listed) == expected
    assert json.loads(listed)["total"] == (3 if "--limit" in options else len(expected))


def test_more_than_is_shown_is_told(told):
    assert "2 of 3 shown" in told("dead", "list", "orders", "--limit", "2")
    assert "1 of 3 shown" in told("dead", "show", "orders", "--limit", "1")


def test_a_queue_without_dead_letters_says_so(told):
    assert told("dead", "list", "empty") == "no dead letters in empty\n"
    assert told("dead", "show", "empty") == "no dead letters in empty\n"
    assert told("dead", "export", "empty") == ""
    assert json.loads(told("dead", "list", "empty", "--json")) == {"queue": "empty", "total": 0, "items": []}


@pytest.mark.parametrize("command", ["show", "replay", "purge"])
def test_an_id_that_is_not_there_is_one_and_nothing_is_done(told, command):
    assert told("dead", command, "orders", "a", "zzz", code=1) == "pythia: no dead letter zzz in orders\n"
    assert depth(told) == (0, 3)


@pytest.mark.parametrize("command", ["replay", "purge"])
@pytest.mark.parametrize("which", [[], ["a", "--all"], ["--reason", "rejected"]])
def test_ids_or_all_must_be_said(told, command, which):
    assert f"say which: ids, or --all; see pythia dead {command} --help" in told(
        "dead", command, "orders", *which, code=64
    )
    assert depth(told) == (0, 3)


def test_replay_sends_back_by_id(told):
    assert told("dead", "replay", "orders", "a", "c") == "replayed to orders: 2\n"
    assert depth(told) == (2, 1)


def test_replay_all_is_narrowed_by_filters(told):
    replayed = json.loads(told("dead", "replay", "orders", "--all", "--reason", "rejected", "--json"))
    assert replayed == {"queue": "orders", "replayed": 1, "dry_run": False, "to": "orders", "ids": ["b"]}
    assert ids(told("dead", "list", "orders", "--json")) == ["a", "c"]


def test_replay_obeys_the_limit(told):
    told("dead", "replay", "orders", "--all", "--limit", "2")
    assert ids(told("dead", "list", "orders", "--json")) == ["c"]


def test_replay_to_another_queue(told):
    assert told("dead", "replay", "orders", "--all", "--to", "repair") == "replayed to repair: 3\n"
    assert json.loads(told("queues", "repair", "--json"))["queues"][0]["ready"] == 3


@pytest.mark.parametrize("command", ["replay", "purge"])
def test_a_dry_run_names_what_would_be_done_and_does_nothing(told, command):
    text = told("dead", command, "orders", "--all", "--error", "ConnectError", "--dry-run")
    assert text.splitlines()[0] == "a"
    assert re.search(r"would be (replayed to orders|purged): 1", text)
    assert json.loads(told("dead", command, "orders", "--all", "--dry-run", "--json"))["dry_run"] is True
    assert depth(told) == (0, 3)


def test_a_rate_spreads_a_replay_over_time(told, monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(dead.asyncio, "sleep", sleep)
    monkeypatch.setattr(dead.time, "monotonic", lambda: 100.0)
    assert told("dead", "replay", "orders", "--all", "--rate", "2/s") == "replayed to orders: 3\n"
    assert slept[:3] == [0.0, 0.5, 1.0]


def test_purge_deletes_for_ever(told):
    assert told("dead", "purge", "orders", "a") == "purged: 1\n"
    assert json.loads(told("dead", "purge", "orders", "--all", "--json"))["purged"] == 2
    assert depth(told) == (0, 0)


def test_a_broker_without_dead_letters_says_so(told, monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, dead_letters=False))
    assert (
        told("dead", "list", "orders", "-b", "memory://", code=Unsupported.exit_code)
        == "pythia: memory keeps no dead letters\n"
    )


@pytest.mark.parametrize("command", ["replay", "purge"])
def test_nothing_to_do_is_no_error(told, command):
    assert "0" in told("dead", command, "empty", "--all")


def test_what_was_taken_by_somebody_else_meanwhile_is_told(told, monkeypatch):
    async def stale(_args, _broker) -> list[str]:
        return ["a", "gone"]

    monkeypatch.setattr(dead, "_ids", stale)
    assert told("dead", "replay", "orders", "--all") == "replayed to orders: 1; 1 were gone already\n"


def test_a_person_who_says_no_keeps_the_dead_letters(told, monkeypatch):
    def no(_args, question: str) -> None:
        raise dead.CommandError(question, exit_code=1)

    monkeypatch.setattr(dead, "ask", no)
    assert "Delete 3 dead letters of orders for ever?" in told("dead", "purge", "orders", "--all", code=1)
    assert "Replay 3 dead letters of orders to orders?" in told("dead", "replay", "orders", "--all", code=1)
    assert depth(told) == (0, 3)


def test_many_pages_are_read_to_the_end(told):
    envelopes = [Envelope(b"{}", id=f"m{n:04}") for n in range(1203)]
    asyncio.run(bury("sqlite:///pythia.db", "many", envelopes, [failure()] * len(envelopes)))
    assert len(told("dead", "export", "many").splitlines()) == 1203
    assert json.loads(told("dead", "list", "many", "--json", "--error", "ConnectError"))["total"] == 1203
    listed = json.loads(told("dead", "list", "many", "--json"))
    assert (listed["total"], len(listed["items"])) == (1203, 100)
    assert json.loads(told("dead", "replay", "many", "--all", "--json"))["replayed"] == 1203
