"""Pythia's own metrics as the user's facade reads them, by their names without ``pythia_``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pythia.core.metrics import MetricKind
from pythia.core.status import Status

Reader = tuple[MetricKind, Callable[[], float]]


def our_metrics(status: Status) -> Mapping[str, Reader]:
    """Sums over every queue and label; a name that is not here is free for the user."""
    tally = status.tally

    def outcome(name: str) -> Callable[[], float]:
        return lambda: tally.outcomes()[name]

    return {
        "messages_received_total": ("counter", outcome("received")),
        "messages_processed_total": ("counter", lambda: _processed(tally.outcomes())),
        "retries_total": ("counter", outcome("retry")),
        "dead_letters_total": ("counter", outcome("dead_letter")),
        "messages_in_flight": ("gauge", outcome("in_flight")),
        "conservation_residual": ("gauge", outcome("residual")),
        "messages_published_total": ("counter", lambda: sum(tally.published.values())),
        "reconnects_total": ("counter", lambda: tally.reconnects),
        "worker_state": ("gauge", lambda: status.state.value),
        "paused": ("gauge", lambda: status.paused),
        "broker_connected": ("gauge", lambda: status.connection.connected),
        "event_loop_lag_seconds": ("gauge", lambda: status.loop_lag),
        "config_generation": ("gauge", lambda: tally.generation),
    }


def _processed(outcomes: Mapping[str, int]) -> int:
    return sum(outcomes[kind] for kind in ("ack", "retry", "defer", "dead_letter", "drop"))
