"""The table of points: ``crash-points.json`` beside this module. One row for each broker, outcome and point."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crashes.cases import BROKERS, OUTCOMES, Case, Result
from tests.crashes.points import Point

FILE = Path(__file__).with_name("crash-points.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of a message whose process was killed at one point. ``reached`` False: it was not there this time."""

    point: Point
    reached: bool
    lost: int
    duplicates: int
    left: int


Table = Mapping[str, Mapping[str, Sequence[Row]]]  # by broker and outcome


def enumerating(brokers: Iterable[str] = BROKERS) -> list[Case]:
    """The cases in which nobody is killed: what they pass is what there is."""
    return [Case(broker=broker, outcome=outcome) for broker in brokers for outcome in OUTCOMES]


def killing(table: Table, brokers: Iterable[str] = BROKERS) -> list[Case]:
    """One case for each row."""
    return [
        Case(broker=broker, outcome=outcome, point=row.point)
        for broker in brokers
        for outcome, rows in table[broker].items()
        for row in rows
    ]


def sample(table: Table, broker: str, size: int, seed: int) -> list[Case]:
    """So many cases of a broker; the same for the same seed and table."""
    return random.Random(f"{seed} {broker}").sample(killing(table, [broker]), size)


def without_row(results: Iterable[Result], table: Table) -> set[tuple[str, str, Point]]:
    """Points that were passed and that the table does not have."""
    return {
        (result.case.broker, result.case.outcome, point)
        for result in results
        for point in result.passed
        if point not in points_of(table, result.case)
    }


def not_passed(results: Iterable[Result], table: Table) -> set[tuple[str, str, Point]]:
    """Points of the table that nobody passed any more."""
    return {
        (result.case.broker, result.case.outcome, point)
        for result in results
        for point in points_of(table, result.case) - set(result.passed)
    }


def points_of(table: Table, case: Case) -> set[Point]:
    return {row.point for row in table.get(case.broker, {}).get(case.outcome, ())}


def to_kill_at(looks: Sequence[Result]) -> list[Case]:
    """A case for each point that was passed in any of several looks at the same outcomes."""
    ways: dict[Case, list[Sequence[Point]]] = defaultdict(list)
    for result in looks:
        ways[result.case].append(result.passed)
    return [
        Case(broker=case.broker, outcome=case.outcome, point=point)
        for case in sorted(ways, key=_place)
        for point in in_order(ways[case])
    ]


def in_order(ways: Iterable[Sequence[Point]]) -> list[Point]:
    """All the points of some ways: each after those that any way passes before it, as far as they agree."""
    order: list[Point] = []
    for way in ways:
        at = 0
        for point in way:
            if point in order:
                at = max(at, order.index(point) + 1)
            else:
                order.insert(at, point)
                at += 1
    return order


def made_of(cases: Iterable[Case], results: Iterable[Result]) -> Table:
    """The table with what was found, in the order of the cases. What nobody could be killed at, for it is passed by chance and
    was not when aimed at, is no row."""
    found = {result.case: result for result in results}
    table: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        result = found[case]
        assert case.point is not None
        if not result.reached and result.sound:
            continue
        table[case.broker][case.outcome].append(
            Row(
                point=case.point,
                reached=result.reached,
                lost=result.lost,
                duplicates=result.duplicates,
                left=sum(result.left.values()),
            )
        )
    return table


def read() -> Table:
    """The committed table."""
    content = json.loads(FILE.read_text("utf-8"))
    return {
        broker: {name: list(map(_row, rows)) for name, rows in outcomes.items()} for broker, outcomes in content.items()
    }


def write(table: Table) -> None:
    lines = []
    for broker, outcomes in table.items():
        inner = [f"  {json.dumps(name)}: [\n{_lines(rows)}\n  ]" for name, rows in outcomes.items()]
        lines.append(f"{json.dumps(broker)}: {{\n" + ",\n".join(inner) + "\n}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _lines(rows: Sequence[Row]) -> str:
    return ",\n".join(
        f"    {json.dumps([*row.point, row.reached, row.lost, row.duplicates, row.left])}" for row in rows
    )


def _row(fields: Sequence[object]) -> Row:
    name, nth, reached, lost, duplicates, left = fields
    return Row(point=Point(name, nth), reached=reached, lost=lost, duplicates=duplicates, left=left)


def _place(case: Case) -> tuple[int, int]:
    return BROKERS.index(case.broker), OUTCOMES.index(case.outcome)
