"""The keys of the configuration: every one that users are promised, its default, and what it refuses."""

from __future__ import annotations

import os
import pickle
import socket

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError

from pythia.config import ReloadClass, WorkerConfig, import_error_class
from pythia.config.keys import keys_of
from pythia.errors import ConfigError

H, Q, C, R = ReloadClass
MIB = 1024 * 1024

# key: (default, reload class, secret). None: no default, or a computed one.
PROMISED = {
    "worker_name": ("worker", R, False),
    "worker_id": (None, R, False),
    "queue": ("default", Q, False),
    "queues": ((), Q, False),
    "concurrency": (10, H, False),
    "prefetch": (None, Q, False),
    "handler_timeout_seconds": (300, H, False),
    "lease_seconds": (30, Q, False),
    "max_age_seconds": (86400, H, False),
    "drain_timeout_seconds": (25, H, False),
    "startup_timeout_seconds": (0, R, False),
    "health_check_interval": (30, H, False),
    "sink": (None, H, False),
    "codecs": (("json", "text", "bytes"), H, False),
    "broker.url": (SecretStr("sqlite:///pythia.db"), C, True),
    "broker.connect_timeout_seconds": (10, H, False),
    "broker.heartbeat_seconds": (15, C, False),
    "broker.declare": (True, Q, False),
    "rabbitmq.queue_type": ("quorum", Q, False),
    "rabbitmq.consumer_timeout_seconds": (1800, R, False),
    "rabbitmq.allow_drop": (False, R, False),
    "rabbitmq.exchange": ("", Q, False),
    "rabbitmq.exchange_type": ("direct", Q, False),
    "rabbitmq.routing_keys": (None, Q, False),
    "rabbitmq.arguments": ({}, Q, False),
    "rabbitmq.deliveries": ("direct", C, False),
    "redis.group": ("pythia", Q, False),
    "redis.delete_on_ack": ("auto", H, False),
    "retry.max_attempts": (16, H, False),
    "retry.base_seconds": (1, H, False),
    "retry.factor": (2, H, False),
    "retry.cap_seconds": (3600, H, False),
    "retry.jitter": (0.2, H, False),
    "retry.delays_seconds": ((), H, False),
    "retry.retry_on": (("Exception",), H, False),
    "retry.give_up_on": ((), H, False),
    "batch.size": (100, H, False),
    "batch.wait_seconds": (1, H, False),
    "dedup.enabled": (False, R, False),
    "dedup.ttl_seconds": (86400, R, False),
    "dedup.store_url": (None, R, True),
    "limits.body_bytes": (16 * MIB, H, False),
    "limits.decompressed_bytes": (64 * MIB, H, False),
    "limits.depth": (128, H, False),
    "health.gate_readiness": (False, H, False),
    "http.enabled": (True, R, False),
    "http.host": ("127.0.0.1", R, False),
    "http.port": (8080, R, False),
    "http.admin_token": (None, H, True),
    "log.level": ("info", H, False),
    "log.format": ("auto", H, False),
    "log.messages": ("errors", H, False),
    "metrics.queue_depth_interval_seconds": (15, H, False),
    "reload.probation_seconds": (0, H, False),
    "processes": (1, H, False),
    "workers": ({}, R, False),
}


@pytest.fixture(autouse=True)
def _empty_directory(workdir):
    """No file is found."""


def test_the_keys_are_the_promised_ones_in_order():
    assert sorted(keys_of(WorkerConfig)) == sorted(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_key_has_its_default_its_reload_class_its_secrecy_and_a_meaning(name: str):
    key, (default, reload, secret) = keys_of(WorkerConfig)[name], PROMISED[name]
    if name != "worker_id":
        assert key.of(WorkerConfig()) == default
    assert (key.reload, key.secret) == (reload, secret)
    assert key.meaning
    assert key.env == "PYTHIA_" + name.replace(".", "__").upper()


def test_what_a_class_may_declare_is_what_the_worker_class_has():
    declared = {name for name, key in keys_of(WorkerConfig).items() if key.declared_by_class}
    retry = {name for name in PROMISED if name.startswith("retry.")}
    assert declared == retry | {
        "worker_name",
        "queue",
        "queues",
        "concurrency",
        "handler_timeout_seconds",
        "sink",
    }


def test_the_worker_id_is_stable_in_a_process_and_says_name_host_and_process():
    assert WorkerConfig().worker_id == f"worker-{socket.gethostname()}-{os.getpid()}"
    assert WorkerConfig(worker_name="mail").worker_id == f"mail-{socket.gethostname()}-{os.getpid()}"
    assert WorkerConfig(worker_id="mail-1", worker_name="mail").worker_id == "mail-1"


def test_queues_win_over_queue():
    assert WorkerConfig(queue="a").queue_names == ("a",)
    assert WorkerConfig(queue="a", queues=["b", "c"]).queue_names == ("b", "c")
    assert WorkerConfig(queue="a", queues=[]).queue_names == ("a",)


REFUSED = [
    ("worker_name", "", "must not be empty"),
    ("worker_name", "a\nb", "must not contain control characters"),
    ("queue", "q" * 256, "must be at most 255 bytes long"),
    ("queue", 5, "must be text"),
    ("queues", "a,b", "must be a list"),
    ("queues", ["a", "a"], "names 'a' twice"),
    ("queues", ["a", ""], "item 2 must not be empty"),
    ("concurrency", 0, "must be at least 1"),
    ("concurrency", "many", "must be a whole number"),
    ("concurrency", 1.5, "must be a whole number"),
    ("concurrency", True, "must be a number"),
    ("prefetch", 0, "must be at least 1"),
    ("prefetch", 70_000, "must be at most 65535"),
    ("handler_timeout_seconds", -1, "must be at least 0"),
    ("handler_timeout_seconds", float("nan"), "must be a finite number"),
    ("handler_timeout_seconds", float("inf"), "must be a finite number"),
    ("handler_timeout_seconds", "1e400", "must be a finite number"),
    ("handler_timeout_seconds", None, "must be a number"),
    ("handler_timeout_seconds", [], "must be a number"),
    ("lease_seconds", 0.5, "must be at least 1"),
    ("max_age_seconds", -1, "must be at least 0"),
    ("drain_timeout_seconds", 0, "must be more than 0"),
    ("startup_timeout_seconds", -1, "must be at least 0"),
    ("health_check_interval", 0, "must be more than 0"),
    ("sink", "", "must not be empty"),
    ("codecs", [], "must not be empty"),
    ("codecs", ["json", "pickle"], "must not name pickle, never"),
    ("codecs", ["xml"], "item 1 must be 'json', 'text', 'bytes' or 'msgpack'"),
    ("codecs", ["json", "json"], "names 'json' twice"),
    ("broker.connect_timeout_seconds", 0, "must be more than 0"),
    ("broker.heartbeat_seconds", 0, "must be at least 1"),
    ("broker.declare", "perhaps", "must be true or false"),
    ("rabbitmq.queue_type", "stream", "must be 'quorum' or 'classic'"),
    ("rabbitmq.exchange_type", "fnaout", "must be one of direct, fanout, topic, headers"),
    ("rabbitmq.consumer_timeout_seconds", 0, "must be more than 0"),
    ("rabbitmq.arguments", [], "must be a table"),
    ("redis.group", "", "must not be empty"),
    ("redis.delete_on_ack", "always", 'must be "auto", true or false'),
    ("retry.max_attempts", 0, "must be at least 1"),
    ("retry.base_seconds", -1, "must be at least 0"),
    ("retry.factor", 0.5, "must be at least 1"),
    ("retry.cap_seconds", -1, "must be at least 0"),
    ("retry.jitter", 1.5, "must be at most 1"),
    ("retry.delays_seconds", [1, -2], "item 2 must be at least 0"),
    ("retry.give_up_on", ["not a path"], "item 1 must be an import path"),
    ("batch.size", 0, "must be at least 1"),
    ("batch.wait_seconds", -1, "must be at least 0"),
    ("dedup.ttl_seconds", 0, "must be more than 0"),
    ("limits.body_bytes", 0, "must be at least 1"),
    ("limits.decompressed_bytes", 0, "must be at least 1"),
    ("limits.depth", 0, "must be at least 1"),
    ("http.host", "", "must not be empty"),
    ("http.port", -1, "must be at least 0"),
    ("http.port", 65_536, "must be at most 65535"),
    ("log.level", "loud", "must be 'debug', 'info', 'warning', 'error' or 'critical'"),
    ("log.level", 10, "must be 'debug', 'info', 'warning', 'error' or 'critical'"),
    ("log.format", "xml", "must be 'auto', 'json' or 'console'"),
    ("log.messages", "none", "must be 'errors' or 'all'"),
    ("metrics.queue_depth_interval_seconds", -1, "must be at least 0"),
    ("reload.probation_seconds", -1, "must be at least 0"),
    ("processes", 0, "must be at least 1"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), REFUSED)
def test_a_value_out_of_its_range_is_refused_by_key_and_rule(key: str, value: object, sentence: str):
    with pytest.raises(ConfigError) as caught:
        WorkerConfig(**{key: value})
    assert str(caught.value).startswith(f"{key} = ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.key, caught.value.source, caught.value.exit_code) == (key, "argument", 78)


@pytest.mark.parametrize(
    ("key", "value", "becomes"),
    [
        ("log.level", "WARN", "warning"),
        ("log.level", "Fatal", "critical"),
        ("log.level", "DEBUG", "debug"),
        ("redis.delete_on_ack", "true", True),
        ("redis.delete_on_ack", False, False),
        ("rabbitmq.exchange_type", "x-delayed-message", "x-delayed-message"),
        ("retry.give_up_on", [ValueError, ConfigError], ("ValueError", "pythia.errors.ConfigError")),
        ("http.port", 0, 0),
        ("codecs", ["msgpack"], ("msgpack",)),
        ("sink", None, None),
    ],
)
def test_a_value_is_taken_as_it_is_meant(key: str, value: object, becomes: object):
    assert keys_of(WorkerConfig)[key].of(WorkerConfig(**{key: value})) == becomes


def test_a_section_is_given_as_a_table_as_a_section_or_by_dotted_keys():
    by_table = WorkerConfig(http={"port": 0})
    assert by_table == WorkerConfig(**{"http.port": 0}) == WorkerConfig(http=by_table.http)
    assert by_table.http.port == 0


def test_a_prefetch_below_concurrency_is_refused_rather_than_raised_unseen():
    assert WorkerConfig(prefetch=10, concurrency=10).prefetch == 10
    with pytest.raises(ConfigError, match=r"^prefetch = 3 \(argument\): must be at least concurrency \(10\)"):
        WorkerConfig(prefetch=3).with_class_defaults({"worker_name": "orders"})


def test_a_prefetch_is_compared_with_the_concurrency_that_the_worker_has():
    config = WorkerConfig(prefetch=3)
    assert config.with_class_defaults({"concurrency": 2}).prefetch == 3
    with pytest.raises(ConfigError, match=r"must be at least concurrency \(4\)"):
        WorkerConfig(prefetch=3, concurrency=4)


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_dedup_on_a_broker_without_a_store_is_refused_and_says_what_to_set(scheme: str):
    url = f"{scheme}://localhost/"
    with pytest.raises(ConfigError, match="PYTHIA_DEDUP__STORE_URL") as caught:
        WorkerConfig(**{"broker.url": url, "dedup.enabled": True})
    assert caught.value.exit_code == 78
    with_store = {"enabled": True, "store_url": "redis://localhost/"}
    assert WorkerConfig(broker={"url": url}, dedup=with_store).dedup.enabled
    assert WorkerConfig(dedup={"enabled": True}).dedup.enabled


def test_a_handler_timeout_beyond_the_servers_is_refused_on_rabbitmq_alone():
    WorkerConfig(handler_timeout_seconds=7200)
    WorkerConfig(handler_timeout_seconds=1710, broker={"url": "amqp://h/"})
    WorkerConfig(handler_timeout_seconds=7200, broker={"url": "amqp://h/"}, rabbitmq={"consumer_timeout_seconds": 7290})
    with pytest.raises(ConfigError, match=r"must stay 90 s below rabbitmq\.consumer_timeout_seconds"):
        WorkerConfig(handler_timeout_seconds=1711, broker={"url": "amqp://h/"})


def test_a_configuration_is_frozen_all_the_way():
    config = WorkerConfig()
    with pytest.raises(ValidationError):
        config.concurrency = 5
    with pytest.raises(ValidationError):
        config.broker.declare = False


def test_two_configurations_from_the_same_sources_are_equal_and_hash_alike():
    assert WorkerConfig() == WorkerConfig()
    assert hash(WorkerConfig()) == hash(WorkerConfig())
    assert WorkerConfig(concurrency=5) != WorkerConfig()
    assert WorkerConfig(broker={"url": "memory://"}) != WorkerConfig()
    assert WorkerConfig() != 5


class ShopSection(BaseModel):
    page_size: int = Field(50, ge=1)
    codes: list[SecretStr] = []


class ShopConfig(WorkerConfig):
    queue: str = "shop"
    shop_api_key: SecretStr
    shop_region: str = Field("eu", description="where the shop is")
    shop: ShopSection = ShopSection()


def test_a_users_own_settings_are_read_and_checked_beside_ours(monkeypatch, workdir):
    monkeypatch.setenv("PYTHIA_SHOP_API_KEY", "k-12345")
    (workdir / "config").mkdir()
    (workdir / "config/pythia.toml").write_text('shop_region = "us"\n[shop]\npage_size = 10\n')
    config = ShopConfig()
    assert (config.shop_api_key.get_secret_value(), config.shop_region, config.shop.page_size) == ("k-12345", "us", 10)
    assert "k-12345" not in repr(config) + str(config) + config.model_dump_json()
    monkeypatch.setenv("PYTHIA_SHOP__PAGE_SIZE", "0")
    with pytest.raises(
        ConfigError, match=r"^shop.page_size = .0. .PYTHIA_SHOP__PAGE_SIZE in the environment.: must be at l"
    ):
        ShopConfig()


def test_a_users_required_key_that_nobody_set_says_how_to_set_it():
    with pytest.raises(
        ConfigError, match=r"^shop_api_key: is required: set PYTHIA_SHOP_API_KEY .or PYTHIA_SHOP_API_KEY_FI"
    ):
        ShopConfig()


def test_a_users_other_default_keeps_what_is_known_about_the_key():
    key = keys_of(ShopConfig)["queue"]
    assert (key.reload, key.declared_by_class, key.meaning) == (Q, True, "what is consumed")
    assert ShopConfig(shop_api_key="x").queue_names == ("shop",)


def test_the_keys_of_one_configuration_class_are_not_misspelt_keys_of_another(monkeypatch, workdir):
    monkeypatch.setenv("PYTHIA_SHOP_API_KEY", "k")
    monkeypatch.setenv("PYTHIA_SHOP_API_KEY_FILE", "k")
    (workdir / "config").mkdir()
    (workdir / "config/pythia.toml").write_text('shop_region = "us"\n[shop]\npage_size = 10\n')
    assert WorkerConfig().queue_names == ("default",)


class FarConfig(WorkerConfig):
    broker: type(WorkerConfig().broker) = WorkerConfig(broker={"url": "redis://far/"}).broker


def test_a_default_inside_a_section_survives_another_key_of_that_section():
    config = FarConfig(broker={"heartbeat_seconds": 5})
    assert (config.broker.display_url, config.broker.heartbeat_seconds) == ("redis://far/", 5)


@pytest.mark.parametrize("make", [WorkerConfig, lambda **kw: ShopConfig(shop_api_key="k-12345", **kw)])
def test_a_configuration_travels_to_another_process_whole(make):
    config = make(concurrency=3).with_class_defaults({"worker_name": "mail"})
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert (copy.worker_name, copy.worker_id) == (config.worker_name, config.worker_id)
    assert copy.reload() == config


class PickyConfig(WorkerConfig):
    shop_token: SecretStr = SecretStr("x")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Nothing: only here to show that it may be."""

    def model_post_init(self, _context: object) -> None:
        token = self.shop_token.get_secret_value()
        if token.startswith("bad"):
            raise ValueError(f"the token {token} is refused")


def test_a_users_own_rule_is_reported_as_a_configuration_error():
    with pytest.raises(ValueError, match="is refused"):
        PickyConfig(shop_token="bad-token")


class TestErrorClasses:
    def test_builtins_need_no_module(self):
        assert import_error_class("ValueError") is ValueError

    def test_a_path_names_module_and_class(self):
        assert import_error_class("pythia.errors.ConfigError") is ConfigError
        assert import_error_class("json.decoder.JSONDecodeError").__name__ == "JSONDecodeError"

    def test_a_class_inside_a_class_is_found(self, workdir, monkeypatch):
        (workdir / "shop_inner_errors.py").write_text("class Errors:\n    class Gone(Exception): ...\n")
        monkeypatch.syspath_prepend(workdir)
        assert import_error_class("shop_inner_errors.Errors.Gone").__name__ == "Gone"

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("ValueErorr", "module builtins has no 'ValueErorr'; did you mean 'ValueError'?"),
            ("nowhere.to.be.Found", "there is no module 'nowhere'"),
            ("pythia.errors.ConfigErorr", "module pythia.errors has no 'ConfigErorr'; did you mean 'ConfigError'?"),
            ("pythia.erorrs.ConfigError", "module pythia has no 'erorrs'"),
            ("len", "not a class of Exception"),
            ("KeyboardInterrupt", "not a class of Exception"),
            ("os.path.join", "not a class of Exception"),
            ("", "write package.module.Class"),
            ("a..b", "write package.module.Class"),
        ],
    )
    def test_what_is_no_error_class_is_refused_by_name(self, path: str, why: str):
        with pytest.raises(ConfigError) as caught:
            import_error_class(path)
        assert why in str(caught.value)
        assert repr(path) in str(caught.value)

    @pytest.mark.parametrize("text", ["1 / 0", "import not_installed_anywhere"])
    def test_a_module_that_breaks_on_import_is_not_taken_for_a_missing_one(self, workdir, monkeypatch, text):
        name = f"shop_broken_{len(text)}"
        (workdir / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(workdir)
        with pytest.raises(ConfigError, match=f"importing {name} failed"):
            import_error_class(f"{name}.Gone")


def test_a_copy_with_changes_is_checked_and_keeps_them_when_a_class_or_a_reload_comes():
    config = WorkerConfig(concurrency=3)
    changed = config.model_copy(update={"concurrency": 5, "retry": {"max_attempts": 2}})
    assert (config.concurrency, changed.concurrency, changed.retry.max_attempts) == (3, 5, 2)
    assert changed.with_class_defaults({"concurrency": 9}).reload().concurrency == 5
    with pytest.raises(ConfigError, match="concurrency"):
        config.model_copy(update={"concurrency": 0})
