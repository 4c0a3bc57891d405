"""The retry policy: pure, bounded, and spoken for by the nearest class."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.core.retry import RetryPolicy
from pythia.core.worker import Worker
from pythia.errors import HandlerTimeout
from tests.unit.core_kit import running

RANDOM = Random(3)


def delays(policy: RetryPolicy, count: int = 6) -> list[float]:
    return [policy.delay(attempt, Random(1)) for attempt in range(1, count + 1)]


def test_the_delay_grows_by_its_factor_up_to_the_cap():
    assert delays(RetryPolicy(jitter=0, base_seconds=1, factor=2, cap_seconds=10)) == [1, 2, 4, 8, 10, 10]


def test_an_explicit_list_of_delays_is_followed_and_its_last_repeats():
    assert delays(RetryPolicy(jitter=0, delays_seconds=(5, 1, 30)), 5) == [5, 1, 30, 30, 30]


def test_the_default_outlives_an_outage_of_four_hours():
    policy = RetryPolicy(jitter=0)
    assert policy.max_attempts == 16
    assert sum(delays(policy, policy.max_attempts - 1)) > 4 * 3600


def test_never_means_one_run():
    assert RetryPolicy.never().max_attempts == 1


@given(
    st.integers(1, 100_000),
    st.floats(0, 1e9),
    st.one_of(st.floats(1, 1e9), st.integers(1, 10**9)),
    st.floats(0, 1e9),
    st.floats(0, 1),
    st.integers(),
)
def test_no_delay_is_negative_or_beyond_the_cap_and_its_jitter(attempt, base, factor, cap, jitter, seed):
    policy = RetryPolicy(base_seconds=base, factor=factor, cap_seconds=cap, jitter=jitter)
    delay = policy.delay(attempt, Random(seed))
    assert 0 <= delay <= cap * (1 + jitter) * 1.000001
    assert delay == policy.delay(attempt, Random(seed))


def test_jitter_is_a_share_on_both_sides():
    policy = RetryPolicy(base_seconds=100, jitter=0.2)
    seen = [policy.delay(1, RANDOM) for _ in range(500)]
    assert 80 <= min(seen) < 85
    assert 115 < max(seen) <= 120


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"base_seconds": -1},
        {"base_seconds": float("nan")},
        {"factor": 0.5},
        {"cap_seconds": -1},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"delays_seconds": (1, -1)},
    ],
    ids=str,
)
def test_what_makes_no_policy_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


class Net(Exception):
    pass


class Slow(Net):
    pass


def test_the_nearest_class_in_the_mro_speaks_for_an_error():
    net, broad = RetryPolicy(max_attempts=3), RetryPolicy(max_attempts=2)
    policy = RetryPolicy(per_error={Net: net, Exception: broad})
    assert policy.governing(Slow()) is net
    assert policy.governing(ValueError()) is broad
    assert policy.governing(SystemExit()) is policy


def test_give_up_on_wins_over_retry_on():
    policy = RetryPolicy(retry_on=(Net,), give_up_on=(Slow,))
    assert [policy.retries(error) for error in (Net(), Slow(), ValueError(), KeyboardInterrupt())] == [
        True, False, False, True,
    ]  # fmt: skip


class Fails(Worker):
    retry = RetryPolicy(
        base_seconds=1,
        jitter=0,
        max_attempts=5,
        per_error={
            Net: RetryPolicy(delays_seconds=(10, 20), jitter=0, max_attempts=3),
            HandlerTimeout: RetryPolicy.never(),
        },
        give_up_on=(KeyError,),
    )
    errors = {"net": Net, "slow": Slow, "key": KeyError, "value": ValueError}

    def __init__(self, config=None):
        super().__init__(config)
        self.times: list[float] = []

    async def process_message(self, message):
        self.times.append(self._pythia_life.clock.monotonic())
        raise self.errors[message.body]


@pytest.mark.parametrize(
    ("body", "reason", "gaps"),
    [
        ("net", "attempts_exhausted", [10, 20]),
        ("slow", "attempts_exhausted", [10, 20]),
        ("key", "gave_up", []),
        ("value", "attempts_exhausted", [1, 2, 4, 8]),
    ],
)
async def test_a_worker_retries_each_kind_of_error_by_its_own_policy(body, reason, gaps):
    async with running(Fails) as kit:
        await kit.final(await kit.publish(body))
        times = kit.worker.times
        assert [round(b - a) for a, b in itertools.pairwise(times)] == gaps
        (letter,) = await kit.dead()
        assert (letter.reason, letter.attempts) == (reason, len(gaps) + 1)


async def test_configuration_wins_over_the_class_key_by_key():
    async with running(Fails, retry__max_attempts=2, retry__give_up_on=["ValueError"]) as kit:
        assert await kit.final(await kit.publish("value")) == ["dead_letter"]
        assert await kit.final(await kit.publish("key")) == ["retry", "dead_letter"]  # the class's list was replaced
        assert await kit.final(await kit.publish("net")) == [
            "retry",
            "retry",
            "dead_letter",
        ]  # per error: the class's own
