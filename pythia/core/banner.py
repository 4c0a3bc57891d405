"""What a worker says it will do, when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pythia.broker import Broker
from pythia.core.events import WorkerStarting
from pythia.core.retry import RetryPolicy
from pythia.core.rules import merged_policy
from pythia.core.slots import Slots

if TYPE_CHECKING:
    from pythia.core.life import Life


def banner(life: Life, broker: Broker) -> WorkerStarting:
    """The event that announces a start: broker, queues, guarantee, bounds, policy, ports."""
    config, capabilities = life.worker.config, broker.capabilities
    return WorkerStarting(
        broker=config.broker.display_url,
        queues=config.queue_names,
        guarantee=capabilities.guarantee,
        concurrency=config.concurrency,
        prefetch=Slots(config.concurrency, config.prefetch, queues=len(config.queue_names)).prefetch,
        retry=in_words(merged_policy(config, type(life.worker).retry)),
        drain_timeout_seconds=config.drain_timeout_seconds,
        http=life.http,
    )


def in_words(policy: RetryPolicy) -> str:
    """``16 attempts, 1 s × 2 up to 3600 s ± 20 %``."""
    attempts = f"{policy.max_attempts} attempt{'' if policy.max_attempts == 1 else 's'}"
    if policy.max_attempts == 1:
        return attempts
    if policy.delays_seconds:
        return f"{attempts}, after {', '.join(f'{delay:g}' for delay in policy.delays_seconds)} s"
    growth = f"{policy.base_seconds:g} s × {policy.factor:g} up to {policy.cap_seconds:g} s"
    return f"{attempts}, {growth} ± {policy.jitter:.0%}"
