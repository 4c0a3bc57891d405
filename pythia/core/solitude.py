"""A suspect runs alone: when one of the ready messages may begin, while it is not known which one kills the process."""

from __future__ import annotations

from collections.abc import Sequence

from pythia.core.held import Held
from pythia.core.shift import Shift
from pythia.core.slots import Slots


class Solitude:
    """Of the lanes of one engine. A suspect waits until nothing runs and what was done is settled, and
    nothing begins beside it: if it kills the process, nothing else comes again.

    What is ready behind it waits too; nothing is asked of the broker meanwhile but what can begin next.
    """

    def __init__(self, shift: Shift, slots: Slots) -> None:
        self._shift = shift
        self._slots = slots
        self.held_back = False  # somebody waits because of a suspect
        self.alone: Held | None = None  # the suspect that runs

    def permits(self, first: Held) -> bool:
        """Whether the first of the ready ones may begin; it must, then. Nobody is suspected, nearly always."""
        return not (self._shift.suspects.table or self.held_back) or self._permits(first)

    def _permits(self, first: Held) -> bool:
        suspected = self._shift.suspects.runs_alone(first.delivery)
        if self.alone is None and not suspected:
            return True
        self.held_back = True
        self._slots.one_by_one(on=True)
        if self.alone is not None or not self._slots.calm:
            return False
        self.alone = first
        return True

    def ended(self, group: Sequence[Held]) -> bool:
        """These do not run any more, and somebody was held back. Whether those that wait should look around."""
        if self.alone in group:
            self.alone = None
        if self.alone is None:
            self.held_back = False
            self._slots.one_by_one(on=False)
        return self.alone is None
