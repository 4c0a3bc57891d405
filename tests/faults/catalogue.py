"""The catalogue of faults, read from ``catalogue.toml``: what is broken, how, what must come of it, and which tests show it."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pythia.proof.schedule import BLOCK_KIND, FULL_KIND, LINK_KINDS, LOCK_KIND, PROCESS_KINDS

TESTS = Path(__file__).resolve().parent.parent
KINDS = {kind.name for kind in (*PROCESS_KINDS, *LINK_KINDS, BLOCK_KIND, LOCK_KIND, FULL_KIND)}
"""What ``pythia verify`` breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A test that breaks something: a function of a file below ``tests``."""

    file: str
    function: str

    @property
    def path(self) -> Path:
        return TESTS / self.file

    @property
    def exists(self) -> bool:
        return self.path.exists() and self.function in _functions(self.path)

    @property
    def is_soak(self) -> bool:
        """Whether it runs in ``./dev soak`` alone."""
        return _functions(self.path)[self.function]

    @property
    def sentence(self) -> str:
        return self.function.removeprefix("test_").replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. Either it is shown, or ``missing`` says why not; ``partly`` says what of it is not shown."""

    area: str
    name: str
    broken: str
    how: str = ""
    must: str = ""
    shown: tuple[Shown, ...] = ()
    verify: tuple[str, ...] = ()
    missing: str = ""
    partly: str = ""

    @property
    def id(self) -> str:
        return f"{self.area}.{self.name}"

    def flaws(self) -> Iterator[str]:
        """What is wrong with this row."""
        if bool(self.missing) == bool(self.shown):
            yield f"{self.id}: either tests show it or a reason says why none does"
        if self.shown and not (self.how and self.must):
            yield f"{self.id}: how is it done, and what must come of it?"
        yield from (f"{self.id}: there is no test {one.file}::{one.function}" for one in self.shown if not one.exists)
        yield from (f"{self.id}: pythia verify has no {kind!r}" for kind in self.verify if kind not in KINDS)


def read(text: str | None = None) -> list[Fault]:
    """Every fault, in the order of the file, or of ``text``."""
    areas = tomllib.loads((TESTS / "faults/catalogue.toml").read_text("utf-8") if text is None else text)
    return [_fault(area, name, row) for area, rows in areas.items() for name, row in rows.items()]


def _fault(area: str, name: str, row: Mapping[str, object]) -> Fault:
    said = dict(row)
    shown = tuple(_shown(one) for one in said.pop("shown", ()))  # type: ignore[attr-defined]  # a list in the file
    verify = tuple(said.pop("verify", ()))  # type: ignore[arg-type]  # as above
    return Fault(area=area, name=name, shown=shown, verify=verify, **said)  # type: ignore[arg-type]  # texts


def _shown(text: str) -> Shown:
    file, _, function = text.partition("::")
    return Shown(file=file, function=f"test_{function}")


@cache
def _functions(path: Path) -> dict[str, bool]:
    """The tests of a file, and whether each is left to the soak."""
    tree = ast.parse(path.read_text("utf-8"))
    marked = {ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign) and _is_mark(node)}
    whole = any("pytest.mark.soak" in text for text in marked)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")]
    return {node.name: whole or any("mark.soak" in ast.unparse(one) for one in node.decorator_list) for node in found}


def _is_mark(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
