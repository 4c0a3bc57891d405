"""Which message the running code belongs to; each is handled in a fresh ``contextvars`` context."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from pythia.message import Delivery


class Current(Protocol):
    """What a handler has in hand. ``say`` publishes for it; the id that it gives is derived from its message's."""

    @property
    def delivery(self) -> Delivery: ...

    async def say(self, queue: str, body: Any, options: Mapping[str, Any], /) -> str: ...


current: ContextVar[Current | None] = ContextVar("pythia_current", default=None)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def is_traceparent(header: Any) -> bool:
    """Whether it is a well-formed W3C ``traceparent``."""
    return isinstance(header, str) and _TRACEPARENT.match(header) is not None


def trace_id(delivery: Delivery) -> str | None:
    """The trace that the producer named in a W3C ``traceparent`` header; None without a well-formed one."""
    header = delivery.envelope.headers.get("traceparent")
    match = _TRACEPARENT.match(header) if isinstance(header, str) else None
    return None if match is None else match[1]
