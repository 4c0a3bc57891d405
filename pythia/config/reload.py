"""What differs between two configurations, and what it takes to change it on a running worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pythia.config.keys import ReloadClass, keys_of
from pythia.config.problems import show

if TYPE_CHECKING:
    from pythia.config.schema import WorkerConfig

__all__ = ["Change", "Plan", "ReloadClass", "departures", "diff", "plan"]

_ADAPTERS = {"rabbitmq": ("amqp", "amqps"), "redis": ("redis", "rediss")}  # whose section is whose


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

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "old": self.old, "new": self.new, "class": self.reload.word}

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a reload would change, and what that takes."""

    changes: tuple[Change, ...]
    resubscribes: bool  # the consumers begin anew
    reconnects: bool  # on a connection that is made, and checked, first

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(change.key for change in self.changes)

    @property
    def restart(self) -> tuple[str, ...]:
        """The keys that a running worker cannot change: one of them, and the whole reload is refused."""
        return tuple(change.key for change in self.changes if change.reload is ReloadClass.RESTART)

    @property
    def refusal(self) -> str | None:
        """Why it cannot be carried out; None if nothing in the plan itself stands against it."""
        if not self.restart:
            return None
        return f"{', '.join(self.restart)}: only a restart can change {'it' if len(self.restart) == 1 else 'them'}"

    def to_json(self) -> list[dict[str, Any]]:
        return [change.to_json() for change in self.changes]


def plan(old: WorkerConfig, new: WorkerConfig) -> Plan:
    """What it takes to go from ``old`` to ``new``. What a connection is made of (``[broker]``, and the section of the broker
    that it leads to) is changed by making another one, whichever class its keys have."""
    changes = tuple(diff(old, new))
    moved = any(_is_of_the_connection(change.key, (old.broker.scheme, new.broker.scheme)) for change in changes)
    anew = any(change.reload is ReloadClass.RESUBSCRIBE for change in changes if not _is_of_an_adapter(change.key))
    return Plan(changes=changes, resubscribes=anew or moved, reconnects=moved)


def departures(config: WorkerConfig) -> tuple[Change, ...]:
    """The keys whose values are not the defaults, whoever said them; a computed default is told in words."""
    return tuple(
        Change(
            key=name,
            old=key.default_in_words or show(key, key.default),
            new=show(key, key.of(config)),
            reload=key.reload,
        )
        for name, key in keys_of(type(config)).items()
        if name in config.pythia_origins() and key.of(config) != key.default
    )


def _is_of_an_adapter(key: str) -> bool:
    return key.partition(".")[0] in {"broker", *_ADAPTERS}


def _is_of_the_connection(key: str, schemes: tuple[str, ...]) -> bool:
    section = key.partition(".")[0]
    return section == "broker" or any(scheme in _ADAPTERS.get(section, ()) for scheme in schemes)


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
