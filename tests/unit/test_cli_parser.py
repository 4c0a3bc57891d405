"""The grammar: every option of the documented table is there, mistakes are one line, only the chosen command is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pythia.cli import main
from pythia.cli.failure import CommandError
from pythia.cli.parser import COMMANDS, parse
from tests.unit.cli_kit import environment

EVERYWHERE = ["-b", "--broker-url", "--config", "--json", "--no-color", "-y", "--yes", "-v", "--help"]
OPTIONS = {
    "run": [
        *[
            "-q",
            "--queue",
            "-c",
            "--concurrency",
            "-p",
            "--processes",
            "-w",
            "--workers",
            "-n",
            "--name",
            "-l",
            "--log-level",
        ],
        *["--log-format", "--host", "--port", "--no-http", "--burst", "--max-messages", "--fail-fast", "--env-file"],
    ],
    "publish": ["--file", "--lines", "-H", "--header", "--id", "--delay", "--content-type", "-n", "--count"],
    "queues": ["--watch", "--exit-code"],
    "dead": ["list", "show", "replay", "purge", "export"],
    "dead list": ["--reason", "--error", "--since", "--limit"],
    "dead show": ["--reason", "--error", "--since", "--limit"],
    "dead replay": ["--reason", "--error", "--since", "--limit", "--all", "--dry-run", "--to", "--rate"],
    "dead purge": ["--reason", "--error", "--since", "--limit", "--all", "--dry-run"],
    "dead export": ["--reason", "--error", "--since", "--limit"],
    "dlq": ["list", "show", "replay", "purge", "export"],
    "dlq replay": ["--to", "--rate"],
    "health": ["--live", "--ready", "--url"],
    "check": ["--strict"],
    "config": ["show", "schema"],
    "config show": ["--origin"],
    "config schema": [],
    "pause": [],
    "resume": [],
    "init": [],
}
WITH_EXAMPLES = ["", *(command for command in COMMANDS if command != "demo")]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option_of_the_documented_table(command, capsys):
    words = help_of(command, capsys).replace(",", " ").split()
    assert [option for option in [*EVERYWHERE, *OPTIONS[command]] if option not in words] == []


@pytest.mark.parametrize("command", WITH_EXAMPLES)
def test_help_shows_an_example(command, capsys):
    assert "examples:\n  pythia " in help_of(command, capsys)


def test_the_help_of_pythia_lists_every_command(capsys):
    text = help_of("", capsys)
    assert [name for name in COMMANDS if f"    {name} " not in text] == []


def test_version_names_ours_and_the_interpreters(capsys):
    from pythia import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(
        f"pythia {__version__} (Python {sys.version_info[0]}.{sys.version_info[1]}"
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["-b", "memory://", "--config", "f", "--json", "--no-color", "-y", "-v", "queues"],
        ["queues", "-b", "memory://", "--config", "f", "--json", "--no-color", "-y", "-v"],
        ["-b", "memory://", "--json", "queues", "--config", "f", "--no-color", "-yv"],
    ],
)
def test_the_options_that_hold_everywhere_stand_before_or_after_the_command(argv):
    args = parse(argv)
    assert (args.broker_url, args.config) == ("memory://", "f")
    assert (args.json, args.no_color, args.yes, args.verbose) == (True, True, True, True)


@pytest.mark.parametrize(
    "argv", [["--json", "dead", "list", "q"], ["dead", "--json", "list", "q"], ["dead", "list", "q", "--json"]]
)
def test_they_also_stand_between_a_command_and_its_own(argv):
    assert parse(argv).json


def test_the_later_of_two_places_wins():
    assert parse(["-b", "memory://before", "queues", "-b", "memory://after"]).broker_url == "memory://after"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "say which command; see pythia --help"),
        (["rnu"], "no command 'rnu', did you mean run?; see pythia --help"),
        (["dead", "lits", "q"], "no command 'lits', did you mean list?; see pythia dead --help"),
        (["run", "m:W", "--brust"], "unknown option --brust, did you mean --burst?; see pythia run --help"),
        (
            ["dead", "list", "q", "--reson", "poison"],
            "unknown option --reson, did you mean --reason?; see pythia dead list",
        ),
        (["dead", "list", "q", "--reason", "poisn"], "'poisn' is not one of"),
        (["dead", "list"], "required: QUEUE; see pythia dead list --help"),
        (["init", "shop", "desk"], "unexpected argument 'desk'; see pythia init --help"),
        (["queues", "--watch", "extra", "--json=1"], "see pythia queues --help"),
        (["run"], "run needs a TARGET"),
        (["run", "m:W", "--port", "70000"], "'70000' is not a port"),
        (["run", "m:W", "-c", "none"], "'none' is not a whole number"),
        (["run", "m:W", "--max-messages", "0"], "'0' is not a whole number"),
        (["publish", "q", "1", "--delay", "-1"], "--delay"),
        (["publish", "q", "1", "--count", "0"], "--count"),
        (["dead", "replay", "q", "--all", "--rate", "fast"], "'fast' is not a rate"),
        (["dead", "replay", "q", "--all", "--rate", "0"], "'0' is not a rate"),
        (["dead", "list", "q", "--since", "yesterday"], "'yesterday' is neither an age"),
        (["dead", "list", "q", "--since", "999999999999w"], "is neither an age"),
        (["dead", "list", "q", "--limit", "-3"], "--limit"),
        (["health", "--live", "--ready"], "not allowed with"),
    ],
)
def test_a_usage_error_is_one_line_on_stderr(argv, said, capsys):
    code = main(argv)
    told = capsys.readouterr()
    assert code == (1 if argv[:1] == ["health"] else 64)
    assert told.out == ""
    assert told.err.startswith("pythia: ")
    assert told.err.count("\n") == 1
    assert said in told.err


@pytest.mark.parametrize(
    "argv", ["a:A b:B c:C -p 2", "a:A -p 2 b:B c:C", "-p 2 a:A b:B c:C", "a:A b:B -p 2 --no-http c:C"]
)
def test_targets_may_stand_apart_from_each_other(argv: str):
    args = parse(["run", *argv.split()])
    assert (args.targets, args.processes) == (["a:A", "b:B", "c:C"], 2)


@pytest.mark.parametrize("argv", ["run a:A -p 2 b:B --bogus", "run a:A -p 2 --bogus b:B", "run a:A b:B --bogus=1 c:C"])
def test_a_misspelt_option_is_told_also_where_targets_stand_apart(argv: str):
    with pytest.raises(CommandError, match="unknown option --bogus"):
        parse(argv.split())


def test_an_option_is_not_abbreviated():
    with pytest.raises(CommandError, match="unknown option --verbos"):
        parse(["queues", "--verbos"])


def test_a_message_may_be_a_negative_number():
    assert parse(["publish", "q", "-5"]).body == "-5"


LOADED = """
import sys
from pythia.cli import main
main(sys.argv[1:])
heavy = {"asyncio", "pydantic", "aiohttp", "rich", "structlog", "sqlite3", "ssl", "tomllib"}
print(sorted(heavy & set(sys.modules)), sorted(m for m in sys.modules if m.startswith("pythia.cli.")), file=sys.stderr)
"""


def unmeasured() -> dict[str, str]:
    """An environment in which no coverage tool imports things of its own into a child."""
    return {name: value for name, value in environment().items() if not name.startswith("COVERAGE")}


def loaded_by(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *argv], env=unmeasured(), capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "argv", [["health", "--url", "http://127.0.0.1:1"], ["health", "--help"], ["--help"], ["--version"]]
)
def test_what_a_container_runs_every_few_seconds_imports_nothing_heavy(argv):
    assert loaded_by(*argv).startswith("[] ")


def test_only_the_chosen_command_is_loaded():
    assert loaded_by("health", "--help").endswith("['pythia.cli.failure', 'pythia.cli.health', 'pythia.cli.parser']")
