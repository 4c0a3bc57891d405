"""Which files are watched, and when a change is told of."""

from __future__ import annotations

import threading
from pathlib import Path

from pythia.supervisor.watching import Watch, difference, times


def names(directory: Path) -> set[str]:
    return {str(Path(path).relative_to(directory)) for path in times([directory])}


def test_sources_below_the_folder_are_watched_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "deep/b.py",
        "pythia.toml",
        ".env",
        "note.txt",
        ".venv/c.py",
        "x/__pycache__/d.py",
        "venv/e.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert names(tmp_path) == {"a.py", "deep/b.py", "pythia.toml", ".env"}
    assert times([tmp_path / "nowhere"]) == {}


def test_a_file_that_is_made_changed_or_removed_is_named() -> None:
    assert difference({"a": (1, 1)}, {"a": (1, 1), "b": (1, 1)}) == "b"
    assert difference({"a": (1, 1)}, {"a": (2, 1)}) == "a"
    assert difference({"a": (1, 1)}, {}) == "a"


def test_a_change_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    told: list[Path] = []
    news = threading.Event()

    def changed(path: Path) -> None:
        told.append(path)
        news.set()

    with Watch([tmp_path], changed, seconds=0.01):
        (tmp_path / "a.py").write_text("changed")
        assert news.wait(30)
        news.clear()
        (tmp_path / "b.py").write_text("new")
        assert news.wait(30)
    assert told == [tmp_path / "a.py", tmp_path / "b.py"]
