"""What a handler's result means, decided by one pure function."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.core.outcome import ACK, Outcome, decide, describe
from pythia.core.retry import RetryPolicy
from pythia.errors import DecodeError, Defer, Drop, HandlerTimeout, Reject, Retry

PLAIN = RetryPolicy(jitter=0, base_seconds=2, factor=3, max_attempts=4)


def judged(error: BaseException | None, attempt: int = 1, policy: RetryPolicy = PLAIN) -> Outcome:
    return decide(error, attempt=attempt, policy=policy, random=Random(1))


def test_a_return_is_an_ack():
    assert judged(None) == ACK


@pytest.mark.parametrize("attempt", [1, 4, 99])
def test_directives_mean_what_they_say_whatever_the_attempt(attempt):
    assert judged(Drop("test order"), attempt).kind == "drop"
    assert judged(Defer(60, "not open"), attempt).kind == "defer"
    assert judged(Defer(60, "not open"), attempt).delay_seconds == 60
    rejected = judged(Reject("unknown sku"), attempt)
    assert (rejected.kind, rejected.dead_reason, rejected.reason) == ("dead_letter", "rejected", "unknown sku")


@pytest.mark.parametrize("reason", ["undecodable", "invalid", "too_large"])
def test_what_cannot_be_decoded_is_dead_at_once_for_that_reason(reason):
    assert judged(DecodeError("x", reason=reason)).dead_reason == reason


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), TimeoutError(), HandlerTimeout("late"), asyncio.CancelledError(), SystemExit(1), Retry()],
    ids=repr,
)
def test_failures_are_retried_until_the_attempts_are_spent(error):
    assert [judged(error, attempt).kind for attempt in (1, 2, 3, 4, 5)] == ["retry"] * 3 + ["dead_letter"] * 2
    assert [judged(error, attempt).delay_seconds for attempt in (1, 2, 3)] == [2, 6, 18]
    assert judged(error, 4).dead_reason == "attempts_exhausted"


@pytest.mark.parametrize(("after", "delay"), [(30, 30), (timedelta(minutes=1), 60), (0, 0), (-5, 0)], ids=str)
def test_retry_names_its_own_delay(after, delay):
    assert judged(Retry(after)).delay_seconds == delay


@pytest.mark.parametrize(("wait", "delay"), [(0, 0), (timedelta(hours=1), 3600), (-1, 0), (float("nan"), 0)], ids=str)
def test_defer_takes_seconds_and_timedeltas_and_is_never_negative(wait, delay):
    assert judged(Defer(wait)).delay_seconds == delay


def test_giving_up_is_for_errors_not_for_retry_itself():
    policy = RetryPolicy(give_up_on=(Exception,))
    assert judged(ValueError(), policy=policy).dead_reason == "gave_up"
    assert judged(Retry(1), policy=policy).kind == "retry"
    assert judged(SystemExit(), policy=policy).kind == "retry"


@pytest.mark.parametrize("reason", [None, 42, ValueError("inside"), "\ud800", object()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(
    "directive",
    [Drop, Reject, lambda reason: Defer(1, reason), lambda reason: Retry(1, reason)],
    ids=["drop", "reject", "defer", "retry"],
)
def test_whatever_is_given_as_a_reason_becomes_text_that_can_be_written_down(directive, reason):
    outcome = judged(directive(reason))
    assert isinstance(outcome.reason, str)
    outcome.reason.encode()


def test_an_error_without_a_text_is_still_described():
    class NoText(Exception):
        def __str__(self):
            raise RuntimeError

    assert describe(NoText()).startswith("NoText")
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("x")) == "ValueError: x"
    assert describe(Retry(1)) == "retry asked for"
    assert describe(Retry(1, "429")) == "429"


@given(
    st.sampled_from(
        [ValueError("x"), KeyError(1), OSError(), Retry(), Retry(7), HandlerTimeout(), KeyboardInterrupt()]
    ),
    st.integers(1, 10_000),
    st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 100),
        base_seconds=st.floats(0, 1e6),
        factor=st.floats(1, 1e6),
        cap_seconds=st.floats(0, 1e6),
        jitter=st.floats(0, 1),
        give_up_on=st.sampled_from([(), (ValueError,), (Exception,)]),
        retry_on=st.sampled_from([(Exception,), (KeyError,), ()]),
    ),
)
def test_every_failure_has_exactly_one_outcome_and_only_attempts_that_are_left_are_given(error, attempt, policy):
    outcome = decide(error, attempt=attempt, policy=policy, random=Random(attempt))
    assert outcome.kind in ("retry", "dead_letter")
    if outcome.kind == "retry":
        assert attempt < policy.max_attempts
        assert outcome.delay_seconds is not None
        assert outcome.delay_seconds >= 0
        assert outcome.dead_reason is None
    else:
        assert outcome.dead_reason in ("gave_up", "attempts_exhausted")
