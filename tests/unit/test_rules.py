"""From a class and its configuration to the rules of a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pythia.core.retry import RetryPolicy
from pythia.core.rules import build_rules, class_defaults, declared_type, kebab, merged_policy
from pythia.core.worker import Worker
from pythia.errors import ConfigError
from pythia.message import Message
from tests.unit.core_kit import config_of

if TYPE_CHECKING:
    from somewhere import Unknown


class Order:
    pass


async def typed(self, message: Message[Order]): ...
async def batch(self, messages: Sequence[Message[Order]]): ...
async def several(self, messages: list[Message[dict]]): ...
async def plain(self, message: Message): ...
async def silent(self, message): ...
async def unknown(self, message: Message[Unknown]): ...
async def returning(self, message) -> Message[Order]: ...


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (typed, Order),
        (batch, Order),
        (several, dict),
        (plain, None),
        (silent, None),
        (unknown, None),
        (returning, None),
    ],
)
def test_the_type_of_bodies_is_read_from_the_handlers_annotation(function, expected):
    assert declared_type(function) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OrderWorker", "order-worker"),
        ("HTTPWorker", "http-worker"),
        ("on_order", "on-order"),
        ("Worker2", "worker2"),
        ("MyHTTP", "my-http"),
        ("_Private", "private"),
        ("A", "a"),
        ("Order_Worker", "order-worker"),
    ],
)
def test_names_in_kebab_case(name, expected):
    assert kebab(name) == expected


class Base(Worker):
    concurrency = 3
    handler_timeout_seconds = None


class Derived(Base):
    queue = "orders"
    retry = RetryPolicy(max_attempts=2, delays_seconds=(1.0, 2.0))


def test_a_class_declares_what_it_and_its_parents_write_and_nothing_else():
    declared = class_defaults(Derived, Worker)
    assert declared.pop("retry")["max_attempts"] == 2
    assert declared == {"worker_name": "derived", "concurrency": 3, "handler_timeout_seconds": 0, "queue": "orders"}
    assert class_defaults(Worker, Worker) == {"worker_name": "worker"}


def test_a_retry_that_is_no_policy_is_refused():
    class Wrong(Worker):
        retry = 5

    with pytest.raises(ConfigError, match="RetryPolicy"):
        class_defaults(Wrong, Worker)


def test_zero_means_no_bound():
    rules = build_rules(
        config_of(handler_timeout_seconds=0, max_age_seconds=0), policy=RetryPolicy(), declared_type=None
    )
    assert (rules.handler_timeout, rules.max_age, rules.dedup_ttl) == (None, None, None)


def test_an_operators_delays_replace_the_policys():
    policy = merged_policy(
        config_of(retry__delays_seconds=[9, 8]), RetryPolicy(per_error={KeyError: RetryPolicy.never()})
    )
    assert policy.delays_seconds == (9, 8)
    assert KeyError in policy.per_error


def test_an_error_class_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no_such_module"):
        merged_policy(config_of(retry__retry_on=["no_such_module.Error"]), RetryPolicy())
