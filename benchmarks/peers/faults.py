"""The fault plan: one scenario, one kind of fault. Which fault strikes when is drawn from the seed, alike for every contestant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pythia.proof.schedule import LINK_KINDS, PROCESS_KINDS, Kind

LEASE_SECONDS = 3.0
RUN_SECONDS = 12.0  # faults strike in the first half
RATE = 200.0  # messages a second
WORKERS = 2
PATIENCE_SECONDS = 20.0  # for what is still missing, when nothing is broken any more
ONCE = 30.0  # its place is left alone until the end of the run

RESTART = Kind(name="restart", place="server", cause="broker", seconds=1.0, after=ONCE, text="the server is killed")
DELETED = Kind(
    name="deleted", place="server", cause="broker", after=ONCE, destroys=True, text="what is consumed is gone"
)
GROUP_GONE = Kind(name="group-gone", place="server", cause="broker", after=ONCE, text="the consumer group is gone")
NOTHING = Kind(name="nothing", place="server", cause="none", seconds=6.0, after=ONCE, text="nothing is broken")
HALF_OPEN = Kind(name="half-open", place="link", cause="connection", seconds=8.0, text="nothing passes, nobody is told")
_KNOWN = {kind.name: kind for kind in (*PROCESS_KINDS, *LINK_KINDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``poison``: one message in 50 always fails."""

    name: str
    kind: Kind
    text: str
    poison: bool = False
    brokers: Sequence[str] = ("RabbitMQ", "Redis streams")


SCENARIOS = (
    Scenario(
        name="kill", kind=_KNOWN["kill"], text="SIGKILL to a worker in mid-message, again and again; another is started"
    ),
    Scenario(name="stop", kind=_KNOWN["stop"], text="SIGTERM to a worker under load; another is started"),
    Scenario(name="reset", kind=_KNOWN["reset"], text="a worker's connections end with RST"),
    Scenario(name="half-open", kind=HALF_OPEN, text="for 8 s nothing passes between a worker and the broker"),
    Scenario(name="restart", kind=RESTART, text="the broker is killed and started again"),
    Scenario(name="deleted", kind=DELETED, text="the queue, or the stream, is deleted under its consumers"),
    Scenario(name="group", kind=GROUP_GONE, text="the consumer group is destroyed", brokers=("Redis streams",)),
    Scenario(name="poison", kind=NOTHING, text="one message in 50 always fails; nothing is broken", poison=True),
)
