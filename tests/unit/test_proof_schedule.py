"""The same seed is the same schedule, and nothing is broken twice at a time in one place."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest

from pythia.broker import Capabilities
from pythia.config import WorkerConfig
from pythia.proof.run import Plan, _Run
from pythia.proof.schedule import BLOCK_KIND, LINK_KINDS, LOCK_KIND, MODES, PROCESS_KINDS, Planned, schedule

KINDS = (*PROCESS_KINDS, *LINK_KINDS, BLOCK_KIND, LOCK_KIND)
BY_NAME = {kind.name: kind for kind in KINDS}


def made(mode="dense", *, seed=1, seconds=300.0, kinds=KINDS) -> list[Planned]:
    return schedule(mode, kinds, seed=seed, workers=2, lease=5.0, seconds=seconds, recovery=10.0)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_is_the_same_schedule_and_another_is_another(mode):
    assert made(mode) == made(mode)
    assert made(mode) != made(mode, seed=2)


@pytest.mark.parametrize("seed", range(20))
def test_a_dense_schedule_has_ten_faults_a_minute_and_every_kind(seed):
    faults = made(seed=seed)
    assert len(faults) >= 50
    assert {fault.kind for fault in faults} == BY_NAME.keys()
    gaps = [later.at - earlier.at for earlier, later in pairwise(faults)]
    assert min(gaps) >= 1.49


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mode", MODES)
def test_no_place_is_broken_twice_at_a_time(mode, seed):
    spans = defaultdict(list)
    for fault in made(mode, seed=seed):
        kind = BY_NAME[fault.kind]
        places = {
            "workers": [("worker", 0), ("worker", 1)],
            "worker": [("worker", fault.slot)],
            "link": [("link", fault.slot)],
        }
        for place in places.get(kind.place, [(kind.place, 0)]):
            spans[place].append((fault.at, fault.at + fault.seconds))
    for place in spans.values():
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(place)))


def test_an_isolated_fault_is_followed_by_twice_the_time_that_recovery_may_take():
    faults = made("isolated")
    assert len(faults) > 5
    assert all(later.at - earlier.at - earlier.seconds >= 20 for earlier, later in pairwise(faults))


def test_of_a_pair_the_second_strikes_while_the_first_is_there():
    long = [kind for kind in KINDS if kind.length(5.0) > 1]
    faults = made("paired", kinds=long)
    pairs = [(one, two) for one, two in pairwise(faults) if two.at - one.at < 1]
    assert len(pairs) > 5
    assert all(two.at < one.at + one.seconds for one, two in pairs)


@pytest.mark.parametrize("mode", MODES)
def test_the_last_faults_leave_time_to_recover(mode):
    assert all(fault.at <= 291 for fault in made(mode))


@pytest.mark.parametrize("seed", range(20))
def test_a_kind_whose_place_is_taken_is_put_off_and_not_left_out(seed):
    kinds = [replace(BY_NAME["kill"], weight=3), *(BY_NAME[name] for name in ("kill-all", "freeze", "reset", "locked"))]
    planned = [fault.kind for fault in made(seed=seed, kinds=kinds, seconds=200.0)]
    rounds = len(planned) // 7
    for kind in kinds:
        assert (rounds - 3) * kind.weight <= planned.count(kind.name) <= (rounds + 3) * kind.weight


@pytest.mark.parametrize(("leased", "cause"), [(True, "lease"), (False, "none")])
def test_who_stands_still_for_less_than_two_heartbeats_loses_nothing_where_there_are_no_leases(tmp_path, leased, cause):
    plan = Plan(url="amqp://localhost", folder=tmp_path, config=WorkerConfig(), kinds=[BY_NAME["freeze"]])
    able = Capabilities(name="any", leased=leased)
    assert [kind.cause for kind in _Run(plan, lambda _: None)._kinds(able)] == [cause]
