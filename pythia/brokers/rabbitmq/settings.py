"""How RabbitMQ is to be used: one frozen value out of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pythia.config import WorkerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitSettings:
    """The keys of ``[broker]`` and ``[rabbitmq]`` that the adapter needs; times are seconds.

    ``written`` are the queue arguments that the user wrote: an existing queue that contradicts one of them is refused, one
    that merely differs from our defaults is consumed as it is.
    """

    name: str = "pythia"  # of our connections, for who looks at the server
    connect_timeout: float = 10.0
    heartbeat: int = 15
    declare: bool = True
    queue_type: str = "quorum"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = ""
    exchange_type: str = "direct"
    routing_keys: Sequence[str] | None = None  # None: the queue's name
    allow_drop: bool = False
    consumer_timeout: float = 1800.0
    direct: bool = True  # deliveries are read by us, not by the driver

    @classmethod
    def of(cls, config: WorkerConfig | None) -> RabbitSettings:
        """What ``config`` says; the defaults without one."""
        if config is None:
            return cls()
        from pythia.config import was_set  # noqa: PLC0415 - pydantic is not loaded for who has no configuration

        rabbit = config.rabbitmq
        written = dict(rabbit.arguments)
        if was_set(config, "rabbitmq.queue_type"):
            written.setdefault("x-queue-type", rabbit.queue_type)
        return cls(
            name=config.worker_id,
            connect_timeout=config.broker.connect_timeout_seconds,
            heartbeat=config.broker.heartbeat_seconds,
            declare=config.broker.declare,
            queue_type=rabbit.queue_type,
            arguments=rabbit.arguments,
            written=written,
            exchange=rabbit.exchange,
            exchange_type=rabbit.exchange_type,
            routing_keys=rabbit.routing_keys,
            allow_drop=rabbit.allow_drop,
            consumer_timeout=rabbit.consumer_timeout_seconds,
            direct=rabbit.deliveries == "direct",
        )
