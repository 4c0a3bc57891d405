"""A process that is killed at any boundary that a message crosses loses nothing, and repeats at most once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest

from tests.crashes import document, table
from tests.crashes.cases import BROKERS, Case, Result
from tests.crashes.flaws import FLAWS, NEVER_SETTLED, ONE_MORE
from tests.crashes.run import ROOT, played
from tests.kit import servers

SEED = 7
SAMPLE = 8  # of each broker
LOOKS = 3  # a boundary that is new is there each time
REACHED = 0.9  # of the points: what the machine's mood decides is aimed at in vain now and then


@cache
def urls_of(broker: str) -> Mapping[str, str]:
    """Where the server is; skips, or fails, without one."""
    match broker:
        case "sqlite":
            return {}
        case "rabbitmq":
            return {"PYTHIA_TEST_RABBITMQ_URL": servers.require_untouched_rabbitmq()}
    return {"PYTHIA_TEST_REDIS_URL": servers.require_redis()}


@cache
def played_of(broker: str) -> Mapping[Case, Result]:
    """Every outcome once without a kill, a sample of the kills, and the flaws; all at the same time."""
    flaws = [case for case in (*FLAWS.values(), NEVER_SETTLED, ONE_MORE) if case.broker == broker]
    results = played([*table.enumerating([broker]), *sample_of(broker), *flaws], urls_of(broker))
    return {result.case: result for result in results}


def sample_of(broker: str) -> Sequence[Case]:
    return table.sample(table.read(), broker, SAMPLE, SEED)


def check(kills: Sequence[Result]) -> None:
    unsound = [f"{result}\n{result.log}" for result in kills if not result.sound]
    assert unsound == []
    missed = [str(result) for result in kills if not result.reached]
    assert len(missed) <= (1 - REACHED) * len(kills) + 1, missed


@pytest.mark.parametrize("broker", BROKERS)
def test_every_boundary_that_a_message_crosses_has_its_row(broker):
    passed = [played_of(broker)[case] for case in table.enumerating([broker])]
    assert all(result.sound and result.passed for result in passed), [str(result) for result in passed]
    new = table.without_row(passed, table.read())
    for _ in range(LOOKS - 1):
        again = {Case(broker=broker, outcome=outcome) for _, outcome, _ in new}
        new &= table.without_row(played(again, urls_of(broker)), table.read()) if again else set()
    assert new == set(), "kill there too: python -m tests.crashes.document --kill"
    gone = table.not_passed(passed, table.read())
    assert len(gone) <= (1 - REACHED) * len(table.killing(table.read(), [broker])), gone


@pytest.mark.parametrize("broker", BROKERS)
def test_a_process_killed_at_a_boundary_loses_nothing_and_repeats_at_most_once(broker):
    check([played_of(broker)[case] for case in sample_of(broker)])


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_process_killed_at_any_boundary_loses_nothing_and_repeats_at_most_once(broker):
    check(played(table.killing(table.read(), [broker]), urls_of(broker)))


@pytest.mark.parametrize("broker", BROKERS)
def test_a_worker_that_acks_too_early_is_caught(broker):
    flawed = played_of(broker)[FLAWS[broker]]
    assert (flawed.reached, flawed.lost, flawed.sound) == (True, 1, False)


def test_a_worker_that_never_settles_is_caught():
    flawed = played_of("rabbitmq")[NEVER_SETTLED]
    assert flawed.left
    assert not flawed.sound


def test_a_boundary_that_is_new_is_noticed():
    new = table.without_row([played_of("redis-stream")[ONE_MORE]], table.read())
    assert {point.name for _, _, point in new} == {
        "redis: EXISTS: before it is sent",
        "redis: EXISTS: sent",
        "redis: EXISTS: answered",
    }


def test_every_row_of_the_table_was_killed_at_and_lost_nothing():
    rows = [row for outcomes in table.read().values() for of_outcome in outcomes.values() for row in of_outcome]
    assert [row for row in rows if row.lost or row.left or row.duplicates > 1] == []
    assert sum(row.reached for row in rows) == len(rows)


def test_the_page_says_what_the_table_says():
    assert document.main(["--check", "--root", str(ROOT)]) == 0
