"""How a command sees dead letters: which are meant, and what their bodies look like."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.broker import DeadLetter
from pythia.cli.dead import _rate
from pythia.cli.dead_letters import Filter, moment, shown_body, summary, whole
from pythia.cli.output import print_json_line
from pythia.message import Envelope

ANY = Filter(reason=None, error_type=None, since=None)


def letter(
    body: bytes = b"{}", content_type: str = "application/json", headers: dict | None = None, **fields
) -> DeadLetter:
    return DeadLetter(
        id="1", envelope=Envelope(body, id="1", content_type=content_type, headers=headers or {}), **fields
    )


def test_no_filter_lets_everything_through():
    assert not ANY
    assert ANY.lets(letter())


@pytest.mark.parametrize(
    ("wanted", "found", "meant"),
    [
        ("httpx.ConnectError", "httpx.ConnectError", True),
        ("ConnectError", "httpx.ConnectError", True),
        ("Error", "httpx.ConnectError", False),
        ("ConnectError", None, False),
    ],
)
def test_an_error_is_named_with_or_without_its_module(wanted, found, meant):
    assert Filter(reason=None, error_type=wanted, since=None).lets(letter(error_type=found)) is meant


def test_a_reason_and_a_time_narrow_it():
    assert Filter(reason="poison", error_type=None, since=None).lets(letter(reason="poison"))
    assert not Filter(reason="poison", error_type=None, since=None).lets(letter(reason="expired"))
    since = Filter(reason=None, error_type=None, since=100.0)
    assert [since.lets(letter(dead_at=at)) for at in (99.9, 100.0, None)] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "ago"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("7d", 604_800), ("1w", 604_800)]
)
def test_since_may_be_an_age(text, ago):
    assert moment(text) == pytest.approx(time.time() - ago, abs=5)


@pytest.mark.parametrize("text", ["2026-11-22T10:00:00Z", "2026-11-22T10:00:00", "2026-11-22T12:00:00+02:00"])
def test_since_may_be_a_time_and_is_utc_without_a_zone(text):
    assert datetime.fromtimestamp(moment(text), UTC) == datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.mark.parametrize(("text", "rate"), [("50/s", 50), ("20", 20), ("120/m", 2), ("3600/h", 1), ("0.5/s", 0.5)])
def test_a_rate_is_by_the_second_minute_or_hour(text, rate):
    assert _rate(text) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (b'{"a": [1.50]}', "application/json", {"a": [1.5]}),
        (b"7", "application/vnd.shop+json; charset=utf-8", 7),
        (b"{nope", "application/json", "{nope"),
        (b"NaN", "application/json", "NaN"),
        (b"[" * 10_000 + b"]" * 10_000, "application/json", "[" * 10_000 + "]" * 10_000),
        (b"[" * 400 + b"]" * 400, "application/json", "[" * 400 + "]" * 400),
        (b'{"a": 1}', "text/plain", '{"a": 1}'),
        ("héllo".encode(), "application/octet-stream", "héllo"),
        (b"\xff\xfe", "application/json", {"base64": "//4="}),
    ],
)
def test_a_body_is_its_value_its_text_or_base64(body, content_type, shown):
    assert shown_body(body, content_type) == shown


@given(st.binary(max_size=200), st.sampled_from(["application/json", "text/plain", "", "x/y"]))
def test_any_body_of_anybody_can_be_shown_and_printed(body, content_type):
    print_json_line(whole(letter(body, content_type)))


def test_headers_of_any_producer_can_be_printed():
    headers = {
        "when": datetime(2026, 11, 22, tzinfo=UTC),
        "raw": b"\xff",
        "deep": {"x-death": [{"count": 1}]},
        "n": None,
    }
    shown = whole(letter(headers=headers))["headers"]
    assert shown == {
        "when": "2026-11-22 00:00:00+00:00",
        "raw": {"base64": "/w=="},
        "deep": {"x-death": [{"count": 1}]},
        "n": None,
    }


def test_a_foreign_dead_letter_has_null_for_what_nobody_recorded():
    assert summary(letter(b"abc", "text/plain")) == {
        "id": "1",
        "reason": None,
        "attempts": None,
        "error": {"type": None, "message": None},
        "published_at": None,
        "first_seen_at": None,
        "dead_at": None,
        "worker": None,
        "worker_id": None,
        "origin_queue": None,
        "content_type": "text/plain",
        "body_bytes": 3,
        "correlation_id": None,
    }


def test_a_letter_without_an_error_tells_the_sentence_that_was_given():
    assert summary(letter(reason="rejected", detail="unknown sku"))["error"] == {"type": None, "message": "unknown sku"}
