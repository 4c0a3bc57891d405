"""Where settings come from: the order of the layers, the environment's text, the file, secrets, class attributes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.config import Origin, WorkerConfig, origins, process_flags, set_config_file, set_process_flags, was_set
from pythia.config.environment import UnreadableError, decode_list
from pythia.config.keys import keys_of
from pythia.config.tomlfile import read_toml
from pythia.errors import ConfigError


@pytest.fixture(autouse=True)
def _empty_directory(workdir):
    """No file is found."""


@pytest.fixture
def flags():
    """Set flags; they are gone after the test."""
    yield set_process_flags
    set_process_flags({})
    set_config_file(None)


@pytest.fixture
def file(workdir):
    """Write the default file."""

    def write(text: str, name: str = "config/pythia.toml") -> Path:
        path = workdir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def refusal(**overrides: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        WorkerConfig(**overrides)
    return caught.value


class TestPrecedence:
    def test_each_layer_wins_over_the_one_below_and_the_origin_says_which(self, file, flags, monkeypatch):
        def said(**overrides: object) -> tuple[int, str]:
            config = WorkerConfig(**overrides).with_class_defaults({"concurrency": 11}, where="Orders")
            return config.concurrency, str(origins(config)["concurrency"])

        assert str(origins(WorkerConfig())["concurrency"]) == "default"
        assert said() == (11, "class Orders")
        file("\nconcurrency = 12\n")
        assert said() == (12, "config/pythia.toml line 2")
        monkeypatch.setenv("PYTHIA_CONCURRENCY", "13")
        assert said() == (13, "PYTHIA_CONCURRENCY in the environment")
        flags({"concurrency": 14})
        assert said() == (14, "--concurrency")
        assert said(concurrency=15) == (15, "argument")

    def test_sections_merge_key_by_key(self, file, monkeypatch):
        file("[retry]\nmax_attempts = 3\nfactor = 3\n")
        monkeypatch.setenv("PYTHIA_RETRY__FACTOR", "4")
        config = WorkerConfig(retry={"cap_seconds": 5}).with_class_defaults({"retry": {"jitter": 0, "factor": 9}})
        retry = config.retry
        assert (retry.max_attempts, retry.factor, retry.cap_seconds, retry.jitter, retry.base_seconds) == (
            3,
            4,
            5,
            0,
            1,
        )

    def test_flags_are_the_processes_and_seen_by_what_is_built_later(self, flags):
        flags({"http.port": 0, "queues": ["a"], "log.level": "debug"}, {"http.port": "--port"})
        config = WorkerConfig()
        assert (config.http.port, config.queues, config.log.level) == (0, ("a",), "debug")
        assert origins(config)["http.port"] == Origin("flag", "--port")
        assert dict(process_flags()) == {"http.port": 0, "queues": ["a"], "log.level": "debug"}

    def test_a_flags_text_is_read_as_the_environments(self, flags):
        flags({"queues": "a, b", "concurrency": "5", "broker.url": "memory://"})
        config = WorkerConfig()
        assert (config.queues, config.concurrency, config.broker.scheme) == (("a", "b"), 5, "memory")

    def test_a_flag_that_cannot_be_used_is_named_as_it_is_written(self, flags):
        flags({"concurrency": "lots"})
        assert str(refusal()) == 'concurrency = "lots" (--concurrency): must be a whole number'
        flags({"queues": "[broken"})
        assert str(refusal()).startswith('queues = "[broken" (--queues): must be a comma-separated list')

    def test_a_queue_that_an_operator_names_wins_over_the_queues_of_the_class(self, monkeypatch):
        declared = {"queue": "default", "queues": ("a", "b")}
        assert WorkerConfig().with_class_defaults(declared).queue_names == ("a", "b")
        monkeypatch.setenv("PYTHIA_QUEUE", "c")
        assert WorkerConfig().with_class_defaults(declared).queue_names == ("c",)
        monkeypatch.setenv("PYTHIA_QUEUES", "d")
        assert WorkerConfig().with_class_defaults(declared).queue_names == ("d",)

    def test_whether_a_key_was_set_does_not_depend_on_its_value(self, monkeypatch):
        assert not was_set(WorkerConfig(), "http.port")
        assert was_set(WorkerConfig(http={"port": 8080}), "http.port")
        monkeypatch.setenv("PYTHIA_HTTP__PORT", "8080")
        assert was_set(WorkerConfig(), "http.port")
        assert not was_set(WorkerConfig().with_class_defaults({"concurrency": 5}), "concurrency")
        with pytest.raises(KeyError):
            was_set(WorkerConfig(), "http.prot")

    def test_origins_tell_of_every_key(self):
        assert list(origins(WorkerConfig())) == list(keys_of(WorkerConfig))


class TestClassDefaults:
    DECLARED = {
        "worker_name": "order-worker",
        "queue": "orders",
        "queues": (),
        "concurrency": 50,
        "handler_timeout_seconds": None,
        "sink": "receipts",
        "retry": {"max_attempts": 3, "give_up_on": (ValueError,)},
    }

    def test_they_fill_what_nobody_set(self):
        config = WorkerConfig(concurrency=5).with_class_defaults(self.DECLARED)
        assert (config.worker_name, config.queue_names, config.concurrency) == ("order-worker", ("orders",), 5)
        assert (config.handler_timeout_seconds, config.sink) == (0, "receipts")
        assert (config.retry.max_attempts, config.retry.give_up_on) == (3, ("ValueError",))
        assert config.worker_id.startswith("order-worker-")

    def test_an_explicit_worker_id_stays(self):
        assert WorkerConfig(worker_id="w-1").with_class_defaults(self.DECLARED).worker_id == "w-1"

    def test_the_copy_equals_what_it_came_from(self):
        plain, declared = WorkerConfig(), WorkerConfig().with_class_defaults(self.DECLARED)
        assert plain == declared
        assert hash(plain) == hash(declared)
        assert WorkerConfig(concurrency=5) != declared
        assert declared == WorkerConfig().with_class_defaults({"concurrency": 7})

    def test_saying_what_the_default_is_differs_from_saying_nothing_where_a_class_may_declare(self):
        assert WorkerConfig(concurrency=10) != WorkerConfig()

    def test_a_reload_of_the_copy_says_them_again(self, file):
        config = WorkerConfig().with_class_defaults(self.DECLARED)
        file("concurrency = 6")
        again = config.reload()
        assert (again.concurrency, again.sink) == (6, "receipts")
        assert again != config

    def test_nothing_is_read_again_for_the_copy(self, file):
        config = WorkerConfig()
        file("lease_seconds = 99")
        assert config.with_class_defaults(self.DECLARED).lease_seconds == 30

    def test_what_a_class_declares_is_checked_too(self):
        with pytest.raises(ConfigError, match=r"^concurrency = 0 \(class Orders\): must be at least 1"):
            WorkerConfig().with_class_defaults({"concurrency": 0}, where="Orders")

    @pytest.mark.parametrize(
        ("declared", "sentence"),
        [
            ({"http": {"port": 1}}, "http.port (the worker's class): is not for a class to declare"),
            ({"concurency": 1}, "concurency (the worker's class): there is no such key; did you mean concurrency?"),
        ],
    )
    def test_a_class_declares_only_what_is_its_own(self, declared, sentence):
        with pytest.raises(ConfigError) as caught:
            WorkerConfig().with_class_defaults(declared)
        assert str(caught.value) == sentence


class TestEnvironment:
    @pytest.mark.parametrize(
        ("name", "text", "key", "value"),
        [
            ("PYTHIA_QUEUES", "a, b ,,c", "queues", ("a", "b", "c")),
            ("PYTHIA_QUEUES", '["a,b", "c"]', "queues", ("a,b", "c")),
            ("PYTHIA_QUEUES", "", "queues", ()),
            ("PYTHIA_RETRY__DELAYS_SECONDS", "1,2.5", "retry.delays_seconds", (1, 2.5)),
            ("PYTHIA_RABBITMQ__ARGUMENTS", '{"x-max-length": 5}', "rabbitmq.arguments", {"x-max-length": 5}),
            ("PYTHIA_RABBITMQ__ROUTING_KEYS", "", "rabbitmq.routing_keys", None),
            ("PYTHIA_SINK", "", "sink", None),
            ("PYTHIA_PREFETCH", "", "prefetch", None),
            ("PYTHIA_HTTP__ENABLED", "false", "http.enabled", False),
            ("PYTHIA_HTTP__PORT", "0", "http.port", 0),
            ("PYTHIA_RELOAD__PROBATION_SECONDS", "5", "reload.probation_seconds", 5),
            ("PYTHIA_RABBITMQ__EXCHANGE", "", "rabbitmq.exchange", ""),
        ],
    )
    def test_a_text_means_what_its_key_is(self, monkeypatch, name, text, key, value):
        monkeypatch.setenv(name, text)
        assert keys_of(WorkerConfig)[key].of(WorkerConfig()) == value

    def test_nothing_is_something_that_was_said(self, file, monkeypatch):
        file('sink = "receipts"')
        monkeypatch.setenv("PYTHIA_SINK", "")
        config = WorkerConfig()
        assert config.sink is None
        assert was_set(config, "sink")

    @pytest.mark.parametrize(
        ("name", "text", "sentence"),
        [
            ("PYTHIA_CONCURRENCY", "", "must be a whole number"),
            ("PYTHIA_QUEUES", "[1", "must be a comma-separated list or a JSON list"),
            ("PYTHIA_QUEUES", "[" * 100_000, "must be a comma-separated list or a JSON list"),
            ("PYTHIA_RABBITMQ__ARGUMENTS", "[]", "must be a JSON object"),
            ("PYTHIA_RABBITMQ__ARGUMENTS", "x=1", "must be a JSON object"),
        ],
    )
    def test_a_text_that_means_nothing_is_refused_by_variable(self, monkeypatch, name, text, sentence):
        monkeypatch.setenv(name, text)
        error = refusal()
        assert sentence in str(error)
        assert error.source == f"{name} in the environment"
        assert len(str(error)) < 300

    @pytest.mark.parametrize(
        ("alias", "text", "key", "regular", "other"),
        [
            ("LOG_LEVEL", "DEBUG", "log.level", "PYTHIA_LOG__LEVEL", "error"),
            ("PYTHIA_BROKER_URL", "memory://", "broker.url", "PYTHIA_BROKER__URL", "redis://h/"),
        ],
    )
    def test_an_alias_is_read_and_the_regular_name_wins(self, monkeypatch, alias, text, key, regular, other):
        monkeypatch.setenv(alias, text)
        assert origins(WorkerConfig())[key].where == alias
        monkeypatch.setenv(regular, other)
        assert origins(WorkerConfig())[key].where == regular
        assert WorkerConfig().log.level in ("info", "error")

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("PYTHIA_CONCURENCY", "PYTHIA_CONCURRENCY"),
            ("PYTHIA_BORKER__URL", "PYTHIA_BROKER__URL"),
            ("PYTHIA_RETRY_MAX_ATTEMPTS", "PYTHIA_RETRY__MAX_ATTEMPTS"),
            ("PYTHIA_BROKER__ULR_FILE", "PYTHIA_BROKER__URL_FILE"),
            ("PYTHIA_ZZZZZZ", None),
            ("PYTHIA_", None),
            ("PYTHIA_CONCURRENCY_FILE", "PYTHIA_CONCURRENCY"),
        ],
    )
    def test_a_misspelt_variable_is_refused_with_the_nearest_and_without_its_value(self, monkeypatch, name, nearest):
        monkeypatch.setenv(name, "hunter2")
        error = refusal()
        hint = f"; did you mean {nearest}?" if nearest else ""
        assert str(error) == f"{name} in the environment: there is no such key{hint}"
        assert (error.nearest, error.exit_code) == (nearest, 78)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PYTHIA_PORT", "tcp://10.0.0.1:80"),
            ("PYTHIA_PORT", "udp://10.0.0.1:53"),
            ("PYTHIA_WEB_PORT", "tcp://10.0.0.1:80"),
            ("PYTHIA_SERVICE_HOST", "10.0.0.1"),
            ("PYTHIA_SERVICE_PORT", "80"),
            ("PYTHIA_SERVICE_PORT_HTTP", "80"),
            ("PYTHIA_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("PYTHIA_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("PYTHIA_PORT_80_TCP_PORT", "80"),
            ("PYTHIA_PORT_80_TCP_PROTO", "tcp"),
            ("PYTHIA_ORDERS_SERVICE_HOST", "10.0.0.1"),
            ("PYTHIA_TEST_REDIS", "redis://h/"),
            ("PYTHIA_JOBS_DB", "jobs.db"),
            ("PYTHIAN", "x"),
            ("pythia_concurrency", "5"),
        ],
    )
    def test_what_others_put_into_the_environment_stops_nothing(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        assert WorkerConfig() == WorkerConfig()
        assert WorkerConfig().concurrency == 10

    def test_a_port_that_no_orchestrator_injected_is_a_misspelt_one(self, monkeypatch):
        monkeypatch.setenv("PYTHIA_PORT", "8080")
        assert refusal().source == "PYTHIA_PORT in the environment"

    @given(st.lists(st.text(st.characters(exclude_characters=",[", exclude_categories=["Z", "C"]), min_size=1)))
    def test_names_joined_by_commas_come_back(self, names):
        assert decode_list(",".join(names)) == names
        assert decode_list(" , ".join(names)) == names

    @given(st.lists(st.text() | st.integers()))
    def test_a_json_list_comes_back(self, items):
        assert decode_list(f" {json.dumps(items)} ") == items

    @given(st.text())
    def test_any_text_is_a_list_or_refused(self, text):
        try:
            items = decode_list(text)
        except UnreadableError:
            assert text.lstrip().startswith("[")
        else:
            assert isinstance(items, list)


class TestSecretFiles:
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_the_value_is_read_from_the_file_without_its_line_end(self, monkeypatch, workdir, end):
        (workdir / "token").write_bytes(b" s3cret " + end.encode())
        monkeypatch.setenv("PYTHIA_HTTP__ADMIN_TOKEN_FILE", "token")
        token = WorkerConfig().http.admin_token
        assert token is not None
        assert token.get_secret_value() == " s3cret "

    def test_one_line_end_is_dropped_and_no_more(self, monkeypatch, workdir):
        (workdir / "token").write_text("s3cret\n\n")
        monkeypatch.setenv("PYTHIA_HTTP__ADMIN_TOKEN_FILE", "token")
        assert WorkerConfig().http.admin_token.get_secret_value() == "s3cret\n"

    @pytest.mark.parametrize(
        "name", ["PYTHIA_BROKER__URL_FILE", "PYTHIA_BROKER_URL_FILE", "PYTHIA_DEDUP__STORE_URL_FILE"]
    )
    def test_every_secret_key_has_the_twin_and_the_alias_too(self, monkeypatch, workdir, name):
        (workdir / "url").write_text("redis://u:pw@h/\n")
        monkeypatch.setenv(name, "url")
        config = WorkerConfig()
        assert "redis://u:***@h/" in repr(config)
        assert "pw" not in repr(config)

    def test_it_is_read_again_at_reload(self, monkeypatch, workdir):
        (workdir / "url").write_text("redis://a/")
        monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", "url")
        config = WorkerConfig()
        (workdir / "url").write_text("redis://b/")
        assert config.broker.display_url == "redis://a/"
        assert config.reload().broker.display_url == "redis://b/"
        assert config.reload() != config

    def test_a_file_that_cannot_be_read_is_named_with_its_variable(self, monkeypatch, workdir):
        monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", "missing")
        assert str(refusal()) == (
            "broker.url (PYTHIA_BROKER__URL_FILE in the environment): "
            "the file 'missing' cannot be read: No such file or directory"
        )
        monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", str(workdir))
        assert "Is a directory" in str(refusal())
        (workdir / "binary").write_bytes(b"\xff\xfe")
        monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", "binary")
        assert "it is not text" in str(refusal())
        monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", "/dev/zero")
        assert "too long for a secret" in str(refusal())

    def test_both_the_variable_and_its_twin_are_one_too_many(self, monkeypatch, workdir):
        monkeypatch.setenv("PYTHIA_BROKER__URL", "redis://u:pw@h/")
        monkeypatch.setenv("PYTHIA_BROKER__URL_FILE", "url")
        assert str(refusal()) == (
            "broker.url (PYTHIA_BROKER__URL in the environment): PYTHIA_BROKER__URL_FILE is set too: unset one"
        )


class TestFile:
    def test_the_flag_wins_over_the_variable_and_the_variable_over_the_default_path(self, file, flags, monkeypatch):
        file("concurrency = 1")
        file("concurrency = 2", "two.toml")
        file("concurrency = 3", "three.toml")
        assert WorkerConfig().concurrency == 1
        monkeypatch.setenv("PYTHIA_CONFIG_FILE", "two.toml")
        assert WorkerConfig().concurrency == 2
        set_config_file("three.toml")
        assert WorkerConfig().concurrency == 3
        assert WorkerConfig.load("two.toml").concurrency == 2
        assert WorkerConfig.load("two.toml", concurrency=9).concurrency == 9

    def test_a_reload_reads_the_same_file_again_with_the_same_arguments(self, file):
        path = file("concurrency = 1\nlease_seconds = 10", "one.toml")
        config = WorkerConfig.load(path, concurrency=9)
        path.write_text("concurrency = 2\nlease_seconds = 20")
        again = config.reload()
        assert (again.concurrency, again.lease_seconds) == (9, 20)
        assert again != config

    @pytest.mark.parametrize(
        ("text", "line", "column"),
        [("a = 1\nb = = 2\n", 2, 5), ("a = ", 1, 5), ("a = 1\na = 2", 2, 6), ("x = [1,\n", 2, 1)],
    )
    def test_a_syntax_error_is_told_with_line_and_column(self, file, text, line, column):
        file(text)
        error = refusal()
        assert str(error).startswith(f"config/pythia.toml line {line}, column {column}: not valid TOML: ")
        assert "\n" not in str(error)

    def test_a_file_that_is_nested_too_deep_is_refused(self, file):
        file("a = " + "[" * 20_000)
        assert "not valid TOML: it is nested too deep" in str(refusal())

    @pytest.mark.parametrize("name", ["missing.toml", ".", "config/pythia.toml/x"])
    def test_a_file_that_was_asked_for_and_is_not_there_is_an_error(self, file, flags, monkeypatch, name):
        file("")
        monkeypatch.setenv("PYTHIA_CONFIG_FILE", name)
        assert str(refusal()).startswith(f"the configuration file {name} (PYTHIA_CONFIG_FILE) cannot be read: ")
        set_config_file(name)
        assert "(--config)" in str(refusal())
        with pytest.raises(ConfigError, match=r"given to load\(\)"):
            WorkerConfig.load(name)

    def test_a_variable_that_names_no_file_is_an_error(self, monkeypatch):
        monkeypatch.setenv("PYTHIA_CONFIG_FILE", "")
        assert str(refusal()) == "PYTHIA_CONFIG_FILE names no file: set it to a path, or unset it"

    def test_a_default_path_that_cannot_be_read_is_an_error_and_not_an_absent_file(self, workdir):
        (workdir / "config/pythia.toml").mkdir(parents=True)
        assert "(the default path) cannot be read: Is a directory" in str(refusal())
        (workdir / "config/pythia.toml").rmdir()
        (workdir / "config/pythia.toml").symlink_to("nowhere")
        assert "cannot be read" in str(refusal())

    def test_a_file_that_is_no_text_is_refused(self, workdir):
        (workdir / "bad.toml").write_bytes(b"a = '\xff'")
        with pytest.raises(ConfigError, match="is not UTF-8 text: byte 5"):
            WorkerConfig.load("bad.toml")

    def test_a_pipe_is_refused_and_nobody_waits_for_who_writes_to_it(self, workdir):
        os.mkfifo("pipe.toml")
        with pytest.raises(ConfigError, match="is a pipe"):
            WorkerConfig.load("pipe.toml")

    def test_what_is_too_large_to_be_meant_is_refused_before_it_is_read_to_its_end(self, workdir):
        (workdir / "large.toml").write_bytes(b"#" * 1_000_001)
        for endless in ("large.toml", "/dev/zero"):
            with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
                WorkerConfig.load(endless)

    def test_windows_line_ends_and_a_byte_order_mark_are_read(self, workdir):
        (workdir / "dos.toml").write_bytes(b"\xef\xbb\xbfconcurrency = 3\r\n\r\n[retry]\r\nmax_attempts = 4\r\n")
        config = WorkerConfig.load("dos.toml")
        assert (config.concurrency, config.retry.max_attempts) == (3, 4)
        assert str(origins(config)["retry.max_attempts"]) == "dos.toml line 4"

    def test_an_unknown_key_is_named_with_its_line_and_the_nearest(self, file):
        file('queue = "a"\n\n[broker]\nulr = "redis://u:hunter2@h/"\n')
        assert (
            str(refusal()) == "broker.ulr (config/pythia.toml line 4): there is no such key; did you mean broker.url?"
        )
        file("[borker]\nurl = 'x'\n")
        assert str(refusal()) == "borker (config/pythia.toml line 1): there is no such key; did you mean broker?"

    def test_every_problem_is_listed_a_line_each(self, file, monkeypatch):
        file("concurrency = 0\nborker = 1\nretry = 5\n[http]\nport = 99999")
        monkeypatch.setenv("PYTHIA_QUEU", "x")
        lines = str(refusal(lease_secnds=1, drain_timeout_seconds=0)).split("\n")
        assert lines[0] == "7 settings cannot be used:"
        assert {line.strip().split(":")[0] for line in lines[1:]} == {
            "lease_secnds (argument)",
            "drain_timeout_seconds = 0 (argument)",
            "borker (config/pythia.toml line 2)",
            "retry (config/pythia.toml line 3)",
            "concurrency = 0 (config/pythia.toml line 1)",
            "http.port = 99999 (config/pythia.toml line 5)",
            "PYTHIA_QUEU in the environment",
        }

    def test_lines_are_found_in_every_way_of_writing_a_key(self, file):
        path = file(
            'concurrency = 1 # x = 2\nhttp.port = 5\n"queue" = \'q\'\nlog = { level = "info" }\n'
            '[rabbitmq] # a table\nexchange = """\nqueue_type = "classic"\n"""\n  allow_drop=true\n[ retry ]\n"factor" = 2\n'
            "[workers.'mail.eu']\ntarget = '''x'''\n"
        )
        found = read_toml(path, "a test")
        lines = {
            "concurrency": 1,
            "http.port": 2,
            "queue": 3,
            "log.level": 4,
            "rabbitmq": 5,
            "rabbitmq.exchange": 6,
            "rabbitmq.queue_type": 5,
            "rabbitmq.allow_drop": 9,
            "retry.factor": 11,
            "workers.mail.eu.target": 13,
            "nowhere": None,
        }
        assert {key: found.line(key) for key in lines} == lines


class TestWorkersTable:
    TEXT = """
concurrency = 2
[broker]
url = "redis://u:pw1@h/"
[workers.mail]
target = "shop:Mail"
concurrency = 5
queues = ["mail"]
broker.url = "redis://u:pw2@h/"
[workers.orders]
target = "shop:Orders"
"""

    def test_a_worker_has_its_own_keys_over_the_files_and_under_the_environments(self, file, monkeypatch):
        file(self.TEXT)
        config = WorkerConfig()
        mail, orders = config.for_worker("mail"), config.for_worker("orders")
        assert (mail.worker_name, mail.concurrency, mail.queue_names) == ("mail", 5, ("mail",))
        assert mail.broker.url.get_secret_value() == "redis://u:pw2@h/"
        assert (orders.worker_name, orders.concurrency) == ("orders", 2)
        assert str(origins(mail)["concurrency"]) == "[workers.mail] of config/pythia.toml"
        monkeypatch.setenv("PYTHIA_CONCURRENCY", "7")
        assert mail.reload().concurrency == 7
        with pytest.raises(KeyError):
            config.for_worker("nobody")

    def test_its_secrets_are_secrets(self, file):
        file(self.TEXT)
        config = WorkerConfig()
        assert "pw" not in repr(config) + config.model_dump_json() + repr(config.workers)

    @pytest.mark.parametrize(
        ("table", "sentence"),
        [
            ("concurrency = 5", "workers.mail.target (config/pythia.toml): is required"),
            ('target = ""', "workers.mail.target (config/pythia.toml): is required"),
            (
                'target = "a:B"\nconcurrency = 0',
                "workers.mail (config/pythia.toml): concurrency = 0 ([workers.mail] of config",
            ),
            ('target = "a:B"\nconcurency = 1', "did you mean concurrency?"),
            ('target = "a:B"\n[workers.mail.workers]', "has no workers of its own"),
        ],
    )
    def test_a_wrong_table_is_refused(self, file, table, sentence):
        file(f"[workers.mail]\n{table}\n")
        assert sentence in str(refusal())

    def test_a_worker_that_is_no_table_is_refused(self, file):
        file("[workers]\nmail = 5\n")
        assert "workers = {mail = 5} (config/pythia.toml line 1): must be a table" in str(refusal())


class SharedConfig(WorkerConfig):
    """As a command that knows no worker reads it."""

    pythia_shares_sources = True


def test_who_shares_the_sources_with_a_workers_own_settings_minds_only_misspelt_keys(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "config").mkdir()
    (workdir / "config" / "pythia.toml").write_text('emporium_token = "t"\nconcurrency = 3\n[emporium]\nrows = 1\n')
    monkeypatch.setenv("PYTHIA_EMPORIUM_ADDRESS", "street 1")
    assert SharedConfig().concurrency == 3
    with pytest.raises(ConfigError, match="emporium_token"):
        WorkerConfig()
    monkeypatch.setenv("PYTHIA_CONCURENCY", "4")
    with pytest.raises(ConfigError, match="PYTHIA_CONCURRENCY"):
        SharedConfig()
