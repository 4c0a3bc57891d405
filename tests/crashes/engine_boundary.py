"""What lies between the broker and the handler inside the process: the settler, the answer, the note of what is in hand."""

from __future__ import annotations

from collections.abc import Sequence

from pythia.broker import Settled, Settlement
from pythia.core.held import Held
from pythia.core.journal import Hand
from pythia.core.settler import Answer, Settler
from pythia.core.subscription import Subscription
from tests.crashes.points import Points

FINAL = ("ack", "dead_letter", "drop")


def instrument(points: Points) -> None:
    _settler(points)
    _journal(points)


def _settler(points: Points) -> None:
    put, answered = Settler.put, Subscription._answered

    def told_to_settle(settler: Settler, held: Held, settlement: Settlement) -> None:
        points.passing("engine: decided, not handed to the settler")
        put(settler, held, settlement)
        points.passing("engine: handed to the settler")

    def told_of_the_answer(subscription: Subscription, answers: Sequence[Answer]) -> None:
        points.passing("engine: the broker's answer is here")
        answered(subscription, answers)
        points.passing("engine: the answer is told")
        for _, settlement, answer in answers:
            if settlement.kind in FINAL and answer is Settled.DONE:
                points.over()

    Settler.put = told_to_settle
    Subscription._answered = told_of_the_answer


def _journal(points: Points) -> None:
    take, let_go = Hand.take, Hand.let_go

    def noted(hand: Hand, key: bytes) -> int:
        points.passing("journal: before it is noted as in hand")
        slot = take(hand, key)
        points.passing("journal: noted as in hand")
        return slot

    def forgotten(hand: Hand, slot: int) -> None:
        points.passing("journal: before it is let go")
        let_go(hand, slot)
        points.passing("journal: let go")

    Hand.take, Hand.let_go = noted, forgotten
