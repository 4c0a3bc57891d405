"""Which delivery the running code belongs to; each message is handled in a fresh ``contextvars`` context."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from pythia.message import Delivery

current_delivery: ContextVar[Delivery | None] = ContextVar("pythia_current_delivery", default=None)

# How the handler that runs in this context publishes: (queue, body, options) → the id, derived from its message's.
Say = Callable[[str, Any, Mapping[str, Any]], Awaitable[str]]
current_say: ContextVar[Say | None] = ContextVar("pythia_current_say", default=None)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def trace_id(delivery: Delivery) -> str | None:
    """The trace that the producer named in a W3C ``traceparent`` header; None without a well-formed one."""
    header = delivery.envelope.headers.get("traceparent")
    match = _TRACEPARENT.match(header) if isinstance(header, str) else None
    return None if match is None else match[1]
