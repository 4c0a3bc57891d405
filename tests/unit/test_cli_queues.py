"""``pythia queues``: the documented shape, null for what cannot be told, 1 if anything is dead."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from pythia.broker import QueueDepth
from pythia.brokers.memory import MemoryBroker
from pythia.cli import connection, main, queues
from pythia.config import set_config_file, set_process_flags
from pythia.message import Envelope
from tests.unit.cli_kit import COMMAND, bury, environment, failure, pythia_command

# Copied from the documentation of the command line.
KEYS = ["queue", "ready", "in_flight", "delayed", "dead", "oldest_age_seconds", "consumers", "durable"]


@pytest.fixture(autouse=True)
def _here(workdir) -> Iterator[None]:
    yield
    set_process_flags({})
    set_config_file(None)


def test_json_has_the_documented_shape(capsys, workdir):
    main(["publish", "orders", "1"])
    main(["publish", "bulk", "1", "--delay", "60"])
    capsys.readouterr()
    assert main(["queues", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["broker", "queues"]
    assert told["broker"] == f"sqlite:///{workdir}/pythia.db"
    assert [list(row) for row in told["queues"]] == [KEYS, KEYS]
    bulk, orders = told["queues"]
    assert (orders["queue"], orders["ready"], orders["delayed"], orders["dead"], orders["durable"]) == (
        "orders",
        1,
        0,
        0,
        True,
    )
    assert orders["oldest_age_seconds"] >= 0
    assert (bulk["queue"], bulk["ready"], bulk["delayed"], bulk["oldest_age_seconds"]) == ("bulk", 0, 1, None)


def test_what_a_broker_cannot_tell_is_null_and_a_dash(capsys):
    untold = QueueDepth(queue="orders", ready=3)
    assert queues._as_json("amqp://x/", [untold])["queues"][0] == dict.fromkeys(KEYS) | {"queue": "orders", "ready": 3}
    assert queues._row(untold) == ("orders", 3, None, None, None, None, None)


def test_a_table_for_people_names_the_queues_that_were_asked_for(capsys):
    main(["publish", "orders", "1"])
    main(["publish", "bulk", "1"])
    capsys.readouterr()
    assert main(["queues", "orders"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "QUEUE"
    assert [row.split()[:2] for row in rows] == [["orders", "1"]]


def test_no_queues_yet_says_where_was_looked(capsys, workdir):
    assert main(["queues"]) == 0
    assert f"there is no {workdir / 'pythia.db'}" in capsys.readouterr().out
    assert not (workdir / "pythia.db").exists()


def test_exit_code_is_one_if_anything_is_dead_in_what_was_asked_for():
    asyncio.run(bury("sqlite:///pythia.db", "orders", [Envelope(b"1", id="a")], [failure()]))
    main(["publish", "bulk", "1"])
    assert main(["queues"]) == 0
    assert main(["queues", "--exit-code"]) == 1
    assert main(["queues", "bulk", "--exit-code"]) == 0
    assert main(["queues", "bulk", "orders", "--exit-code", "--json"]) == 1


@pytest.mark.parametrize(("options", "lines"), [(["--json"], 3), ([], 6)])
def test_watch_looks_again_until_ctrl_c(capsys, monkeypatch, options, lines):
    main(["publish", "orders", "1"])
    capsys.readouterr()
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(queues, "_nap", sleep)
    assert main(["queues", "--watch", *options]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == lines
    assert naps == [2.0, 2.0, 2.0]


def test_on_a_terminal_watch_draws_until_ctrl_c(workdir):
    main(["publish", "orders", "1"])
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, "queues", "--watch"],
        env=environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    told = b""
    while b"orders" not in told:
        told += os.read(ours, 4096)
    child.send_signal(signal.SIGINT)
    with suppress(OSError):  # the other side closed
        while os.read(ours, 4096):
            pass
    os.close(ours)
    assert child.wait(60) == 0
    assert b"QUEUE" in told


class Listless(MemoryBroker):
    """A broker that knows no list of its queues."""

    @property
    def capabilities(self):
        return replace(super().capabilities, lists_queues=False)

    async def queues(self):
        raise AssertionError("it cannot be asked")


@pytest.mark.parametrize(("args", "shown"), [([], ["orders", "bulk"]), (["other"], ["other"])])
def test_where_queues_cannot_be_listed_the_configured_ones_are_shown(capsys, monkeypatch, args, shown):
    monkeypatch.setenv("PYTHIA_QUEUES", "orders,bulk")
    monkeypatch.setattr(queues, "check_shared", lambda _config: None)
    monkeypatch.setattr(connection, "open_broker", lambda *_args, **_kwargs: Listless())
    assert main(["queues", "--json", "-b", "memory://", *args]) == 0
    assert [row["queue"] for row in json.loads(capsys.readouterr().out)["queues"]] == shown


@pytest.mark.parametrize("watch", [[], ["--watch"]])
@pytest.mark.parametrize("url", ["amqp://127.0.0.1:1/", "redis://127.0.0.1:1/0"])
def test_a_broker_that_is_not_there_is_one_line_and_69(workdir, url, watch):
    done = pythia_command("queues", "-b", url, *watch, cwd=workdir)
    assert done.code == 69
    assert done.err.count("\n") == 1
    assert "127.0.0.1:1" in done.err
