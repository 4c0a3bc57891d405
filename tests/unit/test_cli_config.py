"""``pythia config``: what is in force, where it was said, and no secret in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from pythia.cli import main
from pythia.config import set_config_file, set_process_flags


@pytest.fixture(autouse=True)
def project(workdir, monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (workdir / "configured.py").write_text(
        "from pythia import Worker, WorkerConfig\n\n"
        "class ShopConfig(WorkerConfig):\n    shop_url: str = 'http://shop'\n\n"
        "class Orders(Worker):\n    queue = 'orders'\n    config_class = ShopConfig\n"
    )
    yield
    sys.modules.pop("configured", None)
    set_process_flags({})
    set_config_file(None)


def test_show_prints_keys_as_they_stand_in_the_file(capsys, monkeypatch):
    monkeypatch.setenv("PYTHIA_CONCURRENCY", "50")
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "concurrency = 50" in lines
    assert 'broker.url = "sqlite:///pythia.db"' in lines


def test_origins_say_where_each_value_was_said(capsys, workdir, monkeypatch):
    (workdir / "my.toml").write_text("[retry]\nmax_attempts = 3\n")
    monkeypatch.setenv("PYTHIA_CONCURRENCY", "50")
    argv = ["config", "show", "--origin", "--json", "--config", "my.toml", "-b", "memory://", "configured:Orders"]
    assert main(argv) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["concurrency"] == {"value": 50, "origin": "PYTHIA_CONCURRENCY in the environment"}
    assert said["retry.max_attempts"] == {"value": 3, "origin": "my.toml line 2"}
    assert said["broker.url"] == {"value": "memory://", "origin": "--broker-url"}
    assert said["queue"] == {"value": "orders", "origin": "class Orders"}
    assert said["shop_url"] == {"value": "http://shop", "origin": "default"}


def test_origins_as_a_table(capsys):
    assert main(["config", "show", "--origin"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["KEY", "VALUE", "FROM"]
    assert ["concurrency", "10", "default"] in [row.split() for row in rows]


def test_json_is_nested_as_the_file_is(capsys):
    assert main(["config", "show", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["concurrency"] == 10
    assert tree["broker"]["url"] == "sqlite:///pythia.db"


@pytest.mark.parametrize("options", [[], ["--origin"], ["--json"], ["--origin", "--json"]])
def test_no_secret_is_shown(capsys, monkeypatch, options):
    monkeypatch.setenv("PYTHIA_BROKER__URL", "amqp://shop:geheim@rabbitmq/")
    monkeypatch.setenv("PYTHIA_HTTP__ADMIN_TOKEN", "open-sesame")
    assert main(["config", "show", *options]) == 0
    told = capsys.readouterr().out
    assert "geheim" not in told
    assert "open-sesame" not in told
    assert "amqp://shop:***@rabbitmq/" in told


def test_what_cannot_be_used_is_78_and_names_the_key(capsys, monkeypatch):
    monkeypatch.setenv("PYTHIA_CONCURENCY", "50")
    assert main(["config", "show"]) == 78
    assert "PYTHIA_CONCURRENCY" in capsys.readouterr().err


@pytest.mark.parametrize(("target", "key"), [([], "concurrency"), (["configured:Orders"], "shop_url")])
def test_the_schema_describes_the_keys(capsys, target, key):
    assert main(["config", "schema", *target]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert key in schema["properties"]
