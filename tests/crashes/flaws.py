"""Which case each deliberate flaw is planted in, and how it is told that it was found."""

from __future__ import annotations

from tests.crashes import table
from tests.crashes.cases import Case, Result
from tests.crashes.points import Point


def flaw(broker: str, outcome: str, point: str, mutant: str) -> Case:
    return Case(broker=broker, outcome=outcome, point=Point(point), mutant=mutant)


# Where a process dies whose worker has a flaw: it has said too early that it is done with its message.
ANSWERED = "engine: the broker's answer is here"
FLAWS = {
    "rabbitmq": flaw(
        "rabbitmq",
        "retry",
        "rabbitmq: publish of the copy that waits: before it is written",
        "ack before the copy",
    ),
    "sqlite": flaw("sqlite", "ack", ANSWERED, "ack before the handler"),
    "redis-stream": flaw("redis-stream", "retry", ANSWERED, "ack before the handler"),
    "redis-list": flaw("redis-list", "dead letter", ANSWERED, "ack before the handler"),
}
ONE_MORE = Case(broker="redis-stream", outcome="ack", mutant="one more boundary")
NEVER_SETTLED = flaw("rabbitmq", "ack", "handler: begins", "never settled")


def found(result: Result) -> str:
    """What the flaw of this case was found by; empty: it was not."""
    if result.lost:
        return "lost"
    if result.left:
        return "left"
    return "a boundary without a row" if table.without_row([result], table.read()) else ""
