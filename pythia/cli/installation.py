"""Whether what is installed beside us stands in our way."""

from __future__ import annotations

from importlib.metadata import packages_distributions


def rival_distributions() -> list[str]:
    """The distributions that own the import name ``pythia``, if there is more than one; they overwrite each other's files."""
    owners = sorted(set(packages_distributions().get("pythia", ())))
    return owners if len(owners) > 1 else []
