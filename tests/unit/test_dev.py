"""``./dev`` and what it stands on: the package's metadata, the one line of CI."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("runtime", "dev", "tools")


def load() -> ModuleType:
    """``./dev`` as a module of its own."""
    spec = spec_from_loader("dev", SourceFileLoader("dev", str(ROOT / "dev")))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def handler_put_back() -> Iterator[None]:
    """``main`` takes SIGTERM over for the rest of its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``./dev`` in a small project of its own, whose environment is made of empty files."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = load()
    (tmp_path / "requirements").mkdir()
    for name in LOCKS:
        (tmp_path / "requirements" / f"{name}.txt").write_text(f"{name}==1")
    (tmp_path / "pythia").mkdir()
    (tmp_path / "pythia" / "__init__.py").write_text('__version__ = "1"\n')
    (tmp_path / "pyproject.toml").write_text("[build-system]\n[project]\nname = 'x'\n[tool.x]\ny = 1\n")
    module.ROOT, module.VENV, module.TOOLS = tmp_path, tmp_path / ".venv", tmp_path / ".tools"
    module.STAMP = module.VENV / "dev-stamp.json"
    module.BROKERS, module.POLICY = (), tmp_path / "policy-rc.d"
    return module


@pytest.fixture
def filled(dev: ModuleType) -> list[bool]:
    """What was installed, in order: whether from nothing."""
    calls = []

    def fill(*, fresh: bool) -> None:
        calls.append(fresh)
        dev.STAMP.unlink(missing_ok=True)
        for folder in ("bin", f"lib/python3.{sys.version_info.minor}"):
            (dev.VENV / folder).mkdir(parents=True, exist_ok=True)
        for script in ("python", "pythia"):
            (dev.VENV / "bin" / script).touch()

    dev.fill = fill
    return calls


# ── the environment ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_environment_is_made_once(dev, filled, capsys):
    dev.prepare()
    dev.prepare()
    assert filled == [True]
    assert capsys.readouterr().err.splitlines()[0].endswith("requirements/dev.txt")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("requirements/dev.txt", "dev==2"),
        ("pythia/__init__.py", '__version__ = "2"\n'),
        ("pyproject.toml", "[build-system]\n[project]\nname = 'y'\n"),
    ],
)
def test_an_environment_is_brought_up_to_date_when_what_it_is_made_from_changes(dev, filled, file: str, text: str):
    dev.prepare()
    (dev.ROOT / file).write_text(text)
    dev.prepare()
    assert filled == [True, False]


def test_the_configuration_of_a_tool_needs_no_new_environment(dev, filled):
    dev.prepare()
    pyproject = dev.ROOT / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("y = 1", "y = 2"))
    dev.prepare()
    assert filled == [True]


def test_an_installation_that_was_cut_short_is_done_again(dev, filled):
    complete, dev.fill = dev.fill, lambda fresh: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        dev.prepare()
    dev.fill = complete
    dev.prepare()
    dev.prepare()
    assert filled == [True]


def test_an_environment_of_another_folder_or_another_python_is_made_anew(dev, filled):
    dev.prepare()
    stamp = json.loads(dev.STAMP.read_text())
    dev.STAMP.write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    dev.prepare()
    (dev.VENV / "lib" / f"python3.{sys.version_info.minor}").rename(dev.VENV / "lib" / "python3.1")
    dev.prepare()
    assert filled == [True] * 3


def test_a_broken_stamp_is_no_stamp(dev, filled):
    dev.prepare()
    for broken in ("{", "[]"):
        dev.STAMP.write_text(broken)
        dev.prepare()
    assert filled == [True, False, False]


# ── uv ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_machines_uv_is_used(dev, monkeypatch, tmp_path):
    uv = tmp_path / "uv"
    uv.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dev.find_uv() == str(uv)


def test_without_one_the_locked_uv_is_installed_once(dev, monkeypatch, tmp_path):
    ran = []

    def run(*command, env=None):
        ran.append(command)
        (dev.TOOLS / "bin").mkdir(parents=True)
        (dev.TOOLS / "bin" / "uv").touch()
        return 0

    dev.run, dev.pip = run, lambda: ("pip",)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert dev.find_uv() == dev.find_uv() == str(dev.TOOLS / "bin" / "uv")
    [command] = ran
    assert {"--require-hashes", str(dev.TOOLS), str(dev.ROOT / "requirements" / "tools.txt")} <= set(command)
    (dev.ROOT / "requirements" / "tools.txt").write_text("uv==2")
    dev.find_uv()
    assert len(ran) == 2


def test_without_pip_one_is_made_from_ensurepip(dev):
    ran = []
    dev.succeeds = lambda *command: "import ensurepip, venv" in command
    dev.run = lambda *command, env=None: ran.append(command) or 0
    assert dev.pip() == (str(dev.TOOLS / "pip" / "bin" / "python"), "-m", "pip")
    assert ran[0][1:] == ("-m", "venv", str(dev.TOOLS / "pip"))


def test_with_nothing_to_install_from_one_line_names_the_package(dev, monkeypatch, capsys, tmp_path):
    dev.succeeds = lambda *command: False
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert dev.main(["demo"]) == 69
    assert capsys.readouterr().err.splitlines()[-1].endswith("apt-get install python3-venv")


def test_installed_files_are_copies_so_that_changing_one_changes_no_cache(dev):
    assert dev.uv_environment()["UV_LINK_MODE"] == "copy"


def test_an_older_python_is_refused_in_one_line(dev, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert dev.main(["demo"]) == 69
    [line] = capsys.readouterr().err.splitlines()
    assert "python3 is 3.9.2" in line
    assert line.endswith("apt-get install python3.11")


# ── brokers for the tests ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bare(dev, monkeypatch, tmp_path):
    """Root on a Debian-like machine without brokers: what was run, and the policy for services meanwhile."""
    ran = []

    def run(*command, env=None):
        there = dev.POLICY.exists()
        ran.append((command, there and dev.POLICY.read_text(), there and os.access(dev.POLICY, os.X_OK)))
        return 0

    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(apt.parent))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    port = socket.create_server(("127.0.0.1", 0))
    dev.BROKERS = (("NO_SUCH_VARIABLE", 1, "no-such-mq"), ("NOR_THIS_ONE", 1, "no-such-store"))
    dev.run, dev.port = run, port.getsockname()[1]
    with port:
        yield ran


def test_missing_brokers_are_installed_and_none_of_their_services_starts(dev, bare, filled):
    assert dev.main(["test", "-x"]) == 0
    (update, *_), (install, policy, executable), (tests, *_) = bare
    assert update == ("apt-get", "-qq", "update")
    assert install == ("apt-get", "-qq", "install", "-y", "--no-install-recommends", "no-such-mq", "no-such-store")
    assert (policy.splitlines()[-1], executable) == ("exit 101", True)
    assert tests == ("pytest", "-x")
    assert not dev.POLICY.exists()


@pytest.mark.parametrize("left_over", [False, True])
def test_the_machines_own_policy_for_services_is_back_afterwards(dev, bare, left_over: bool):
    dev.POLICY.write_text("the machine's")
    if left_over:  # by a run that was killed
        dev.POLICY.rename(f"{dev.POLICY}.before-pythia")
        dev.POLICY.write_text(dev.NO_SERVICES)
    dev.brokers()
    assert [policy for _, policy, _ in bare] == [dev.NO_SERVICES] * 2
    assert dev.POLICY.read_text() == "the machine's"
    assert list(dev.POLICY.parent.glob("policy-rc.d*")) == [dev.POLICY]


@pytest.mark.parametrize("how", ["named", "running", "installed"])
def test_what_the_tests_find_is_not_installed(dev, bare, monkeypatch, how: str):
    program = Path(os.environ["PATH"]) / "there"
    program.touch(mode=0o755)
    monkeypatch.setenv("NAMED", "amqp://there")
    brokers = {
        "named": ("NAMED", 1, "nowhere"),
        "running": ("NOT", dev.port, "nowhere"),
        "installed": ("NOT", 1, "there"),
    }
    dev.BROKERS = (brokers[how],)
    dev.brokers()
    assert bare == []


def test_who_cannot_install_is_told_what_is_missing(dev, bare, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    dev.brokers()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dev: no-such-mq and no-such-store not found: the tests")
    assert bare == []


def test_a_failed_installation_is_told_and_the_tests_run(dev, bare, capsys):
    dev.run = lambda *command, env=None: 100
    dev.brokers()
    assert "could not read the package lists: apt-get ended with 100" in capsys.readouterr().err
    assert not dev.POLICY.exists()


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_says_what_each_command_does():
    result = subprocess.run([ROOT / "dev", "--help"], capture_output=True, text=True, check=True)
    listed = re.findall(r"^  (\w+) +\S.+\.$", result.stdout, re.MULTILINE)
    assert listed == ["demo", "test", "lint", "bench", "docs", "lock", "soak"]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["launch"], "demo, test"), (["lint", "-x"], "-x"), (["docs", "now"], "now"), (["bench", "nothing"], "'nothing'")],
)
def test_a_wrong_command_line_is_one_line_and_64(dev, arguments: list[str], named: str, capsys):
    assert dev.main(arguments) == 64
    [line] = capsys.readouterr().err.splitlines()
    assert named in line


def test_every_stage_runs_and_one_failure_fails_the_whole(dev, capsys):
    ran = []

    def style():
        ran.append("style")
        return False

    def types():
        ran.append("types")
        return True

    assert dev.stages(style, types) == 1
    assert ran == ["style", "types"]
    assert "failed: style (" in capsys.readouterr().err
    assert dev.stages(types) == 0
    assert "passed: types (" in capsys.readouterr().err


@pytest.mark.parametrize(("passed", "measured"), [(True, ["coverage"]), (False, [])])
def test_coverage_is_measured_of_a_green_run_only(dev, passed: bool, measured: list[str]):
    ran = []

    def tests():
        return passed

    def coverage():
        ran.append("coverage")
        return True

    dev.coverage = coverage
    assert dev.stages(tests, coverage) == (0 if passed else 1)
    assert ran == measured


def test_a_selection_is_pytests_alone_and_its_exit_code_is_ours(dev, filled):
    ran = []
    dev.run = lambda *command: ran.append(command) or 5
    assert dev.main(["test", "-k", "nothing"]) == 5
    assert dev.main(["soak", "-x"]) == 5
    assert ran == [("pytest", "-k", "nothing"), ("pytest", "-m", "soak", "-x")]


def test_every_benchmark_runs_and_a_failing_one_is_named(dev, filled, capsys):
    dev.environment = lambda: {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    benchmarks = dev.ROOT / "benchmarks"
    benchmarks.mkdir()
    for name, code in {"one": 0, "two": 3, "_shared": 4, "three": 0}.items():
        (benchmarks / f"{name}.py").write_text(
            f"import pathlib, sys; pathlib.Path('{name}.ran').touch(); sys.exit({code})"
        )
    assert dev.main(["bench"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "dev: failed: two"
    assert sorted(path.stem for path in dev.ROOT.glob("*.ran")) == ["one", "three", "two"]
    assert dev.main(["bench", "one"]) == 0


def test_every_generator_of_documentation_runs_and_the_worst_code_counts(dev, filled):
    ran = []
    dev.GENERATORS = ("one", "two", "three")
    dev.run = lambda *command: ran.append(command) or int(command[2] == "two")
    assert dev.main(["docs", "--check"]) == 1
    assert ran == [("python", "-m", name, "--check") for name in dev.GENERATORS]
    assert dev.pages() is False
    dev.GENERATORS = ("one",)
    assert dev.pages() is True
    assert dev.main(["docs"]) == 0
    assert ran[-1] == ("python", "-m", "one")


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("code", "expected"), [("exit(0)", 0), ("exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_an_exit_code_is_passed_on(dev, code: str, expected: int):
    assert dev.run(sys.executable, "-c", f"import os; {code}", env=os.environ) == expected


HANG = """
import sys
sys.dont_write_bytecode = True
from tests.unit.test_dev import load
dev = load()
child = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
dev.COMMANDS["hang"] = lambda arguments: dev.run(sys.executable, "-c", child)
sys.exit(dev.main(["hang"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_runs_before_it_ends_us(number: signal.Signals):
    with subprocess.Popen(
        [sys.executable, "-c", HANG], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        child = int(process.stdout.readline())
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert (b"dev: interrupted" in errors) == (number == signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_dev_needs_the_standard_library_and_nothing_else():
    tree = ast.parse((ROOT / "dev").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


# ── what it stands on ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_installed_is_this_project():
    import pythia

    assert importlib.metadata.version("pythia-worker") == pythia.__version__
    [script] = importlib.metadata.entry_points(group="console_scripts", name="pythia")
    assert script.value == "pythia.cli:main"


def test_ci_runs_the_tests_as_everybody_does():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in script if line and not line.startswith("#")] == [
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        "./dev test",
    ]
    for path in (ROOT / "dev", ROOT / ".ci" / "run"):
        assert path.stat().st_mode & stat.S_IXUSR
    assert not (ROOT / ".github").exists()
