"""What probes and /health say about a worker, fact by fact."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import get_args

import pytest

from pythia.broker import Capabilities
from pythia.config import WorkerConfig
from pythia.core.metrics import Metrics
from pythia.core.state import WorkerState
from pythia.core.status import Blocked, Check, Connection, Running, Status
from pythia.core.tally import Tally
from pythia.observability import health

STATES = list(WorkerState)


@pytest.fixture
def status(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = WorkerConfig(
        worker_name="orders",
        worker_id="orders-a1-7",
        broker={"url": "amqp://shop:hunter2@rabbitmq/"},
        queues=("orders",),
    )
    status = Status(config, Tally(), Metrics())
    status.state = WorkerState.RUNNING
    status.started_up = True
    status.running_since = time.monotonic()
    status.connection = Connection(connected=True, since=1_795_341_600.0)
    status.capabilities = Capabilities(name="rabbitmq", server_version="4.1.2")
    status.tally.queue("orders").registered = True
    return status


def codes(probe):
    return [reason.code for reason in probe.reasons]


def now():
    return time.monotonic()


def all_three(status):
    return [probe(status, now()) for probe in (health.live, health.ready, health.startup)]


def test_a_worker_at_work_is_live_ready_and_started(status):
    for probe in all_three(status):
        assert probe.to_json() == {"ok": True, "state": "running", "reasons": []}


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (WorkerState.INITIALIZING, "starting"),
        (WorkerState.STARTING, "starting"),
        (WorkerState.STOPPING, "draining"),
        (WorkerState.STOPPED, "stopped"),
        (WorkerState.ERROR, "failed"),
    ],
)
def test_only_a_running_worker_is_ready(status, state, code):
    status.state = state
    probe = health.ready(status, now())
    assert not probe.ok
    assert codes(probe) == [code]


@pytest.mark.parametrize("state", [state for state in STATES if state is not WorkerState.ERROR])
def test_no_state_but_error_makes_a_process_worth_killing(status, state):
    status.state = state
    assert health.live(status, now()).ok


def test_a_lost_broker_is_not_ready_and_still_live(status):
    status.connection = Connection(connected=False, since=0.0, error="refused")
    status.tally.queue("orders").registered = False
    live, ready, _ = all_three(status)
    assert live.ok
    assert ready.to_json()["reasons"] == [{"code": "reconnecting", "detail": "refused"}]


def test_a_consumer_that_is_gone_is_named_with_why_and_when(status):
    queue = status.tally.queue("orders")
    queue.registered = False
    queue.unregistered_since = time.time() - 3
    queue.unregistered_why = "cancelled by the server"
    probe = health.ready(status, now())
    assert not probe.ok
    assert probe.to_json()["reasons"] == [
        {"code": "consumer_missing", "queue": "orders", "detail": "cancelled by the server 3 s ago"}
    ]


def test_a_consumer_that_was_never_there_says_why_as_soon_as_it_is_known(status):
    queue = status.tally.queue("orders")
    queue.registered = False
    assert health.ready(status, now()).reasons[0].detail == "not registered yet"
    queue.unregistered_since, queue.unregistered_why = time.time(), "queue orders does not exist"
    assert health.ready(status, now()).reasons[0].detail == "queue orders does not exist 0 s ago"


def test_a_broker_that_takes_nothing_from_us_is_not_ready_still_live_and_degraded(status):
    status.broker_blocked = "RabbitMQ's memory alarm"
    live, ready, _ = all_three(status)
    assert live.ok
    assert ready.to_json()["reasons"] == [{"code": "broker_blocked", "detail": "RabbitMQ's memory alarm"}]
    assert health.health(status)["status"] == "degraded"
    status.connection = Connection(connected=False, since=0.0, error="refused")
    assert codes(health.ready(status, now())) == ["reconnecting"]


def test_every_consumer_must_be_registered(status):
    status.tally.queue("orders.bulk")
    probe = health.ready(status, now())
    assert [(reason.code, reason.queue) for reason in probe.reasons] == [("consumer_missing", "orders.bulk")]


def test_a_running_worker_that_consumes_nothing_yet_is_not_ready(status):
    status.tally.queues.clear()
    assert codes(health.ready(status, now())) == ["consumer_missing"]


def test_a_paused_worker_is_not_ready_and_says_only_that(status):
    status.paused = True
    status.tally.queue("orders").registered = False
    live, ready, _ = all_three(status)
    assert live.ok
    assert codes(ready) == ["paused"]


def test_waiting_for_the_broker_is_started_and_not_ready(status):
    status.state = WorkerState.INITIALIZING
    status.started_up = False
    status.waiting_for_broker = True
    status.connection = Connection(connected=False, since=0.0, error="refused")
    live, ready, startup = all_three(status)
    assert live.ok
    assert startup.ok
    assert ready.to_json()["reasons"] == [{"code": "waiting_for_broker", "detail": "refused"}]


def test_a_worker_in_its_start_up_hook_is_not_started(status):
    status.state = WorkerState.STARTING
    status.started_up = False
    live, ready, startup = all_three(status)
    assert live.ok
    assert codes(startup) == codes(ready) == ["starting"]


def test_what_failed_for_good_is_neither_live_nor_ready_nor_started(status):
    status.failure = "on_startup raised ValueError: no"
    for probe in all_three(status):
        assert not probe.ok
        assert probe.to_json()["reasons"] == [{"code": "failed", "detail": "on_startup raised ValueError: no"}]
    assert health.health(status)["status"] == "failed"


def test_a_dead_writer_makes_a_process_worth_killing(status):
    status.broker_stats = lambda: {"writer_alive": False}
    live, ready, _ = all_three(status)
    assert codes(live) == codes(ready) == ["writer_dead"]
    assert not live.ok
    assert health.health(status)["status"] == "failed"
    status.broker_stats = lambda: {"writer_alive": True}
    assert health.live(status, now()).ok


def test_a_blocked_handler_is_told_with_its_message_and_line_and_trips_no_probe_for_a_minute(status):
    status.heartbeat = now() - 45
    status.blocked = Blocked(44.9, "shop.py:12 in process_message", "m-1", "orders")
    for probe in (health.live(status, now()), health.ready(status, now())):
        assert probe.ok
        (reason,) = probe.to_json()["reasons"]
        assert reason["code"] == "loop_blocked"
        assert (reason["message_id"], reason["queue"]) == ("m-1", "orders")
        assert reason["detail"].startswith("the event loop has not turned for 45.")
        assert "shop.py:12 in process_message" in reason["detail"]
    assert health.health(status)["status"] == "degraded"


def test_a_loop_that_stood_still_for_a_minute_makes_a_process_worth_killing(status):
    status.heartbeat = 1000.0
    assert health.live(status, 1000.0 + 59.9).ok
    assert not health.live(status, 1000.0 + 60.0).ok
    assert not health.ready(status, 1000.0 + 60.0).ok
    assert codes(health.live(status, 1000.0 + 60.0)) == ["loop_blocked"]


def test_a_loop_that_turns_is_not_blocked_whatever_was_said_before(status):
    status.blocked = Blocked(2.0, "a.py:1 in f", None, None)
    assert codes(health.live(status, now())) == []


def test_a_stopped_worker_has_no_loop_to_be_blocked(status):
    status.state = WorkerState.STOPPED
    status.heartbeat = now() - 1000
    assert health.live(status, now()).ok


def test_a_failing_check_degrades_and_gates_readiness_only_when_told_to(status):
    status.check = Check("health_check", ok=False, at=0.0, seconds=0.1, error="database away")
    assert health.ready(status, now()).ok
    assert health.health(status)["status"] == "degraded"
    section = status.config.health.model_copy(update={"gate_readiness": True})
    status.config = status.config.model_copy(update={"health": section})
    probe = health.ready(status, now())
    assert not probe.ok
    assert probe.to_json()["reasons"] == [{"code": "check_failed", "detail": "database away"}]
    status.check = replace(status.check, ok=True)
    assert health.ready(status, now()).ok


@pytest.mark.parametrize(
    "trouble",
    [
        lambda status: setattr(status, "paused", True),
        lambda status: setattr(status, "settling_refused", True),
        lambda status: setattr(status, "connection", Connection(connected=False, since=0.0)),
        lambda status: setattr(status.tally.queue("orders"), "registered", False),
    ],
    ids=["paused", "full store", "no broker", "no consumer"],
)
def test_what_somebody_should_look_at_is_degraded(status, trouble):
    assert health.health(status)["status"] == "ok"
    trouble(status)
    assert health.health(status)["status"] == "degraded"


def test_health_has_exactly_the_documented_shape_and_no_password(status):
    queue = status.tally.queue("orders")
    queue.received, queue.in_flight, queue.buffered, queue.last_delivery_at = 13, 2, 1, 1_795_341_600.5
    queue.outcomes["ack"] = 11
    status.check = Check("health_check", ok=True, at=1_795_341_600.0, seconds=0.004, error=None)
    status.running = lambda: [Running("m-1", "orders", 1, 3.1), Running("m-2", "orders", 1, 1.0)]
    status.tally.last_reload = (1_795_341_600.0, "applied", None)
    status.tally.config_loaded_at = 1_795_341_600.0
    told = health.health(status)
    assert 0 <= told.pop("uptime_seconds") < 60
    assert told.pop("pid") > 0
    assert told.pop("version").count(".") == 2
    stamp = "2026-11-22T10:00:00.000Z"
    assert told == {
        "status": "ok",
        "worker": "orders",
        "worker_id": "orders-a1-7",
        "state": "running",
        "paused": False,
        "guarantee": "at-least-once",
        "broker": {
            "kind": "rabbitmq",
            "url": "amqp://shop:***@rabbitmq/",
            "server_version": "4.1.2",
            "connected": True,
            "since": stamp,
            "error": None,
        },
        "consumers": [
            {
                "queue": "orders",
                "registered": True,
                "in_flight": 2,
                "buffered": 1,
                "last_delivery_at": "2026-11-22T10:00:00.500Z",
                "oldest_in_flight_seconds": 3.1,
            }
        ],
        "checks": [{"name": "health_check", "ok": True, "at": stamp, "seconds": 0.004, "error": None}],
        "messages": {
            "received": 13,
            "ack": 11,
            "retry": 0,
            "defer": 0,
            "release": 0,
            "dead_letter": 0,
            "drop": 0,
            "lost": 0,
            "in_flight": 2,
            "residual": 0,
        },
        "config": {
            "generation": 1,
            "loaded_at": stamp,
            "last_reload": {"at": stamp, "result": "applied", "detail": None},
        },
        "processes": None,
    }


def test_health_can_be_asked_before_anything_is_known(status):
    fresh = Status(status.config, Tally(), Metrics())
    told = health.health(fresh)
    assert told["broker"]["kind"] == "rabbitmq"
    assert told["guarantee"] is None
    assert told["consumers"] == told["checks"] == []
    assert told["config"]["last_reload"] is None


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", "memory"),
        ("sqlite:///q.db", "sqlite"),
        ("redis://h/0", "redis-stream"),
        ("redis://h/0?mode=list", "redis-list"),
    ],
)
def test_the_kind_of_a_broker_not_yet_reached_is_read_off_its_url(status, url, kind):
    fresh = Status(WorkerConfig(broker={"url": url}), Tally(), Metrics())
    assert health.health(fresh)["broker"]["kind"] == kind


def test_a_reader_that_comes_between_two_counters_does_not_report_a_loss(status):
    """The loop's thread counts `received` and `in_flight` one after the other."""
    reads = []

    class BetweenTwo(Tally):
        def outcomes(self):
            reads.append(1)
            return {**super().outcomes(), "residual": 1 if len(reads) < 3 else 0}

    status.tally = BetweenTwo()
    assert health.health(status)["messages"]["residual"] == 0


def test_a_true_loss_is_reported(status):
    status.tally.queue("orders").received = 1
    assert health.health(status)["messages"]["residual"] == 1


def test_what_changes_while_it_is_read_is_read_again(status):
    answers = [RuntimeError("dictionary changed size during iteration"), [Running("m", "orders", 1, 2.0)]]

    def running():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    status.running = running
    assert health.health(status)["consumers"][0]["oldest_in_flight_seconds"] == 2.0


def test_the_reason_codes_are_a_closed_set():
    assert set(get_args(health.Code)) == {
        "starting", "waiting_for_broker", "reconnecting", "consumer_missing", "broker_blocked", "paused", "draining", "stopped",
        "failed", "loop_blocked", "writer_dead", "check_failed",
    }  # fmt: skip
