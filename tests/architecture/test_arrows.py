"""The shape of the house: which way imports point, and how large its pieces may be."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pythia"
LONGEST_FUNCTION, LONGEST_CLASS = 50, 300

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True, no_cache=True))"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the pyproject.toml in ``folder`` on the package beside it."""
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the house that a test may damage."""
    shutil.copytree(PACKAGE, tmp_path / "pythia", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_point_the_way_that_the_contracts_draw():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("core/retry.py", "import sqlite3", "knows no driver"),
        ("message.py", "import pythia.core.retry", "Imports point downwards"),
        ("brokers/memory.py", "import pythia.brokers.sqlite", "knows no other"),
    ],
)
def test_an_import_against_the_arrows_is_noticed(copy: Path, module: str, line: str, broken: str):
    with (copy / "pythia" / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint_imports(copy)
    assert result.returncode == 1
    assert re.search(rf"{broken}.* BROKEN", result.stdout), result.stdout


def test_a_room_that_the_contracts_do_not_name_is_noticed(copy: Path):
    (copy / "pythia" / "attic.py").write_text("")
    assert lint_imports(copy).returncode == 1


def circles(folder: Path) -> list[str]:
    """The imports that close a circle between neighbours, at run time; what only the type checker reads closes none."""
    sys.path.insert(0, str(folder))
    try:
        graph = grimp.build_graph("pythia", cache_dir=None, exclude_type_checking_imports=True)
    finally:
        sys.path.remove(str(folder))
    graph.remove_import(importer="pythia.core.worker", imported="pythia.service")  # the one upward edge
    rooms = [module for module in graph.modules if graph.find_children(module)]
    return sorted(f"{a} -> {b}" for room in rooms for a, b in graph.nominate_cycle_breakers(room))


def test_no_modules_import_each_other_in_a_circle():
    assert not circles(ROOT)


def test_a_circle_is_noticed(copy: Path):
    with (copy / "pythia" / "core" / "retry.py").open("a") as file:
        file.write("\nimport pythia.core.outcome\n")
    # grimp finds a package by importing it, and this process has the real one: so in a process of its own.
    code = f"from pathlib import Path; from tests.architecture.test_arrows import circles; print(circles(Path({str(copy)!r})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pythia.core.retry" in result.stdout


def oversized(source: str, name: str) -> Iterator[str]:
    """Every function and class that is too long to be one thought."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit, kind = LONGEST_FUNCTION, f"{node.name}()"
        elif isinstance(node, ast.ClassDef):
            limit, kind = LONGEST_CLASS, f"class {node.name}"
        else:
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > limit:
            yield f"{name}:{node.lineno} {kind}: {lines} lines, at most {limit}"


def root_imports(source: str, name: str) -> Iterator[str]:
    """Every import of the root's public names, which load lazily for users and so hide the arrows.

    ``from pythia import errors`` hides none: it is the room itself; and ``__version__`` is written in the root.
    """
    for node in ast.walk(ast.parse(source)):
        direct = isinstance(node, ast.Import) and any(alias.name == "pythia" for alias in node.names)
        public = isinstance(node, ast.ImportFrom) and node.module == "pythia" and not all(map(inside, node.names))
        if direct or public:
            yield f"{name}:{node.lineno} {ast.unparse(node)}"


def inside(alias: ast.alias) -> bool:
    """Whether what is imported from the root is a room, or the version."""
    rooms = (PACKAGE / alias.name, PACKAGE / f"{alias.name}.py")
    return alias.name == "__version__" or any(room.exists() for room in rooms)


def modules() -> Iterator[tuple[str, str]]:
    """Every module of the package: its text and its path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.read_text(), str(path.relative_to(ROOT))


def test_no_function_and_no_class_is_too_long_to_be_one_thought():
    offenders = [line for source, name in modules() for line in oversized(source, name)]
    assert not offenders, "\n".join(["", *offenders])


def test_no_module_imports_the_roots_public_names():
    # The examples do: they are written as users write.
    within = [(source, name) for source, name in modules() if not name.startswith("pythia/examples/")]
    offenders = [line for source, name in within for line in root_imports(source, name)]
    assert not offenders, "\n".join(["", *offenders])


def test_what_is_too_long_is_named_with_its_place():
    body = "\n".join("    x = 1" for _ in range(LONGEST_FUNCTION))
    assert list(oversized(f"def f():\n{body}", "a.py")) == ["a.py:1 f(): 51 lines, at most 50"]
    assert not list(oversized(f"def f():\n{body[10:]}", "a.py"))
    methods = "\n".join("    x = 1" for _ in range(LONGEST_CLASS))
    assert list(oversized(f"\nclass C:\n{methods}", "b.py")) == ["b.py:2 class C: 301 lines, at most 300"]


@pytest.mark.parametrize("line", ["import pythia", "import os, pythia", "from pythia import errors, Worker"])
def test_an_import_of_the_root_is_noticed(line: str):
    assert list(root_imports(f"def lazily():\n    {line}", "a.py")) == [f"a.py:2 {line}"]


@pytest.mark.parametrize(
    "line", ["import pythia.errors", "from pythia.errors import Retry", "from pythia import errors, core, __version__"]
)
def test_an_import_of_a_submodule_is_not_one_of_the_root(line: str):
    assert not list(root_imports(line, "a.py"))
