"""Whatever stands on the command line ends with an exit code of the table, and with a line for a person instead of a traceback."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pythia.cli import main
from pythia.config import set_config_file, set_process_flags
from pythia.utils.isolation import LoggingBefore

CODES = {0, 1, 64, 65, 69, 74, 78}
"""API: the table of exit codes, without 70 (a bug of ours) and those of a worker that ran."""

COMMANDS = [
    *(
        ["publish"],
        ["queues"],
        ["dead"],
        ["dead", "list"],
        ["dead", "show"],
        ["dead", "replay"],
        ["dead", "purge"],
        ["dlq", "export"],
        ["move"],
        ["move", "-", "sqlite:///moved.db"],
    ),
    *(
        ["check"],
        ["config"],
        ["config", "show"],
        ["config", "schema"],
        ["run"],
        ["init"],
        ["nonsense"],
        ["--version"],
        [],
    ),
    *(["health", "--url", "http://127.0.0.1:1"], ["pause", "http://127.0.0.1:1"], ["resume", "http://127.0.0.1:1"]),
]
"""Not the demo, and nothing that would reach a worker of whoever runs the tests."""

JUNK = st.sampled_from(
    [
        "",
        " ",
        "-",
        "--",
        "---",
        "-h",
        "--help",
        "-x",
        "-y",
        "--json",
        "--no-color",
        "=",
        "\x1b[2J",
        "a\nb",
        "☃",
        "../..",
        "/etc/passwd",
        "q",
        "default",
        "{}",
        "[",
        '{"a": 1}',
        "nan",
        "-1",
        "0",
        "1e400",
        "9" * 5000,
        "0x1",
        "a=b",
        "a=",
        "=b",
        "%s",
        "{0}",
        "$(id)",
        "app:App",
        "os:system",
        "os",
        "json:loads",
        ":",
        "a:b:c",
        "..:x",
        "pythia.cli:main",
        "no.such.module:X",
        "not an id",
    ]
)
URLS = st.sampled_from(
    [
        "memory://",
        "memory://x",
        "sqlite:///q.db",
        "sqlite:///no/where.db",
        "sqlite:///",
        "sqlite://x",
        "amqp://127.0.0.1:1/",
        "redis://127.0.0.1:1/0?mode=x",
        "redis://127.0.0.1:1/0",
        "ftp://x",
        "",
        "://",
        "amqp://[",
        "sqlite:///pythia.toml",
        "amqp://h:x/",
    ]
)
FILES = st.sampled_from(["pythia.toml", "bad.toml", "none.toml", "", ".", "/dev/null", "/proc/self/mem", "bytes.toml"])
FLAGS = [
    *(
        "--count",
        "-n",
        "--id",
        "--delay",
        "--content-type",
        "-H",
        "--header",
        "--file",
        "--lines",
        "--reason",
        "--error",
        "--since",
    ),
    *(
        "--limit",
        "--all",
        "--dry-run",
        "--to",
        "--rate",
        "--exit-code",
        "--strict",
        "--origin",
        "--live",
        "--ready",
        "-q",
        "-c",
        "-l",
    ),
    *(
        "--queue",
        "--concurrency",
        "--log-level",
        "--log-format",
        "--host",
        "--max-messages",
        "--burst",
        "--fail-fast",
        "--no-http",
    ),
    *("--port", "--env-file", "--processes", "-p", "-w", "--name", "--reload-dir"),
]
OPTIONS = st.one_of(
    st.tuples(st.sampled_from(["-b", "--broker-url"]), URLS),
    st.tuples(st.just("--config"), FILES),
    st.tuples(st.sampled_from(FLAGS), JUNK | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)),
    st.tuples(st.sampled_from(FLAGS)),
    st.tuples(JUNK),
)
ARGUMENTS = st.tuples(st.sampled_from(COMMANDS), st.lists(OPTIONS, max_size=5)).map(
    lambda said: [*said[0], *(word for option in said[1] for word in option)]
)


@pytest.fixture(autouse=True)
def _place(workdir: Path) -> Iterator[None]:
    (workdir / "pythia.toml").write_text("concurrency = 2\n")
    (workdir / "bad.toml").write_text("concurrency = [\n")
    (workdir / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    before = LoggingBefore()
    yield
    before.restore()
    set_process_flags({})
    set_config_file(None)


def ended(argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    set_process_flags({})
    set_config_file(None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 1}\n\xff\n')))
    code = main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=150, deadline=None, suppress_health_check=SHARED)
@given(argv=ARGUMENTS)
@example(argv=["--", "--", "--"])
@example(argv=["publish", "q", "--delay", "1e400", "-b", "memory://", "{}"])
@example(argv=["publish", "q", "--delay", "nan", "-b", "memory://", "{}"])
@example(argv=["publish", "q", "-n", "9" * 5000, "-b", "memory://", "{}"])
@example(argv=["dead", "list", "q", "--since", "9" * 400 + "d", "-b", "memory://"])
@example(argv=["dead", "list", "q", "--since", "99999999999d", "-b", "memory://"])
@example(argv=["dead", "list", "q", "--since", "0001-01-01", "-b", "memory://"])
@example(argv=["dead", "replay", "q", "--all", "-y", "--rate", "1e-400/s", "-b", "memory://"])
@example(argv=["queues", "\ud800", "-b", "memory://"])
@example(argv=["dead", "show", "q", "\x1b[2J", "-b", "memory://"])
@example(argv=["\x1b[2J"])
@example(argv=["run", "\x1b[2J:\x9b"])
def test_any_arguments_end_with_a_code_of_the_table_and_no_traceback(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = ended(argv, capsys, monkeypatch)
    assert code in CODES, (argv, code, err)
    assert "Traceback" not in out + err, argv
    assert not re.search("[\x00-\x08\x0e-\x1f\x7f-\x9f]", err), (argv, err)
    if code != 0 and "--help" not in argv and "-h" not in argv:
        assert (out + err).strip(), argv


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_command_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check = test_any_arguments_end_with_a_code_of_the_table_and_no_traceback.hypothesis.inner_test
    many = settings(max_examples=10_000, deadline=None, suppress_health_check=SHARED)
    many(given(argv=ARGUMENTS)(check))(capsys=capsys, monkeypatch=monkeypatch)
