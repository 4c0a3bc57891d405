"""What differs between two configurations, and what it takes to change it on a running worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pythia.config.keys import ReloadClass, keys_of
from pythia.config.problems import show

if TYPE_CHECKING:
    from pythia.config.schema import WorkerConfig

__all__ = ["Change", "ReloadClass", "diff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key with another effective value. ``old`` and ``new`` are as they may be shown: secrets masked."""

    key: str
    old: str
    new: str
    reload: ReloadClass

    @property
    def hot(self) -> bool:
        """Whether it applies between two messages."""
        return self.reload is ReloadClass.HOT

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new}"


def diff(old: WorkerConfig, new: WorkerConfig) -> tuple[Change, ...]:
    """The keys of ``new`` whose effective values differ from ``old``'s, in the order of the keys.

    Give both the same class defaults first. A key that ``old``'s class does not have counts as changed.
    """
    return tuple(_changes(old, new))


def _changes(old: WorkerConfig, new: WorkerConfig) -> Iterator[Change]:
    before, after = keys_of(type(old)), keys_of(type(new))
    for name, key in after.items():
        value = key.of(new)
        if name not in before:
            yield Change(key=name, old="none", new=show(key, value), reload=key.reload)
        elif before[name].of(old) != value:
            yield Change(key=name, old=show(key, before[name].of(old)), new=show(key, value), reload=key.reload)
