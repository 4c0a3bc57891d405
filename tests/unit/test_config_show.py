"""What is shown of a configuration: differences, effective values, the schema; never a secret. The written documents."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, field_validator

import pythia
from pythia.config import Change, ReloadClass, WorkerConfig, departures, diff, effective, json_schema, plan, redacted
from pythia.config.document import main
from pythia.config.keys import keys_of
from pythia.errors import ConfigError

ROOT = Path(pythia.__file__).parents[1]
SECRETS = {
    "broker.url": "redis://u:hunter2@h/0",
    "dedup.store_url": "redis://:hunter2@h/1",
    "http.admin_token": "hunter2://hunter2",
}


@pytest.fixture(autouse=True)
def _empty_directory(workdir):
    """No file is found."""


def test_no_secret_is_in_any_text_of_a_configuration():
    config = WorkerConfig(**SECRETS)
    changes = diff(WorkerConfig(), config)
    texts = [repr(config), str(config), f"{config}", config.model_dump_json(), repr(config.model_dump())]
    texts += [repr(effective(config)), json.dumps(redacted(config)), repr(changes), *map(str, changes)]
    assert not [text for text in texts if "hunter2" in text]
    assert redacted(config)["broker"]["url"] == "redis://u:***@h/0"
    assert redacted(config)["http"]["admin_token"] == "***"
    assert config.http.admin_token == SecretStr("hunter2://hunter2")


def test_no_secret_is_kept_or_logged_in_the_clear_on_its_way_in(monkeypatch, caplog, workdir):
    (workdir / "secret.toml").write_text('[http]\nadmin_token = "hunter2"\n')
    monkeypatch.setenv("PYTHIA_BROKER__URL", SECRETS["broker.url"])
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    caplog.set_level("DEBUG")
    config = WorkerConfig.load("secret.toml", **{"dedup.store_url": SECRETS["dedup.store_url"]})
    assert "broker" in caplog.text
    assert "hunter2" not in caplog.text + repr(config._sources)


class StrictConfig(WorkerConfig):
    shop_secret: SecretStr = SecretStr("")

    @field_validator("shop_secret")
    @classmethod
    def check(cls, value: SecretStr) -> SecretStr:
        raise ValueError(f"{value.get_secret_value()} is no good")


def test_no_secret_is_in_an_error_not_even_when_a_users_rule_quotes_it(monkeypatch):
    monkeypatch.setenv("PYTHIA_SHOP_SECRET", "hunter2")
    with pytest.raises(ConfigError) as caught:
        StrictConfig()
    assert str(caught.value) == 'shop_secret = "***" (PYTHIA_SHOP_SECRET in the environment): *** is no good'


def test_a_difference_names_key_values_and_what_it_takes():
    old = WorkerConfig()
    new = WorkerConfig(concurrency=20, http={"port": 0}, broker={"url": "redis://u:pw@h/"}, queues=["a"])
    assert diff(old, old) == ()
    assert diff(old, new) == (
        Change(key="queues", old="[]", new='["a"]', reload=ReloadClass.RESUBSCRIBE),
        Change(key="concurrency", old="10", new="20", reload=ReloadClass.HOT),
        Change(key="broker.url", old='"sqlite:///pythia.db"', new='"redis://u:***@h/"', reload=ReloadClass.RECONNECT),
        Change(key="http.port", old="8080", new="0", reload=ReloadClass.RESTART),
    )
    assert [change.hot for change in diff(old, new)] == [False, True, False, False]


def test_a_secret_that_changed_is_a_difference_though_it_looks_the_same():
    old, new = (WorkerConfig(broker={"url": f"redis://u:{password}@h/"}) for password in ("a", "b"))
    (change,) = diff(old, new)
    assert change.key == "broker.url"
    assert change.old == change.new


def test_a_key_of_a_users_own_is_hot_and_compared():
    changes = diff(WorkerConfig(), _shop("eu"))
    assert changes == (Change(key="shop_zone", old="none", new='"eu"', reload=ReloadClass.HOT),)
    assert [str(change) for change in diff(_shop("eu"), _shop("us"))] == ['shop_zone: "eu" → "us"']


class ZoneConfig(WorkerConfig):
    shop_zone: str = "eu"


def _shop(zone: str) -> ZoneConfig:
    return ZoneConfig(shop_zone=zone)


def test_what_is_effective_is_ready_for_json_and_has_every_key_once():
    rows = effective(WorkerConfig(concurrency=5))
    assert [row.key for row in rows] == list(keys_of(WorkerConfig))
    values = {row.key: row.value for row in rows}
    assert json.loads(json.dumps(values)) == values
    assert (values["concurrency"], values["lease_seconds"], values["retry.jitter"]) == (5, 30, 0.2)
    assert {row.key for row in rows if row.origin.layer == "argument"} == {"concurrency"}
    assert redacted(WorkerConfig())["reload"] == {"probation_seconds": 0}


def test_the_schema_describes_every_key_and_hides_nothing_it_should_show():
    schema = json.loads(json.dumps(json_schema(WorkerConfig)))
    assert schema["additionalProperties"] is False
    assert schema["properties"]["concurrency"] == {
        "default": 10,
        "description": "most handlers at once, in each process",
        "environment": "PYTHIA_CONCURRENCY",
        "maximum": 65535,
        "minimum": 1,
        "reload": "H",
        "title": "Concurrency",
        "type": "integer",
    }
    assert schema["$defs"]["BrokerSection"]["properties"]["url"]["default"] == "sqlite:///pythia.db"
    assert "reload" in schema["properties"]
    assert "***" not in json.dumps(schema)
    assert "shop_zone" in json_schema(ZoneConfig)["properties"]


def test_the_documents_are_what_the_schema_says():
    assert main(["--check", "--root", str(ROOT)]) == 0


def test_a_stale_document_is_noticed_and_written_anew(workdir, capsys):
    assert main(["--check"]) == 1
    assert "stale" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["--check"]) == 0
    (workdir / "docs/configuration.md").write_text("old")
    assert main(["--check"]) == 1


def test_the_file_of_the_project_loads_and_says_nothing_but_the_defaults():
    assert WorkerConfig.load(ROOT / "config/pythia.toml") == WorkerConfig()


def test_the_file_of_the_project_has_every_key_and_leaves_to_a_class_what_is_a_classes(workdir):
    text = (ROOT / "config/pythia.toml").read_text()
    config = WorkerConfig.load(ROOT / "config/pythia.toml").with_class_defaults({"concurrency": 50})
    assert config.concurrency == 50
    everything = re.sub(r"(?m)^#(?=[a-z_\[])", "", text)
    (workdir / "all.toml").write_text(everything)
    full = WorkerConfig.load("all.toml")
    said = {row.key for row in effective(full) if row.origin.layer == "file"}
    assert said == set(keys_of(WorkerConfig))
    examples = {"worker_name", "worker_id", "prefetch", "sink", "rabbitmq.routing_keys", "dedup.store_url"}
    examples |= {"http.admin_token", "workers"}
    assert {change.key for change in diff(WorkerConfig(), full)} == examples


def test_importing_the_room_loads_neither_pydantic_nor_anything_heavier():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import pythia.config.urls\n"
        "assert 'pydantic' not in sys.modules\n"
        "from pythia.config import WorkerConfig\n"
        "heavy = {'aiohttp', 'redis', 'aio_pika', 'sqlite3', 'rich', 'prometheus_client', 'structlog'}\n"
        "loaded = set(sys.modules) - before\n"
        "assert not heavy & loaded, heavy & loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_every_exported_name_is_there_and_no_other_is():
    from pythia import config

    assert all(getattr(config, name) is not None for name in config.__all__)
    assert set(config.__all__) <= set(dir(config))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = config.Nothing


# What a reload takes.


@pytest.mark.parametrize(
    ("changed", "takes"),
    [
        ({}, "nothing"),
        ({"concurrency": 5, "retry.cap_seconds": 9}, "nothing"),
        ({"lease_seconds": 60}, "other consumers"),
        ({"queue": "other"}, "other consumers"),
        ({"broker.url": "amqp://other/"}, "another connection"),
        ({"broker.connect_timeout_seconds": 3}, "another connection"),
        ({"broker.declare": False}, "another connection"),
        ({"rabbitmq.exchange": "x"}, "another connection"),
        ({"redis.group": "g"}, "nothing"),
    ],
)
def test_what_a_connection_is_made_of_takes_another_one_and_another_brokers_section_nothing(changed, takes):
    base = {"broker.url": "amqp://one/"}
    found = plan(WorkerConfig(**base), WorkerConfig(**{**base, **changed}))
    assert set(found.keys) == set(changed)
    assert (found.resubscribes, found.reconnects) == {
        "nothing": (False, False),
        "other consumers": (True, False),
        "another connection": (True, True),
    }[takes]
    assert found.refusal is None


def test_keys_of_a_restart_are_named_and_refuse():
    found = plan(WorkerConfig(), WorkerConfig(**{"http.port": 1, "dedup.ttl_seconds": 2, "concurrency": 3}))
    assert found.restart == ("dedup.ttl_seconds", "http.port")
    assert found.refusal == "dedup.ttl_seconds, http.port: only a restart can change them"


def test_what_departs_from_the_defaults_is_told_and_no_secret(monkeypatch):
    monkeypatch.setenv("PYTHIA_BROKER__URL", "redis://u:pw@h/")
    config = WorkerConfig(concurrency=20, **{"retry.max_attempts": 16})
    assert [(change.key, change.old, change.new) for change in departures(config)] == [
        ("concurrency", "10", "20"),
        ("broker.url", '"sqlite:///pythia.db"', '"redis://u:***@h/"'),
    ]


def test_a_worker_of_a_table_is_reloaded_by_its_own_keys_and_other_tables_are_others(workdir):
    file = workdir / "many.toml"
    file.write_text("[workers.a]\ntarget = 'm:A'\nconcurrency = 2\n[workers.b]\ntarget = 'm:B'\n")
    one = WorkerConfig.load(file).for_worker("a")
    file.write_text("[workers.a]\ntarget = 'm:A'\nconcurrency = 3\n[workers.b]\ntarget = 'm:C'\nqueue = 'b'\n")
    found = plan(one, one.reload())
    assert found.keys == ("concurrency",)
    assert found.refusal is None
    file.write_text("[workers.a]\ntarget = 'm:Z'\nconcurrency = 2\n")
    assert plan(one, one.reload()).changes == (), "another target is the supervisor's to see to"
    file.write_text("concurrency = 3\n")
    with pytest.raises(ConfigError, match=r"workers\.a .*is not there any more"):
        one.reload()
