"""The names and signatures that users were promised, held against the code. This copy of the promise is the test's own."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import pickle
import subprocess
import sys
import unittest
from importlib import import_module
from random import Random
from typing import Any, get_args

import pytest

import pythia
from pythia import errors
from pythia.config import WorkerConfig
from pythia.core.lifecycle import LifecycleManager, WorkerState
from pythia.core.metrics import Metrics
from pythia.core.middleware import Middleware
from pythia.core.outcome import Outcome
from pythia.core.retry import RetryPolicy
from pythia.core.worker import Worker
from pythia.message import Message
from pythia.publisher import Publisher, SyncPublisher
from pythia.supervisor import Supervisor
from pythia.utils import testing

# -- 1. Names ---------------------------------------------------------------------------------------------------------

ROOT = [
    *("Worker", "Message", "WorkerConfig", "WorkerState", "RetryPolicy", "handler"),
    *("Retry", "Defer", "Reject", "Drop", "Publisher", "SyncPublisher", "Supervisor", "PythiaError"),
]
PLACES = {
    "pythia.core": ["Worker"],
    "pythia.core.lifecycle": ["LifecycleManager", "WorkerState"],
    "pythia.config": ["WorkerConfig"],
    "pythia.supervisor": ["Supervisor", "Server"],
    "pythia.utils.testing": ["WorkerTestCase", "WorkerHarness", "make_message"],
}


@pytest.mark.parametrize("name", ROOT)
def test_the_root_has_every_name_and_the_same_object_as_its_home(name: str) -> None:
    assert name in pythia.__all__
    assert name in dir(pythia)
    value = getattr(pythia, name)
    assert value is getattr(import_module(value.__module__), name)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PLACES.items() for name in names])
def test_every_fixed_place_has_its_names(module: str, name: str) -> None:
    value = getattr(import_module(module), name)
    assert getattr(pythia, name, value) is value


def test_importing_the_root_loads_no_driver_and_no_pydantic() -> None:
    heavy = ("pydantic", "aio_pika", "aiormq", "redis", "sqlite3", "aiohttp", "prometheus_client", "rich", "structlog")
    code = f"import sys; before = {{*sys.modules}}; import pythia; print([n for n in {heavy!r} if n in {{*sys.modules}} - before])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_root_says_its_version() -> None:
    assert pythia.__version__.count(".") == 2


# -- signatures -------------------------------------------------------------------------------------------------------


def said(function: Any) -> str:
    """Names, kinds and defaults of a function's parameters, as the promise writes them; ``async`` before a coroutine."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return f"async {text}" if inspect.iscoroutinefunction(function) else text


_PUBLISH = (
    "(self, queue, body, *, id=None, headers=None, content_type=None, correlation_id=None, reply_to=None, priority=None, "
    "idempotency_key=None, ordering_key=None, delay=None, exchange='', timeout=30)"
)

SIGNATURES: dict[type, dict[str, str]] = {
    Worker: {
        "__init__": "(self, config=None)",
        "process_message": "async (self, message)",
        "process_batch": "async (self, messages)",
        "on_startup": "async (self)",
        "on_shutdown": "async (self)",
        "health_check": "async (self)",
        "reload_config": "async (self)",
        "_apply_config_changes": "async (self, old, new)",
        "on_outcome": "async (self, message, outcome)",
        "idempotency_key": "(self, message)",
        "ordering_key": "(self, message)",
        "publish": "async (self, queue, body, *, delay=None, **options)",
        "_handle_error": "async (self, error)",
        "start": "async (self)",
        "run": "(self)",
        "running": "(self)",
        "stop": "(self, *, timeout=None)",
        "pause": "(self)",
        "resume": "(self)",
    },
    LifecycleManager: {
        "__init__": "(self, config=None)",
        "start_worker": "async (self, worker)",
        "stop_worker": "async (self, worker)",
    },
    Message: {
        "ack": "async (self)",
        "nack": "async (self, *, requeue=True, delay=None)",
        "reject": "async (self, reason)",
        "reply": "async (self, body, *, headers=None)",
    },
    RetryPolicy: {"delay": "(self, attempt, random)", "never": "()"},
    Publisher: {
        "__init__": "(self, broker_url=None, *, config=None)",
        "connect": "async (self)",
        "close": "async (self)",
        "publish": f"async {_PUBLISH}",
        "publish_many": "async (self, queue, bodies, *, delay=None, **common)",
        "ping": "async (self)",
        "__aenter__": "async (self)",
    },
    SyncPublisher: {
        "__init__": "(self, broker_url=None, *, config=None)",
        "connect": "(self)",
        "close": "(self)",
        "publish": _PUBLISH,
        "publish_many": "(self, queue, bodies, *, delay=None, **common)",
        "ping": "(self)",
        "__enter__": "(self)",
    },
    Supervisor: {
        "__init__": "(self, name='supervisor', *, drain_timeout_seconds=25)",
        "add": "(self, worker, processes=1, config=None)",
        "add_worker": "(self, worker)",
        "run": "(self)",
        "run_forever": "(self)",
        "start": "(self)",
        "stop": "(self)",
        "join_all": "(self, timeout=None)",
    },
    Metrics: {
        "counter": "(self, name, help='', labels=())",
        "gauge": "(self, name, help='', labels=())",
        "histogram": "(self, name, help='', labels=(), buckets=None)",
    },
    testing.WorkerHarness: {
        "publish": "async (self, body, queue=None, *, delay=None, **options)",
        "advance": "async (self, duration)",
        "crash": "async (self)",
        "published": "(self, queue)",
        "attempts": "(self, id)",
    },
}


@pytest.mark.parametrize(
    ("owner", "name", "promised"),
    [(owner, name, promised) for owner, rows in SIGNATURES.items() for name, promised in rows.items()],
    ids=[f"{owner.__name__}.{name}" for owner, rows in SIGNATURES.items() for name in rows],
)
def test_a_call_takes_what_was_promised(owner: type, name: str, promised: str) -> None:
    assert said(getattr(owner, name)) == promised


# -- 2. Worker --------------------------------------------------------------------------------------------------------


def test_the_class_attributes_have_the_promised_defaults() -> None:
    attributes = {
        "queue": "default",
        "queues": (),
        "concurrency": 10,
        "handler_timeout_seconds": 300,
        "retry": RetryPolicy(),
        "sink": None,
        "message_type": None,
        "execution": None,
        "middlewares": (),
        "config_class": WorkerConfig,
    }
    assert {name: getattr(Worker, name) for name in attributes} == attributes


def test_a_worker_has_what_its_user_uses() -> None:
    worker = Worker(WorkerConfig(worker_name="shop"))
    assert (worker.name, worker.is_running, worker.state) == ("shop", False, WorkerState.INITIALIZING)
    assert isinstance(worker.lifecycle_manager, LifecycleManager)
    assert isinstance(worker.metrics, Metrics)
    assert isinstance(worker.exit_stack, contextlib.AsyncExitStack)
    assert worker._startup_time.tzinfo is None
    for level in ("debug", "info", "warning", "error", "exception"):
        assert callable(getattr(worker.logger, level))


def test_every_name_of_ours_on_a_worker_is_promised_or_begins_with_our_prefix() -> None:
    """All other names are the user's."""
    worker = Worker(WorkerConfig())
    promised = {*SIGNATURES[Worker], "_startup_time", "config", "state", "name", "is_running", "lifecycle_manager"}
    promised |= {
        "logger",
        "metrics",
        "exit_stack",
        "queue",
        "queues",
        "concurrency",
        "handler_timeout_seconds",
        "retry",
    }
    promised |= {"sink", "message_type", "execution", "middlewares", "config_class"}
    ours = {name for name in dir(worker) if not name.startswith("__")}
    assert {name for name in ours - promised if not name.startswith("_pythia_")} == set()


def test_the_states_are_numbers_whose_text_is_their_name() -> None:
    assert [(int(state), str(state)) for state in WorkerState] == [
        (0, "initializing"),
        (1, "starting"),
        (2, "running"),
        (3, "stopping"),
        (4, "stopped"),
        (5, "error"),
    ]


def test_a_handler_is_still_the_function_and_makes_a_worker_class() -> None:
    @pythia.handler("orders", "more", concurrency=20, retry=RetryPolicy(max_attempts=3))
    async def on_order(message: Message[dict[str, int]]) -> int:
        return message.body["n"]

    assert inspect.iscoroutinefunction(on_order)
    worker_class = on_order.worker_class  # type: ignore[attr-defined]
    assert issubclass(worker_class, Worker)
    assert worker_class.__name__ == "on_order"
    assert (worker_class.queues, worker_class.concurrency) == (("orders", "more"), 20)
    assert worker_class.retry.max_attempts == 3


def test_an_outcome_says_what_became_of_a_delivery_and_is_frozen() -> None:
    outcome = Outcome("retry", "ValueError: no", ValueError("no"), 2.0)
    assert (outcome.kind, outcome.reason, outcome.delay_seconds) == ("retry", "ValueError: no", 2.0)
    assert isinstance(outcome.error, ValueError)
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.kind = "ack"  # type: ignore[misc]
    kinds = set(get_args(inspect.get_annotations(Outcome, eval_str=True)["kind"]))
    assert kinds == {"ack", "retry", "defer", "release", "dead_letter", "drop"}


@pytest.mark.parametrize(
    ("directive", "reason", "more"),
    [
        (pythia.Retry(after=30, reason="429"), "429", {"after": 30}),
        (pythia.Retry(), "", {"after": None}),
        (pythia.Defer(60, reason="not open yet"), "not open yet", {"delay": 60}),
        (pythia.Reject("unknown sku"), "unknown sku", {}),
        (pythia.Drop("test order"), "test order", {}),
    ],
)
def test_a_directive_is_raised_as_it_is_written(directive: Exception, reason: str, more: dict[str, Any]) -> None:
    assert isinstance(directive, errors.Directive)
    assert not isinstance(directive, errors.PythiaError)
    assert {"reason": reason, **more} == {name: getattr(directive, name) for name in ("reason", *more)}


# -- 3. Message -------------------------------------------------------------------------------------------------------


def test_a_message_has_every_property_and_is_frozen_and_final() -> None:
    message: Message[dict[str, int]] = Message[dict[str, int]]({"n": 1}, headers={"tenant": "acme"}, priority=3)
    for name in [
        *(
            "id",
            "body",
            "raw",
            "headers",
            "content_type",
            "correlation_id",
            "reply_to",
            "priority",
            "timestamp",
            "queue",
        ),
        *("idempotency_key", "ordering_key", "attempt", "deliveries", "redelivered"),
        *("max_attempts", "age_seconds", "deadline", "stopping"),
    ]:
        getattr(message, name)
    assert (message.body, message.priority, message.queue, message.attempt) == ({"n": 1}, 3, "default", 1)
    assert message.content_type == "application/json"
    assert message.timestamp.utcoffset() is not None
    with pytest.raises(AttributeError):
        message.body = {}
    with pytest.raises(TypeError):
        message.headers["tenant"] = "other"  # type: ignore[index]
    assert Message.__final__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "settle", [lambda m: m.ack(), lambda m: m.nack(), lambda m: m.reject("no")], ids=["ack", "nack", "reject"]
)
async def test_a_message_that_was_built_by_hand_cannot_be_settled(settle: Any) -> None:
    with pytest.raises(errors.NotDelivered):
        await settle(Message(body=1))


# -- 4. RetryPolicy, WorkerConfig -------------------------------------------------------------------------------------


def test_the_retry_policy_is_the_promised_frozen_value() -> None:
    fields = {field.name: getattr(RetryPolicy(), field.name) for field in dataclasses.fields(RetryPolicy)}
    assert fields == {
        "max_attempts": 16,
        "base_seconds": 1.0,
        "factor": 2.0,
        "cap_seconds": 3600.0,
        "jitter": 0.2,
        "delays_seconds": (),
        "retry_on": (Exception,),
        "give_up_on": (),
        "per_error": {},
    }
    assert all(field.kw_only for field in dataclasses.fields(RetryPolicy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_attempts = 1  # type: ignore[misc]
    assert RetryPolicy.never().max_attempts == 1


def test_the_default_policy_outlives_an_outage_of_four_hours() -> None:
    policy, random = RetryPolicy(), Random(1)
    delays = [policy.delay(attempt, random) for attempt in range(1, policy.max_attempts)]
    assert sum(delays) > 4 * 3600 * 0.8
    assert 0.8 <= delays[0] <= 1.2
    assert max(delays) <= 3600 * 1.2


def test_a_configuration_is_frozen_comparable_picklable_and_reloads_from_its_sources() -> None:
    config = WorkerConfig(concurrency=7)
    assert config == WorkerConfig(concurrency=7) != WorkerConfig()
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.reload() == config
    with pytest.raises(Exception, match=r"frozen|immutable"):
        config.concurrency = 8
    assert said(WorkerConfig.load) == "(path, **overrides)"


# -- 6. Errors --------------------------------------------------------------------------------------------------------

TREE: dict[str, tuple[str, int | None]] = {  # name: (parent, exit code that it states itself)
    "ConfigError": ("PythiaError", 78),
    "TargetError": ("PythiaError", 64),
    "LifecycleError": ("PythiaError", None),
    "BrokerError": ("PythiaError", None),
    "BrokerUnavailable": ("BrokerError", 69),
    "BrokerRefused": ("BrokerError", 78),
    "StoreError": ("BrokerError", 74),
    "PublishError": ("BrokerError", None),
    "Unsupported": ("BrokerError", None),
    "SettlementError": ("PythiaError", None),
    "AlreadySettled": ("SettlementError", None),
    "NotDelivered": ("SettlementError", None),
    "OwnershipLost": ("SettlementError", None),
    "DecodeError": ("PythiaError", None),
    "HandlerTimeout": ("PythiaError", None),
    "Retry": ("Directive", None),
    "Defer": ("Directive", None),
    "Reject": ("Directive", None),
    "Drop": ("Directive", None),
}


@pytest.mark.parametrize("name", TREE)
def test_the_tree_of_errors_is_as_promised(name: str) -> None:
    parent, exit_code = TREE[name]
    error = getattr(errors, name)
    assert getattr(errors, parent) in error.__bases__
    if exit_code is not None:
        assert error.exit_code == exit_code


def test_errors_carry_what_the_operator_needs() -> None:
    config = errors.ConfigError("no", key="a", source="f", value=1, nearest="b")
    assert (config.key, config.source, config.value, config.nearest) == ("a", "f", 1, "b")
    publish = errors.PublishError("no", queue="q", id="1", in_doubt=True)
    assert (publish.queue, publish.id, publish.in_doubt) == ("q", "1", True)
    assert issubclass(errors.HandlerTimeout, TimeoutError)
    assert set(get_args(errors.DeadReason)) == {
        *("rejected", "gave_up", "attempts_exhausted", "expired", "undecodable", "invalid", "too_large", "poison")
    }


# -- 7. Middleware, 8. Metrics ----------------------------------------------------------------------------------------


def test_a_middleware_is_called_with_the_message_and_what_comes_next() -> None:
    assert said(Middleware.__call__) == "async (self, message, call_next)"


def test_the_metrics_facade_has_the_promised_calls() -> None:
    metrics = Metrics()
    counter = metrics.counter("orders_total", "Orders", labels=("kind",))
    counter.labels(kind="new").inc()
    counter.labels(kind="new").inc(amount=2)
    assert counter._value == 3
    assert metrics.counter("orders_total") is counter
    gauge = metrics.gauge("open")
    gauge.set(3)
    gauge.inc()
    gauge.dec()
    assert gauge._value == 3
    histogram = metrics.histogram("seconds", buckets=(1, 2))
    histogram.observe(1.5)
    with histogram.time():
        pass
    assert sum(histogram.data.counts) == 2


# -- 9. JSON ----------------------------------------------------------------------------------------------------------

QUEUE_KEYS = {"queue", "ready", "in_flight", "delayed", "dead", "oldest_age_seconds", "consumers", "durable"}
LETTER_KEYS = {
    *("id", "reason", "attempts", "error", "published_at", "first_seen_at", "dead_at", "worker", "worker_id"),
    *("origin_queue", "content_type", "body_bytes", "correlation_id"),
}


def test_the_json_of_queues_and_dead_letters_has_exactly_the_promised_keys(tmp_path: Any) -> None:
    from tests.acceptance.service_kit import Place

    place = Place(
        tmp_path,
        "from pythia import Reject, Worker\nclass App(Worker):\n"
        "    async def process_message(self, message): raise Reject('no')\n",
    )
    (letter,) = place.publish("default", [{"n": 1}])
    assert place.run_to_the_end("--burst")[0] == 0
    queues = json.loads(place.command("queues", "--json").stdout)
    assert set(queues) == {"broker", "queues"}
    assert [set(queue) for queue in queues["queues"]] == [QUEUE_KEYS]
    listed = json.loads(place.command("dead", "list", "default", "--json").stdout)
    assert (set(listed), listed["queue"], listed["total"]) == ({"queue", "total", "items"}, "default", 1)
    assert set(listed["items"][0]) == LETTER_KEYS
    assert set(listed["items"][0]["error"]) == {"type", "message"}
    shown = json.loads(place.command("dead", "show", "default", letter, "--json").stdout)["items"][0]
    exported = json.loads(place.command("dead", "export", "default").stdout)
    assert set(shown) == set(exported) == LETTER_KEYS | {"body", "headers"}
    assert set(shown["error"]) == {"type", "message", "traceback"}


# -- 12. Testing ------------------------------------------------------------------------------------------------------


def test_the_testing_kit_has_the_promised_calls() -> None:
    harness = testing.WorkerHarness(Worker, concurrency=1)
    for name in ("publish", "outcome", "settled", "advance", "drain", "published", "dead", "attempts", "crash"):
        assert callable(getattr(harness, name))
    assert list(inspect.signature(testing.WorkerHarness.outcome).parameters)[1:] == ["id", "timeout"]
    assert issubclass(testing.WorkerTestCase, unittest.IsolatedAsyncioTestCase)
    message = testing.make_message({"n": 1}, queue="orders", attempt=3)
    assert (message.body, message.queue, message.attempt) == ({"n": 1}, "orders", 3)
    assert hasattr(testing, "harness")  # the pytest fixture
