"""``pythia run``: what its options say to the worker, and what keeps it from starting."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pythia import service
from pythia.cli import installation, main
from pythia.config import set_config_file, set_process_flags
from pythia.core.worker import Worker

WORKERS = """
from pythia import Worker, handler

class Orders(Worker):
    queue = "orders"

    async def process_message(self, message):
        pass

@handler("mails")
async def on_mail(message):
    pass
"""


@pytest.fixture(autouse=True)
def project(workdir, monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (workdir / "workers.py").write_text(WORKERS)
    yield
    sys.modules.pop("workers", None)
    set_process_flags({})
    set_config_file(None)


@pytest.fixture
def started(monkeypatch) -> list[tuple[Worker, service.RunOptions]]:
    """What would have been run."""
    runs: list[tuple[Worker, service.RunOptions]] = []

    def run(worker: Worker, options: service.RunOptions) -> int:
        runs.append((worker, options))
        return 75

    monkeypatch.setattr(service, "run", run)
    return runs


def test_its_exit_code_is_the_services(started):
    assert main(["run", "workers:Orders"]) == 75
    assert len(started) == 1


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["-q", "a", "--queue", "b"], "queues", ("a", "b")),
        (["-c", "50"], "concurrency", 50),
        (["-p", "1"], "processes", 1),
        (["-w", "1"], "processes", 1),
        (["-n", "shop"], "worker_name", "shop"),
        (["-l", "debug"], "log.level", "debug"),
        (["--log-format", "console"], "log.format", "console"),
        (["--host", "0.0.0.0"], "http.host", "0.0.0.0"),
        (["--port", "0"], "http.port", 0),
        (["--no-http"], "http.enabled", False),
        (["--broker-url", "memory://x"], "broker.scheme", "memory"),
    ],
)
def test_an_option_is_a_setting_that_wins(started, monkeypatch, options, key, value):
    monkeypatch.setenv("PYTHIA_CONCURRENCY", "7")
    monkeypatch.setenv("PYTHIA_QUEUES", "elsewhere")
    main(["run", "workers:Orders", *options])
    found: Any = started[0][0].config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_how_it_ends_is_told_to_the_service(started):
    main(["run", "workers:Orders", "--burst", "--max-messages", "9", "--fail-fast", "--no-http"])
    main(["run", "workers:Orders"])
    (_, told), (_, plain) = started
    assert (told.burst, told.max_messages, told.fail_fast, told.http) == (True, 9, True, False)
    assert plain == service.RunOptions()


def test_an_env_file_sets_what_the_environment_does_not(started, workdir, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "PYTHIA_CONCURRENCY": "7"})
    (workdir / ".env").write_text(
        "PYTHIA_CONCURRENCY=9\nexport PYTHIA_QUEUES='a,b'\n# a comment\nPYTHIA_TEST_NOTHING\n"
    )
    main(["run", "workers:Orders", "--env-file", ".env"])
    config = started[0][0].config
    assert (config.concurrency, config.queues) == (7, ("a", "b"))


def test_two_distributions_of_one_import_name_are_warned_of(started, monkeypatch, capsys):
    monkeypatch.setattr(installation, "packages_distributions", lambda: {"pythia": ["pythia-worker", "pythia"]})
    main(["run", "workers:Orders"])
    told = capsys.readouterr().err
    assert (
        told
        == "pythia: warning: two distributions install the import name pythia (pythia, pythia-worker): uninstall all but one\n"
    )


@pytest.mark.parametrize(
    ("args", "variables", "code", "said"),
    [
        (["workers:Order"], {}, 64, "did you mean Orders?"),
        (["nosuch:W"], {}, 64, "there is no module 'nosuch'"),
        (["nosuch:W", "workers:Orders"], {}, 64, "there is no module 'nosuch'"),
        (["nosuch:W"], {"PYTHIA_PROCESSES": "2"}, 64, "there is no module 'nosuch'"),
        (["./workers.py:Orders", "workers:on_mail"], {}, 64, "is a path; write it as a module: workers:Orders"),
        (["workers:Orders", ""], {}, 64, "TARGET is module:attribute (shop.worker:OrderWorker), not ''"),
        (["workers"], {}, 64, "say which worker: workers defines workers:Orders, workers:on_mail"),
        (["workers:Orders", "workers:Orders"], {}, 64, "stands there twice"),
        (["workers:Orders", "workers:on_mail", "-q", "a"], {}, 64, "--queue and --name are for one worker"),
        (["workers:Orders"], {"PYTHIA_PROCESSES": "0"}, 78, "must be at least 1"),
        (["workers:Orders", "--env-file", "nosuch"], {}, 78, "--env-file nosuch: there is no such file"),
        (["workers:Orders"], {"PYTHIA_CONCURENCY": "3"}, 78, "PYTHIA_CONCURRENCY"),
        (["workers:Orders", "-l", "loud"], {}, 78, "log.level"),
        (["workers:Orders", "--config", "nosuch.toml"], {}, 78, "nosuch.toml"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line_and_its_exit_code(monkeypatch, capsys, args, variables, code, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["run", *args, "--no-http"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("pythia: ")
    assert said in told.err
