"""How commands end: the table of exit codes, one line for an error, a traceback only when it is asked for."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pythia import cli, errors
from pythia.cli import main, parser
from pythia.cli.failure import CommandError
from tests.unit.cli_kit import COMMAND, environment, pythia_command


class Failing:
    """A command that raises what it is told to."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def add_arguments(self, _parser: object) -> None:
        pass

    def main(self, _args: object) -> int:
        raise self.error


@pytest.fixture
def failing(monkeypatch):
    def make(error: BaseException) -> None:
        monkeypatch.setattr(parser, "import_module", lambda _name: Failing(error))

    return make


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("usage"), 64),
        (CommandError("input", exit_code=65), 65),
        (errors.TargetError("no such worker"), 64),
        (errors.BrokerUnavailable("out of reach"), 69),
        (errors.PythiaError("a hook failed"), 70),
        (errors.StoreError("the file is full"), 74),
        (errors.ConfigError("no such key"), 78),
        (errors.BrokerRefused("credentials"), 78),
        (ZeroDivisionError("division by zero"), 70),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
)
def test_each_failure_has_its_exit_code(failing, monkeypatch, error, code):
    monkeypatch.setattr(cli, "_reader_gone", lambda: 141)  # it would close the test's own stdout
    failing(error)
    assert main(["queues"]) == code


def test_an_error_is_one_line_even_when_its_text_has_several(failing, capsys):
    failing(errors.StoreError("the file\nis full"))
    main(["queues"])
    assert capsys.readouterr().err == "pythia: the file is full\n"


def test_a_traceback_is_shown_only_with_verbose(failing, capsys):
    failing(errors.StoreError("the file is full"))
    main(["queues"])
    assert "Traceback" not in capsys.readouterr().err
    main(["-v", "queues"])
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_says_that_it_is_one_and_how_to_see_more(failing, capsys):
    failing(ZeroDivisionError("division by zero"))
    main(["queues"])
    told = capsys.readouterr().err
    assert told == "pythia: a bug of Pythia's: ZeroDivisionError: division by zero (with -v: the traceback)\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), errors.ConfigError("x"), KeyboardInterrupt()])
def test_health_exits_with_one_whatever_goes_wrong(monkeypatch, error):
    from pythia.cli import health

    def failing(_args: object) -> int:
        raise error

    monkeypatch.setattr(health, "main", failing)
    assert main(["health"]) == 1


def test_a_password_in_an_argument_is_warned_of_once_and_not_repeated(tmp_path):
    done = pythia_command("queues", "-b", "amqp://shop:geheim@rabbitmq/", cwd=tmp_path)
    assert done.err.count("visible to every user of this machine") == 1
    assert "PYTHIA_BROKER__URL_FILE" in done.err
    assert "geheim" not in done.out + done.err


def test_a_password_in_the_environment_is_not_warned_of(tmp_path):
    done = pythia_command("queues", cwd=tmp_path, PYTHIA_BROKER__URL="amqp://shop:geheim@rabbitmq/")
    assert "visible" not in done.err
    assert "geheim" not in done.out + done.err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    publish = subprocess.Popen(
        [*COMMAND, "publish", "orders", "1", "--count", "20000"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert publish.stdout is not None
    assert publish.stderr is not None
    publish.stdout.readline()
    publish.stdout.close()
    told = publish.stderr.read()
    publish.stderr.close()
    assert (publish.wait(60), told) == (141, b"")


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(tmp_path):
    publish = subprocess.Popen(
        [*COMMAND, "publish", "orders", "-"],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - a test runner in the background may ignore it
    )
    assert publish.stdin is not None
    publish.stdin.write(b"1" * 200_000)  # more than a pipe holds: it is reading by the time that this returns
    publish.stdin.flush()
    publish.send_signal(signal.SIGINT)
    _, told = publish.communicate(timeout=60)
    assert (publish.returncode, told) == (130, b"")


def test_the_module_and_the_command_are_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from pythia.cli import main; sys.exit(main(['--version']))"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == pythia_command("--version", cwd=tmp_path).out
