"""Reload as an operator does it: files replaced, signals sent, commands typed; what is wrong is one line and changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from pythia import SyncPublisher
from tests.acceptance.reload_kit import Reloadable, outcomes, reload
from tests.acceptance.service_kit import Service, until


def done(place: Reloadable, bodies: list[int]) -> None:
    until(lambda: len(place.ledger()) >= len(bodies), "all are done")
    assert sorted(int(line.split()[0]) for line in place.ledger()) == bodies


def say(place: Reloadable, bodies: range) -> None:
    """As another application does, which knows nothing of this one's configuration file."""
    with SyncPublisher(place.url) as publisher:
        publisher.publish_many("default", bodies)


def settled(service: Service) -> dict[str, int]:
    """The service's own accounts, once nothing is in flight."""
    until(lambda: service.health()["messages"]["in_flight"] == 0, "nothing is in flight")
    messages: dict[str, int] = service.health()["messages"]
    assert messages["residual"] == 0
    return messages


def test_a_changed_file_is_applied_by_a_signal_and_seen_in_health_and_metrics(tmp_path: Path) -> None:
    place = Reloadable(tmp_path)
    place.write("concurrency = 5")
    with place.served() as service:
        place.write("concurrency = 7\nqueues = ['default', 'bulk']\n[log]\nlevel = 'debug'")
        line = reload(service)
        assert line["event"] == "config.applied"
        assert line["generation"] == 2
        assert set(line["changed"]) == {"concurrency", "queues", "log.level"}
        told = service.health()["config"]
        assert told["generation"] == 2
        assert told["last_reload"]["result"] == "applied"
        assert {row["queue"] for row in service.health()["consumers"]} == {"default", "bulk"}
        metrics = service.ask("/metrics")[1]
        assert re.search(r'pythia_config_reloads_total{result="applied",worker="app"} 1.0', metrics)
        assert re.search(r'pythia_config_generation{worker="app"} 2.0', metrics)
        place.publish("bulk", [1])
        done(place, [1])
        place.write("concurrency = 7\n[log]\nlevel = 'error'")
        service.signal(signal.SIGUSR1)
        until(lambda: service.health()["config"]["generation"] == 3, "the third generation")
        assert len(outcomes(service)) == 1, "the line that tells of it is beneath the level by then"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queue = 'default'\nconcurrency = 'many'", ("config/pythia.toml line 2", "concurrency", "whole number")),
        ("queue = 'default'\nconcurency = 5", ("config/pythia.toml line 2", "concurency", "did you mean concurrency")),
        ("queue = 'default'\n\nconcurrency = = 5", ("config/pythia.toml line 3", "not valid TOML")),
        ("concurrency = 0\nlease_seconds = 0", ("line 1", "line 2", "concurrency", "lease_seconds")),
        ("worker_name = 'other'\nconcurrency = 5", ("worker_name", "only a restart")),
    ],
)
def test_a_broken_file_is_one_line_with_file_line_and_key_and_everything_goes_on(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    place = Reloadable(tmp_path)
    place.write("concurrency = 3")
    with place.served() as service:
        place.write(text)
        line = reload(service)
        assert (line["event"], line["level"]) == ("config.refused", "error")
        for word in words:
            assert word in line["cause"]
            assert word in line["message"]
        assert [one for one in service.lines if one["level"] == "error"] == [line]
        say(place, range(20))
        done(place, list(range(20)))
        assert json.loads(service.ask("/config")[1])["concurrency"] == 3
        assert service.health()["config"]["last_reload"]["result"] == "refused"
        assert service.ask("/readyz")[0] == 200
        assert service.stop() == 0


def test_a_config_map_is_swapped_by_its_symlink_and_a_secret_by_its_file(tmp_path: Path) -> None:
    place = Reloadable(tmp_path)
    mounted = tmp_path / "mounted"

    def publish_version(name: str, text: str, token: str) -> None:
        """As the kubelet does: a directory for each version, and a symlink that is renamed over the former one."""
        version = mounted / name
        version.mkdir(parents=True)
        (version / "pythia.toml").write_text(f"{text}\n[broker]\nurl = '{place.url}'\n")
        (version / "token").write_text(token)
        fresh = mounted / "..data_tmp"
        fresh.symlink_to(name)
        fresh.replace(mounted / "..data")

    publish_version("..1", "concurrency = 3", "first")
    for name in ("pythia.toml", "token"):
        (mounted / name).symlink_to(f"..data/{name}")
    environment = {
        "PYTHIA_CONFIG_FILE": str(mounted / "pythia.toml"),
        "PYTHIA_HTTP__ADMIN_TOKEN_FILE": str(mounted / "token"),
    }
    with place.served(**environment) as service:
        publish_version("..2", "concurrency = 4", "t0k3n-two")
        for version in mounted.glob("..1/*"):
            version.unlink()
        line = reload(service)
        assert (line["event"], line["changed"]) == ("config.applied", ["concurrency", "http.admin_token"])
        for token, code in (("first", 1), ("t0k3n-two", 0)):
            told = place.command("reload", service.url, PYTHIA_HTTP__ADMIN_TOKEN=token)
            assert told.returncode == code, told.stdout + told.stderr
        assert "t0k3n-two" not in "".join(service.text)


def test_the_commands_tell_the_plan_and_carry_it_out(tmp_path: Path) -> None:
    place = Reloadable(tmp_path)
    place.write("concurrency = 3")
    with place.served() as service:
        place.write("concurrency = 4\nlease_seconds = 60")
        told = place.command("config", "diff", str(service.pid))
        assert told.returncode == 0, told.stderr
        assert told.stdout.splitlines() == [
            "KEY            OLD  NEW  TAKES",
            "concurrency    3    4    hot",
            "lease_seconds  30   60   resubscribe",
        ]
        assert outcomes(service) == []
        applied = place.command("reload", str(service.pid))
        assert applied.returncode == 0, applied.stderr
        assert f"{service.url}: applied as generation 2" in applied.stdout
        place.write("concurrency = 5\nworker_name = 'other'")
        assert place.command("config", "diff", service.url).returncode == 1
        refused = place.command("reload", service.url)
        assert refused.returncode == 1
        assert "refused, nothing changed: worker_name, worker_id: only a restart can change them" in refused.stdout
        assert "concurrency" in refused.stdout
        line = service.wait_for("config.refused")[0]
        assert line["changed"] == ["worker_name", "worker_id"]


def test_a_reload_to_a_timeout_that_no_handler_can_keep_is_rolled_back_and_its_failures_are_given_back(
    tmp_path: Path,
) -> None:
    place = Reloadable(tmp_path, seconds=0.05)
    probation = "[reload]\nprobation_seconds = 60"
    place.write(f"concurrency = 20\n{probation}")
    with place.served() as service:
        say(place, range(100))
        until(lambda: len(place.ledger()) == 100, "the first hundred")
        place.write(f"concurrency = 20\nhandler_timeout_seconds = 0.001\n{probation}")
        assert reload(service)["event"] == "config.applied"
        say(place, range(100, 300))
        (line,) = service.wait_for("config.rolled_back")
        assert line["level"] == "error"
        assert (line["generation"], line["changed"]) == (3, ["handler_timeout_seconds"])
        assert re.fullmatch(r"\d+ of \d+ messages failed under it, 0 of \d+ messages in the time before", line["cause"])
        done(place, list(range(300)))
        assert {entry.split()[1] for entry in place.ledger()} == {"1"}, "no failure counted as an attempt"
        messages = settled(service)
        assert (messages["ack"], messages["retry"], messages["dead_letter"], messages["lost"]) == (300, 0, 0, 0)
        assert messages["release"] >= 5
        assert json.loads(service.ask("/config")[1])["handler_timeout_seconds"] == 300
        told = service.health()["config"]
        assert (told["generation"], told["last_reload"]["result"]) == (3, "rolled_back")
        assert 'pythia_config_reloads_total{result="rolled_back",worker="app"} 1.0' in service.ask("/metrics")[1]
        assert service.stop() == 0


def test_a_storm_of_signals_is_few_reloads_and_the_newest_content_counts(tmp_path: Path) -> None:
    place = Reloadable(tmp_path, seconds=0.001)
    place.write()
    with place.served() as service, SyncPublisher(place.url) as publisher:
        bodies = list(range(400))
        for number in bodies:
            if number % 4 == 0:
                place.write(f"concurrency = {number + 1}")
            for signalled in (signal.SIGUSR1, signal.SIGHUP):
                service.signal(signalled)
            publisher.publish("default", number)
        place.write("concurrency = 9")
        service.signal(signal.SIGUSR1)
        until(lambda: json.loads(service.ask("/config")[1])["concurrency"] == 9, "the newest content is in force")
        done(place, bodies)
        assert settled(service)["lost"] == 0
        assert len(outcomes(service)) < 2 * len(bodies)
        assert service.stop() == 0


def test_a_reload_signal_while_it_starts_is_carried_out_and_while_it_drains_is_refused(tmp_path: Path) -> None:
    module = """
import asyncio, os
from pythia import Worker

class App(Worker):
    async def on_startup(self):
        print("starting up", flush=True)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)

    async def process_message(self, message):
        print("handling", flush=True)
        while not os.path.exists("on"):
            await asyncio.sleep(0.01)
"""
    place = Reloadable(tmp_path, module=module)
    place.write("concurrency = 3")
    place.publish("default", [1])
    service = place.start("--no-http")
    try:
        until(lambda: "starting up\n" in service.text, "it starts")
        place.write("concurrency = 4")
        service.signal(signal.SIGUSR1)
        (tmp_path / "go").touch()
        assert service.wait_for("config.applied")[0]["changed"] == ["concurrency"]
        until(lambda: "handling\n" in service.text, "a handler runs")
        service.signal(signal.SIGTERM)
        service.wait_for("worker.stopping")
        place.write("concurrency = 5")
        service.signal(signal.SIGUSR1)
        assert service.wait_for("config.refused")[0]["cause"] == "the worker is stopping"
        (tmp_path / "on").touch()
        assert service.ended() == 0
    finally:
        service.kill()


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    place = Reloadable(tmp_path)
    place.write("concurrency = 3")
    with place.served() as service:
        place.config.rename(place.config.with_suffix(".away"))
        assert "is not there any more" in reload(service)["cause"]
        os.kill(service.pid, 0)
        assert json.loads(service.ask("/config")[1])["concurrency"] == 3
