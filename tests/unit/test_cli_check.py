"""``pythia check``: what ``run`` would stumble over, with the exit code that it would end with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from pythia.broker import Capabilities, QueueDepth, Survey
from pythia.brokers.memory import MemoryBroker
from pythia.cli import check, main
from pythia.config import set_config_file, set_process_flags
from pythia.errors import BrokerRefused

WORKER = """
from pythia import Worker

class Orders(Worker):
    queues = ("orders", "orders.bulk")

    async def process_message(self, message):
        pass

class Empty(Worker):
    pass
"""


@pytest.fixture(autouse=True)
def project(workdir, monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(check, "rival_distributions", list)
    (workdir / "checked.py").write_text(WORKER)
    yield
    sys.modules.pop("checked", None)
    set_process_flags({})
    set_config_file(None)


def findings(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> dict[str, list[tuple[str, str]]]:
    assert main(["check", "--json", *args]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is (code == 0)
    by_check: dict[str, list[tuple[str, str]]] = {}
    for finding in answer["findings"]:
        assert list(finding) == ["check", "result", "detail"]
        by_check.setdefault(finding["check"], []).append((finding["result"], finding["detail"]))
    return by_check


def test_everything_is_looked_at_and_named(capsys, workdir):
    found = findings(capsys, "checked:Orders")
    assert list(found) == ["import", "configuration", "connection", "topology", "risks"]
    assert found["import"] == [("ok", "checked:Orders")]
    assert [detail.split(":")[0] for _, detail in found["topology"]] == ["queue orders", "queue orders.bulk"]
    assert str(workdir / "pythia.db") in found["connection"][0][1]
    assert found["risks"] == [("ok", "none known")]


def test_without_a_target_the_rest_is_looked_at(capsys):
    found = findings(capsys)
    assert "import" not in found
    assert found["topology"][0][1].startswith("queue default: 0 ready")


def test_a_table_is_for_people(capsys):
    assert main(["check", "checked:Orders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["CHECK", "RESULT", "DETAIL"]
    assert lines[1].split() == ["import", "ok", "checked:Orders"]


@pytest.mark.parametrize(
    ("args", "variables", "failed", "code"),
    [
        (["checked:Nobody"], {}, "import", 64),
        ([], {"PYTHIA_CONCURRENCY": "many"}, "configuration", 78),
        (["checked:Orders"], {"PYTHIA_CONCURRENCY": "many"}, "configuration", 78),
        (["-b", "sqlite:////proc/nowhere/queue.db"], {}, "connection", 74),
        (["-b", "smtp://mail"], {}, "configuration", 78),
    ],
)
def test_the_first_failure_decides_the_exit_code(capsys, monkeypatch, args, variables, failed, code):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = findings(capsys, *args, code=code)
    assert found[failed][-1][0] == "failed"
    assert list(found)[-1] == failed


def test_a_corrupt_queue_file_is_told_and_left_as_it_is(capsys, workdir):
    (workdir / "pythia.db").write_bytes(b"not a database, but long enough to look at" * 100)
    before = (workdir / "pythia.db").read_bytes()
    found = findings(capsys, code=74)
    assert found["connection"][0][0] == "failed"
    assert (workdir / "pythia.db").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "variables", "risk"),
    [
        (["-b", "memory://"], {}, "keeps messages in the process"),
        (["checked:Empty"], {}, "Empty defines neither process_message nor process_batch"),
        ([], {"PYTHIA_HANDLER_TIMEOUT_SECONDS": "0"}, "a handler that hangs keeps its slot"),
        ([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "PYTHIA_DRAIN_TIMEOUT_SECONDS": "30"}, "Kubernetes' grace"),
    ],
)
def test_a_risk_is_told_and_is_one_only_when_strict(capsys, monkeypatch, args, variables, risk):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = findings(capsys, *args)
    assert [(result, risk in detail) for result, detail in found["risks"]] == [("risk", True)]
    assert main(["check", "--strict", *args]) == 1


def test_a_password_in_a_file_that_everybody_may_read_is_a_risk(workdir, monkeypatch):
    from pythia.config import WorkerConfig

    file = workdir / "pythia.toml"
    file.write_text('[broker]\nurl = "amqp://shop:geheim@rabbitmq/"\n')
    monkeypatch.setenv("PYTHIA_CONFIG_FILE", str(file))
    file.chmod(0o644)
    assert [str(file) in risk for risk in check._of_the_settings(WorkerConfig())] == [True]
    file.chmod(0o600)
    assert list(check._of_the_settings(WorkerConfig())) == []
    config = WorkerConfig()
    file.unlink()
    assert list(check._of_the_settings(config)) == []


def test_what_a_broker_cannot_do_is_a_risk():
    able = Capabilities(name="redis-pubsub", guarantee="at-most-once", durable=False, keeps=False, dead_letters=False)
    words = ("at most once", "no dead letters")
    assert [word in risk for word, risk in zip(words, check._of_the_broker(able), strict=True)] == [True, True]
    (risk,) = check._of_the_broker(Capabilities(name="memory", durable=False))
    assert "end with it" in risk


def surveyed(monkeypatch, answer) -> None:
    async def survey(_broker, queues):
        assert list(queues) == ["default"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(MemoryBroker, "survey", survey)


def test_what_the_server_offers_and_risks_is_told_one_by_one(capsys, monkeypatch):
    surveyed(monkeypatch, Survey(offers=["quorum queues", "streams"], risks=["queue default drops after 5 deliveries"]))
    found = findings(capsys, "-b", "memory://")
    assert found["offers"] == [("ok", "quorum queues"), ("ok", "streams")]
    assert ("risk", "queue default drops after 5 deliveries") in found["risks"]
    assert main(["check", "--strict", "-b", "memory://"]) == 1


def test_a_server_that_cannot_be_looked_at_is_a_risk_and_no_failure(capsys, monkeypatch):
    surveyed(monkeypatch, BrokerRefused("CONFIG is not permitted"))
    found = findings(capsys, "-b", "memory://")
    assert "offers" not in found
    assert ("risk", "the broker could not be looked at: CONFIG is not permitted") in found["risks"]


def test_a_queue_of_which_nothing_can_be_told_is_named_all_the_same():
    assert check._depth(QueueDepth(queue="news")) == "queue news: how much it holds cannot be told"


def test_no_timeout_is_a_risk_of_its_own_on_rabbitmq():
    from pythia.config import WorkerConfig

    config = WorkerConfig(handler_timeout_seconds=0, broker={"url": "amqp://rabbitmq/"})
    assert "consumer_timeout" in next(iter(check._of_the_settings(config)))
    config = WorkerConfig(handler_timeout_seconds=0)
    assert "consumer_timeout" not in next(iter(check._of_the_settings(config)))


def test_two_distributions_of_one_import_name_are_a_risk(monkeypatch):
    monkeypatch.setattr(check, "rival_distributions", lambda: ["pythia", "pythia-worker"])
    assert next(check._of_the_machine()).startswith(
        "two distributions install the import name pythia: pythia, pythia-worker"
    )


def test_rivals_are_counted_from_what_is_installed(monkeypatch):
    from pythia.cli import installation

    monkeypatch.setattr(installation, "packages_distributions", lambda: {"pythia": ["pythia-worker", "pythia-worker"]})
    assert installation.rival_distributions() == []
    monkeypatch.setattr(installation, "packages_distributions", lambda: {"pythia": ["pythia-worker", "pythia"]})
    assert installation.rival_distributions() == ["pythia", "pythia-worker"]
