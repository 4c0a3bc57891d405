"""The delivery path and the life of a worker: policy lives here, once, and no driver is known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pythia.core.worker import Worker

__all__ = ["Worker"]


def __getattr__(name: str) -> object:
    if name != "Worker":
        raise AttributeError(f"module 'pythia.core' has no attribute {name!r}")
    from pythia.core.worker import Worker  # noqa: PLC0415 - whoever wants an event or a policy needs no worker

    return Worker
