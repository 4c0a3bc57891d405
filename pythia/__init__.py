"""Pythia: an asyncio message-broker consumer service that can prove it lost nothing.

The public names, and nothing else. They load on first use: ``import pythia`` imports no driver and no pydantic.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing has it, which ``pythia health`` does without
if TYPE_CHECKING:
    from pythia.config import WorkerConfig
    from pythia.core.function import handler
    from pythia.core.lifecycle import WorkerState
    from pythia.core.retry import RetryPolicy
    from pythia.core.worker import Worker
    from pythia.errors import Defer, Drop, PythiaError, Reject, Retry
    from pythia.message import Message
    from pythia.publisher import Publisher, SyncPublisher
    from pythia.supervisor.api import Supervisor

__version__ = "0.1.0"

_HOME = {
    "Worker": "pythia.core.worker",
    "Message": "pythia.message",
    "WorkerConfig": "pythia.config",
    "WorkerState": "pythia.core.lifecycle",
    "RetryPolicy": "pythia.core.retry",
    "handler": "pythia.core.function",
    "Retry": "pythia.errors",
    "Defer": "pythia.errors",
    "Reject": "pythia.errors",
    "Drop": "pythia.errors",
    "PythiaError": "pythia.errors",
    "Publisher": "pythia.publisher",
    "SyncPublisher": "pythia.publisher",
    "Supervisor": "pythia.supervisor.api",
}

__all__ = [  # noqa: RUF022 - in the order of the documentation
    "Worker",
    "Message",
    "WorkerConfig",
    "WorkerState",
    "RetryPolicy",
    "handler",
    "Retry",
    "Defer",
    "Reject",
    "Drop",
    "Publisher",
    "SyncPublisher",
    "Supervisor",
    "PythiaError",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pythia' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
