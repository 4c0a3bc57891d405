"""Whether requirements/ installs what was read and nothing else: ``python -m tests.architecture.locks``, a stage of ``./dev lint``.

Every line pins one version with its hashes, none says where from (a lock works with any index, and leads nobody to a foreign one), and
all that pyproject.toml asks for is there, within its bounds.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.architecture.telling import tell

ROOT = Path(__file__).resolve().parents[2]

Pins = Mapping[str, set[str]]  # a package may have a version for each marker

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w, -]+\])?==(?P<version>[^\s;*\\]+)(?: ; [^\\]+?)?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)


def problems(root: Path) -> Iterator[str]:
    """What is wrong, a sentence each."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    locks: dict[str, Pins] = {}
    for file in sorted((root / "requirements").glob("*.txt")):
        locks[file.stem] = pins(file.read_text())
        yield from (f"requirements/{file.name}:{problem}" for problem in faulty_lines(file.read_text()))
    for lock, texts in asked_for(project).items():
        yield from not_locked(lock, texts, locks.get(lock, {}))
    for name, versions in locks.get("runtime", {}).items():
        if versions != locks.get("dev", {}).get(name):
            yield f"requirements/dev.txt: {name} is not the one that users get: run ./dev lock"


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Requirements without comments, each with the number of its first line."""
    begun, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        begun = begun if parts else number
        if line:
            parts.append(line.removesuffix("\\").strip())
        if parts and not line.endswith("\\"):
            yield begun, " ".join(parts)
            parts = []
    if parts:
        yield begun, " ".join(parts)


def faulty_lines(text: str) -> Iterator[str]:
    """The lines that are no pin with hashes, and those, comments too, that name an address."""
    for number, raw in enumerate(text.splitlines(), start=1):
        if "://" in raw or " @ " in raw:
            yield f"{number}: an address; a lock says what, not where from"
    for number, line in logical_lines(text):
        if line.startswith("-"):
            yield f"{number}: an option ({line.split()[0].partition('=')[0]}); a lock has none"
        elif not _PIN.fullmatch(line):
            yield f"{number}: {line.split()[0]} is not pinned with == and sha256 hashes"


def pins(text: str) -> Pins:
    """The versions that a lock pins, by name."""
    found: dict[str, set[str]] = {}
    for _, line in logical_lines(text):
        if pin := _PIN.fullmatch(line):
            found.setdefault(canonicalize_name(pin["name"]), set()).add(pin["version"])
    return found


def asked_for(pyproject: Mapping[str, Any]) -> dict[str, list[str]]:
    """What each lock must hold."""
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    return {
        "runtime": project["dependencies"],
        "dev": [*project["dependencies"], *extras, *members(groups, "dev")],
        "build": [*pyproject["build-system"]["requires"], *members(groups, "build")],
        "tools": members(groups, "tools"),
    }


def members(groups: Mapping[str, list[Any]], name: str) -> list[str]:
    """The requirements of a group and of those that it includes."""
    return [
        text
        for one in groups[name]
        for text in (members(groups, one["include-group"]) if isinstance(one, dict) else [one])
    ]


def not_locked(lock: str, texts: list[str], locked: Pins) -> Iterator[str]:
    """The requirements that the lock does not meet."""
    for text in texts:
        need = Requirement(text)
        versions = locked.get(canonicalize_name(need.name), set())
        if not versions or not all(need.specifier.contains(Version(version)) for version in versions):
            yield f"requirements/{lock}.txt: {need} is asked for and not locked: run ./dev lock"


def main() -> int:
    """Say what is wrong; 1 if anything is."""
    return tell(problems(ROOT))


if __name__ == "__main__":
    sys.exit(main())
