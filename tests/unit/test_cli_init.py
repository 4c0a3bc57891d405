"""``pythia init``: a project that runs, made without touching anything that exists."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest

from pythia.cli import main


@pytest.fixture(autouse=True)
def _here(workdir) -> None:
    """Each test in a directory of its own."""


@pytest.mark.parametrize(
    ("name", "package", "worker"),
    [("shopping", "shopping", "ShoppingWorker"), ("order-desk2", "order_desk2", "OrderDesk2Worker")],
)
def test_a_project_is_made_with_its_package_tests_settings_and_image(name, package, worker, capsys):
    assert main(["init", name]) == 0
    root = Path(name)
    made = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert made == {
        f"{package}/__init__.py",
        f"{package}/worker.py",
        "tests/test_worker.py",
        "config/pythia.toml",
        "pyproject.toml",
        "README.md",
        "Dockerfile",
        ".dockerignore",
        ".gitignore",
    }
    classes = [
        node.name
        for node in ast.parse((root / package / "worker.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert classes == [worker]
    assert f"run {package}.worker:{worker}" in capsys.readouterr().out


def test_every_file_is_what_its_name_says():
    main(["init", "shopping"])
    root = Path("shopping")
    for path in root.rglob("*.py"):
        ast.parse(path.read_text())
    for path in root.rglob("*.toml"):
        tomllib.loads(path.read_text())
    assert "$" not in "".join(path.read_text() for path in root.rglob("*") if path.is_file())


def test_json_names_the_target_and_the_files(capsys):
    assert main(["init", "shopping", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["target"] == "shopping.worker:ShoppingWorker"
    assert "shopping/worker.py" in made["files"]


@pytest.mark.parametrize("exists", [Path.mkdir, Path.touch])
def test_what_exists_is_not_touched(exists, capsys):
    exists(Path("shopping"))
    assert main(["init", "shopping"]) == 64
    assert capsys.readouterr().err == "pythia: shopping exists already here; nothing was touched\n"
    assert not list(Path("shopping").glob("*"))


@pytest.mark.parametrize(
    "name",
    ["Shop", "1shop", "a b", "../shop", "shop/desk", "class", "", "-", "shop-", "a--b", "é", "json", "redis", "pythia"],
)
def test_a_name_that_cannot_be_a_package_is_one_line(name, capsys):
    assert main(["init", "--", name]) == 64
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(Path().iterdir())


def test_a_directory_that_cannot_be_written_is_74(workdir, monkeypatch, capsys):
    monkeypatch.chdir("/proc")
    assert main(["init", "shopping"]) == 74
    assert "cannot write" in capsys.readouterr().err
