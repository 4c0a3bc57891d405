"""The check of requirements/ finds what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import locks

HASH = "sha256:" + "0" * 64
PROJECT = """
[build-system]
requires = ["hatchling>=1"]
[project]
dependencies = ["Some.Thing>=2,<3"]
[project.optional-dependencies]
fast = ["quick[more]>=1; sys_platform != 'win32'"]
[dependency-groups]
test = ["checks>=1"]
build = ["hatchling>=1"]
dev = [{ include-group = "test" }, { include-group = "build" }]
tools = ["maker>=1"]
"""


def pin(name: str, version: str = "2.1") -> str:
    return f"{name}=={version} \\\n    --hash={HASH} \\\n    --hash={HASH}\n    # via it\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing wrong."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "requirements").mkdir()
    names = {
        "runtime": ["some-thing"],
        "dev": ["some-thing", "quick", "checks", "hatchling"],
        "build": ["hatchling"],
        "tools": ["maker"],
    }
    for lock, packages in names.items():
        (tmp_path / "requirements" / f"{lock}.txt").write_text("# by a tool\n" + "".join(map(pin, packages)))
    assert list(locks.problems(tmp_path)) == []
    return tmp_path


def test_this_project_is_locked(capsys):
    assert locks.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("loose>=1\n", "loose>=1 is not pinned"),
        (f"loose>=1 --hash={HASH}\n", "loose>=1 is not pinned"),
        (f"loose==1.* --hash={HASH}\n", "loose==1.* is not pinned"),
        ("bare==1\n", "bare==1 is not pinned"),
        ("weak==1 --hash=md5:00\n", "weak==1 is not pinned"),
        ("cut==1 \\\n", "cut==1 is not pinned"),
        ("--index-url=elsewhere\n", "an option (--index-url)"),
        ("-r other.txt\n", "an option (-r)"),
        ("# --find-links https://example.org/wheels\n", "an address"),
        (f"direct @ https://example.org/direct.whl --hash={HASH}\n", "an address"),
    ],
)
def test_a_line_that_is_no_pin_is_found_with_its_number(project, line, told):
    lock = project / "requirements" / "tools.txt"
    number = len(lock.read_text().splitlines()) + 1
    lock.write_text(lock.read_text() + line)
    found = list(locks.problems(project))
    assert found
    assert [one for one in found if one.startswith(f"requirements/tools.txt:{number}: ") and told in one], found


@pytest.mark.parametrize(
    ("lock", "packages"),
    [
        ("runtime", []),
        ("dev", ["some-thing", "checks", "hatchling"]),
        ("dev", ["some-thing", "quick", "hatchling"]),
        ("build", []),
        ("tools", ["other"]),
    ],
)
def test_what_is_asked_for_and_not_locked_is_found(project, lock, packages):
    (project / "requirements" / f"{lock}.txt").write_text("".join(map(pin, packages)))
    assert [one for one in locks.problems(project) if one.startswith(f"requirements/{lock}.txt: ")]


def test_a_version_out_of_bounds_and_one_that_users_do_not_get_are_found(project):
    (project / "requirements" / "runtime.txt").write_text(pin("some-thing", "3.0"))
    found = list(locks.problems(project))
    assert len(found) == 2
    assert "Some.Thing<3,>=2 is asked for and not locked" in found[0]
    assert "some-thing is not the one that users get" in found[1]


def test_markers_and_extras_are_understood():
    text = f"a[b]==1 ; sys_platform == 'x' \\\n --hash={HASH}\na==2 ; sys_platform != 'x' --hash={HASH}\n"
    assert list(locks.faulty_lines(text)) == []
    assert locks.pins(text) == {"a": {"1", "2"}}
