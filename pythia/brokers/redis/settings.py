"""What the configuration says to the Redis adapters, and what a URL says of the mode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pythia.config.urls import REDIS_MODES
from pythia.errors import ConfigError

if TYPE_CHECKING:
    from pythia.config import WorkerConfig

Mode = Literal["stream", "list", "pubsub"]

_UNFIT_FOR_A_NAME = re.compile(r"[^!-~]")  # CLIENT SETNAME takes printable ASCII without spaces


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """How to reach and use a server. Durations are seconds."""

    connect_timeout: float = 10.0  # of one try
    heartbeat: float = 15.0  # a silent connection is given up after twice as long
    declare: bool = True  # make a consumer group that is missing
    group: str = "pythia"
    delete_on_ack: bool | Literal["auto"] = "auto"
    client_name: str = "pythia"  # what CLIENT LIST shows

    @classmethod
    def of(cls, config: WorkerConfig | None) -> RedisSettings:
        """What ``config`` says; its defaults without one."""
        if config is None:
            return cls()
        return cls(
            connect_timeout=config.broker.connect_timeout_seconds,
            heartbeat=float(config.broker.heartbeat_seconds),
            declare=config.broker.declare,
            group=config.redis.group,
            delete_on_ack=config.redis.delete_on_ack,
            client_name=_UNFIT_FOR_A_NAME.sub("-", str(config.worker_id)) or "pythia",
        )

    @property
    def answer_timeout(self) -> float:
        """Seconds after which a command without an answer means that the connection is dead."""
        return min(5.0, 2 * self.heartbeat)


def mode_of(url: str) -> Mode:
    """What ``?mode=`` says; ``stream`` when it says nothing.

    Raises:
        ConfigError: it is none that there is.
    """
    modes = parse_qs(urlsplit(url).query, keep_blank_values=True).get("mode", ["stream"])
    match modes[-1]:
        case "stream" | "list" | "pubsub" as mode if len(set(modes)) == 1:
            return mode
    raise ConfigError(
        f"broker.url: mode must be one of {', '.join(REDIS_MODES)}, said once", key="broker.url", nearest="mode=stream"
    )


def driver_url(url: str) -> str:
    """``url`` as the driver knows it: without our ``mode``."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != "mode"]
    return urlunsplit(parts._replace(query=urlencode(query)))
