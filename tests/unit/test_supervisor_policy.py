"""When a process that died is started again, and when not."""

from __future__ import annotations

from random import Random

import pytest

from pythia.supervisor import policy
from pythia.supervisor.policy import Again, Ending, GiveUp, after, delay, worse


def died(code: int = 1, ran: float | None = 0.0) -> Ending:
    return Ending(pid=1, code=code, ran_seconds=ran)


def deaths(*endings: Ending, ever_ran: bool = True) -> list[Again | GiveUp]:
    found: list[Again | GiveUp] = []
    quick = 0
    for ending in endings:
        follows = after(ending, quick, ever_ran=ever_ran, random=Random(1))
        quick = follows.quick_deaths
        found.append(follows)
    return found


def test_each_death_in_a_row_doubles_the_wait_and_the_fifth_is_a_crash_loop() -> None:
    *waits, end = deaths(*[died()] * 5)
    for wait, around in zip(waits, (0.5, 1, 2, 4), strict=True):
        assert isinstance(wait, Again)
        assert around * 0.8 <= wait.seconds <= around * 1.2
    assert end == GiveUp(70, 5)


def test_ten_seconds_of_running_begin_the_count_anew() -> None:
    follows = deaths(*[died()] * 4, died(ran=10.0), *[died()] * 3)
    assert all(isinstance(one, Again) for one in follows)
    assert [one.quick_deaths for one in follows] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_one_that_lives_long_and_dies_often_is_never_given_up() -> None:
    assert all(isinstance(one, Again) for one in deaths(*[died(-9, ran=11.0)] * 50))


@pytest.mark.parametrize("code", [64, 69, 74, 78])
def test_what_no_start_heals_is_given_up_at_once_unless_it_once_ran(code: int) -> None:
    assert deaths(died(code, None), ever_ran=False) == [GiveUp(code, 0)]
    assert isinstance(deaths(died(code, None), ever_ran=True)[0], Again)


@pytest.mark.parametrize("code", [0, 70, 71, 75, -9, -11])
def test_anything_else_is_tried_again_even_if_nothing_ever_ran(code: int) -> None:
    assert isinstance(deaths(died(code, None), ever_ran=False)[0], Again)


def test_a_wait_never_exceeds_its_cap() -> None:
    assert all(delay(deaths, Random(deaths)) <= policy.CAP_SECONDS * 1.2 for deaths in range(1, 200))


@pytest.mark.parametrize(
    ("codes", "worst"), [((0, 0), 0), ((0, 75), 75), ((75, 70), 70), ((70, 75), 70), ((0, 78), 78), ((64, 64), 64)]
)
def test_the_exit_code_is_the_worst(codes: tuple[int, int], worst: int) -> None:
    assert worse(*codes) == worst
