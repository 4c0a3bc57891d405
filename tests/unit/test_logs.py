"""Lines of the log: their order, what may not be in them, and that writing one never hurts."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace

import pytest
import structlog

from pythia.brokers import DRIVER_LOGGERS, open_broker
from pythia.core.context import current
from pythia.core.events import (
    BrokerLost,
    ConsumerRegistered,
    LoopBlocked,
    MessageDead,
    MessageDone,
    MessageRetry,
    TaskFailed,
    WorkerFailed,
    WorkerStarting,
)
from pythia.message import Delivery, Envelope
from pythia.observability import logs
from pythia.observability.lines import ID_CHARACTERS, LEADING, STACK_CHARACTERS
from tests.unit.cli_kit import environment

TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Section:
    level: str = "debug"
    format: str = "json"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch) -> Iterator[None]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    level = root.level
    drivers = {logging.getLogger(name): logging.getLogger(name).level for name in DRIVER_LOGGERS}
    for driver in drivers:
        driver.setLevel(logging.NOTSET)
    yield
    for driver, before in drivers.items():
        driver.setLevel(before)
    root.removeHandler(logs._BRIDGE)
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream():
    stream = io.StringIO()
    logs.configure(Section(), stream)
    return stream


def in_hand(*arguments, **options):
    """What a handler has, as far as the log looks."""
    return SimpleNamespace(delivery=delivery(*arguments, **options))


def rows(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def delivery(id="m-1", *, queue="orders", **fields):
    envelope = Envelope(b"{}", id=id, correlation_id="c-1", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    return Delivery(envelope, queue=queue, token=None, first_seen=0.0, **fields)


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_line_is_one_json_object_with_its_keys_in_the_documented_order(stream):
    event = MessageRetry(
        delivery=delivery(attempt=2),
        error=raised(ValueError("no")),
        reason="ValueError: no",
        delay_seconds=2.0,
        max_attempts=16,
    )
    logs.LogObserver("orders", "orders-a1-7")(event)
    (row,) = rows(stream)
    assert list(row) == [
        *LEADING,
        "reason",
        "delay_seconds",
        "max_attempts",
        "error.type",
        "error.message",
        "error.stack",
        "message",
    ]
    assert row["event"] == "message.retry"
    assert row["level"] == "warning"
    assert (row["worker"], row["worker_id"], row["queue"]) == ("orders", "orders-a1-7", "orders")
    assert (row["message_id"], row["attempt"], row["correlation_id"], row["trace_id"]) == ("m-1", 2, "c-1", TRACE)
    assert row["message"] == "failed, again in 2.0 s: ValueError: no"
    assert (row["error.type"], row["error.message"]) == ("ValueError", "no")
    assert row["error.stack"].startswith("Traceback")


def test_timestamps_are_rfc_3339_in_utc_with_milliseconds(stream):
    logs.logger_for("w", "w-1").info("x")
    stamp = rows(stream)[0]["timestamp"]
    assert len(stamp) == len("2026-11-22T10:00:00.000Z")
    assert stamp.endswith("Z")
    assert datetime.fromisoformat(stamp).utcoffset().total_seconds() == 0


def test_a_users_own_line_keeps_his_text_as_its_event(stream):
    logs.logger_for("w", "w-1").info("Worker starting up...", colour="red")
    (row,) = rows(stream)
    assert row["event"] == "Worker starting up..."
    assert row["colour"] == "red"
    assert "message" not in row


def test_a_logger_made_before_configure_follows_it():
    logger = structlog.get_logger(worker="early", worker_id="early-1")
    stream = io.StringIO()
    logs.configure(Section(), stream)
    logger.info("x")
    assert rows(stream)[0]["worker"] == "early"


def test_before_configure_a_line_still_comes_out(capsys):
    structlog.reset_defaults()
    structlog.get_logger(worker="w").info("hello")
    assert "hello" in capsys.readouterr().out


def test_inside_a_handler_a_line_names_its_message(stream):
    token = current.set(in_hand("m-7", attempt=3))
    try:
        logs.logger_for("w", "w-1").info("working")
        logging.getLogger("some.library").warning("oops")
    finally:
        current.reset(token)
    logs.logger_for("w", "w-1").info("elsewhere")
    inside, library, outside = rows(stream)
    assert (inside["queue"], inside["message_id"], inside["attempt"]) == ("orders", "m-7", 3)
    assert inside["trace_id"] == TRACE
    assert library["message_id"] == "m-7"
    assert "message_id" not in outside


def test_an_event_about_one_message_is_not_given_the_name_of_another(stream):
    token = current.set(in_hand("handling"))
    try:
        logs.LogObserver("w", "w-1")(MessageDone(delivery=delivery("told", queue="other"), seconds=0.1))
    finally:
        current.reset(token)
    assert (rows(stream)[0]["message_id"], rows(stream)[0]["queue"]) == ("told", "other")


def test_every_field_of_an_event_is_there_and_none_twice(stream):
    logs.LogObserver("w", "w-1")(
        WorkerStarting(
            broker="sqlite:////q.db",
            queues=("a", "b"),
            guarantee="at-least-once",
            concurrency=1,
            prefetch=2,
            retry="16",
            drain_timeout_seconds=25.0,
            http=None,
        )
    )
    (row,) = rows(stream)
    assert row["queues"] == ["a", "b"]
    assert row["http"] is None
    assert row["message"] == "starting"


def test_a_standstill_names_the_message_whose_handler_it_is(stream):
    observer = logs.LogObserver("w", "w-1")
    observer(LoopBlocked(seconds=1.23456789, where="a.py:1 in f", delivery=delivery("m-2")))
    observer(LoopBlocked(seconds=2.0, where="a.py:1 in f"))
    named, unnamed = rows(stream)
    assert named["message_id"] == "m-2"
    assert named["seconds"] == 1.234568
    assert "message_id" not in unnamed


def test_an_event_without_an_error_has_no_empty_error(stream):
    logs.LogObserver("w", "w-1")(BrokerLost(error=None, retry_in_seconds=1.0))
    assert not [key for key in rows(stream)[0] if key.startswith("error")]


def test_the_level_is_obeyed_and_can_change_while_running(stream):
    logger = logs.logger_for("w", "w-1")
    bound = logger.bind(x=1)
    logs.set_level("warning")
    bound.info("no")
    bound.warning("yes")
    logs.set_level("debug")
    bound.debug("again")
    assert [row["event"] for row in rows(stream)] == ["yes", "again"]


def test_the_format_can_change_while_running(stream):
    bound = logs.logger_for("w", "w-1").bind(x=1)
    bound.info("first")
    logs.configure(Section(format="console"), stream)
    bound.info("second")
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["event"] == "first"
    assert not second.startswith("{")


def test_records_of_the_standard_library_join_from_warning_on(stream):
    library = logging.getLogger("aiohttp.server")
    library.info("chatter")
    library.warning("trouble with %s", "x")
    (row,) = rows(stream)
    assert (row["event"], row["level"], row["message"]) == ("aiohttp.server", "warning", "trouble with x")


def test_a_logger_that_the_user_gave_a_level_is_heard_from_there(stream):
    his = logging.getLogger("shop")
    his.setLevel(logging.INFO)
    try:
        his.info("open")
    finally:
        his.setLevel(logging.NOTSET)
    assert rows(stream)[0]["message"] == "open"


@pytest.mark.parametrize("name", ["aio_pika", "aiormq.channel", "redis._parsers.base", "push_response"])
def test_a_driver_is_not_heard_because_its_lines_quote_messages(stream, name):
    logging.getLogger(name).error("Unhandled message %r returning", b"a body")
    assert rows(stream) == []


def test_a_driver_that_the_user_gave_a_level_is_heard(stream):
    logging.getLogger("aiormq").setLevel(logging.INFO)
    logging.getLogger("aiormq.channel").info("his wish")
    assert rows(stream)[0]["message"] == "his wish"


@pytest.mark.parametrize("url", ["amqp://127.0.0.1/", "redis://127.0.0.1/"])
def test_a_driver_prints_nothing_by_itself_where_nobody_set_logging_up(url):
    logger = {"a": "aiormq.connection", "r": "redis.connection"}[url[0]]
    script = (
        f"import logging; from pythia.brokers import open_broker; open_broker({url!r}); open_broker({url!r})\n"
        f"logging.getLogger({logger!r}).error('on its own'); logging.getLogger('shop').error('of the user')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == ""
    assert done.stderr == "of the user\n"


def test_whoever_handles_logs_hears_the_drivers(stream, caplog):
    open_broker("amqp://127.0.0.1/")
    logging.getLogger("aiormq.connection").warning("for whoever listens")
    assert "for whoever listens" in caplog.text


def test_a_record_whose_arguments_do_not_fit_is_written_all_the_same(stream):
    root = logging.getLogger()
    others = [handler for handler in root.handlers if handler is not logs._BRIDGE]  # pytest's own would raise
    for handler in others:
        root.removeHandler(handler)
    try:
        logging.getLogger("x").error("%d pieces", "many")
    finally:
        root.handlers.extend(others)
    assert rows(stream)[0]["message"] == "%d pieces"


def test_configuring_twice_writes_each_record_once(stream):
    logs.configure(Section(), stream)
    logging.getLogger("x").error("once")
    assert len(rows(stream)) == 1


@pytest.mark.parametrize(
    "value",
    [
        "amqp://shop:hunter2@rabbitmq/",
        ["amqp://shop:hunter2@rabbitmq/"],
        {"deep": {"url": "redis://:hunter2@cache:6379/0"}},
        ("cannot reach 'amqp://shop:hunter2@rabbitmq/vhost', giving up",),
        ConnectionError("amqp://shop:hunter2@rabbitmq/ refused"),
    ],
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_password_of_a_url_is_ever_written(value, form):
    stream = io.StringIO()
    logs.configure(Section(format=form), stream)
    logs.logger_for("w", "w-1").info("connecting", target=value, error=value)
    logs.LogObserver("w", "w-1")(WorkerFailed(detail=str(value), error=raised(ConnectionError(f"at {value}"))))
    logging.getLogger("driver").error("lost %s", value)
    text = stream.getvalue()
    assert "hunter2" not in text
    assert "***" in text


@pytest.mark.parametrize("evil", ["a\nb", "a\r\x1b[2Jb", "a\x9b31mb", "a\x7f\x00b", "a\u202eb", "a\u2028b", "a\ud800b"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_what_a_producer_writes_can_neither_break_a_line_nor_drive_a_terminal(evil, form):
    stream = io.StringIO()
    logs.configure(Section(format=form), stream)
    logs.LogObserver("w", "w-1")(
        MessageDead(delivery=delivery(evil, queue=evil), reason="rejected", detail=evil, attempts=1, dead_queue=evil)
    )
    logs.logger_for("w", "w-1").info(evil, **{evil: evil}, nested=[{evil: evil}])
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert not any(character in line for line in lines for character in "\r\x00\x1b\x7f\x9b\u2028\u202e\ud800")
    if form == "json":
        assert [json.loads(line)["event"] for line in lines] == ["message.dead", evil]


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no")


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("no")


def test_no_value_makes_a_line_fail(stream):
    loop = []
    loop.append(loop)
    values = [b"\xff", float("nan"), 10**5000, {1: {2, 3}}, Unspeakable(), loop, object(), UnspeakableError(), None]
    for value in values:
        logs.logger_for("w", "w-1").info("x", value=value, error=value)
    assert len(rows(stream)) == len(values)


def test_ids_reasons_and_stacks_are_cut_to_a_sane_length(stream):
    error = raised(ValueError("x" * 100_000))
    logs.LogObserver("w", "w-1")(
        MessageRetry(delivery=delivery("i" * 10_000), error=error, reason="r" * 10_000, delay_seconds=1, max_attempts=2)
    )
    (row,) = rows(stream)
    assert len(row["message_id"]) < ID_CHARACTERS + 30
    assert len(row["reason"]) < 2100
    assert len(row["message"]) < 2200
    assert len(row["error.stack"]) < STACK_CHARACTERS + 50
    assert row["error.stack"].startswith("Traceback")


def test_exceptions_are_flat_keys(stream):
    try:
        raise KeyError("k")
    except KeyError:
        logs.logger_for("w", "w-1").exception("broke")
        logging.getLogger("x").exception("broke too")
    for row in rows(stream):
        assert row["level"] == "error"
        assert row["error.type"] == "KeyError"
        assert "test_exceptions_are_flat_keys" in row["error.stack"]
        assert "exc_info" not in row


def test_the_type_of_an_error_says_its_module(stream):
    logs.LogObserver("w", "w-1")(TaskFailed(where="t", error=raised(json.JSONDecodeError("bad", "x", 0))))
    assert rows(stream)[0]["error.type"] == "json.decoder.JSONDecodeError"


# Many alike


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def done(queue="orders"):
    return MessageDone(delivery=delivery(queue=queue), seconds=0.1)


def test_of_more_than_ten_alike_in_a_second_the_rest_are_counted_into_one_line(stream):
    clock = Clock()
    observer = logs.LogObserver("w", "w-1", clock=clock)
    for _ in range(25):
        observer(done())
    assert len(rows(stream)) == 10
    clock.now += 1.0
    observer(done())
    assert len(rows(stream)) == 12
    told = rows(stream)[10]
    assert (told["event"], told["queue"], told["suppressed"], told["level"]) == ("message.done", "orders", 15, "info")
    assert "suppressed" not in rows(stream)[11]


def test_what_was_held_back_is_told_by_any_later_event_and_by_flush(stream):
    clock = Clock()
    observer = logs.LogObserver("w", "w-1", clock=clock)
    for _ in range(11):
        observer(done())
    clock.now += 1.0
    observer(ConsumerRegistered(queue="x"))
    assert [row.get("suppressed") for row in rows(stream)[10:]] == [1, None]
    for _ in range(12):
        observer(done())
    observer.flush()
    observer.flush()
    assert [row["suppressed"] for row in rows(stream) if "suppressed" in row] == [1, 2]


def test_a_signal_handler_may_tell_something_while_its_thread_is_counting(stream):
    observer, interrupted = logs.LogObserver("w", "w-1", clock=(clock := Clock())), done()

    class Interrupting:
        def __getattr__(self, name):
            if name == "queue":  # read while the windows are counted, as a signal may come there
                clock.now += 1.0
                observer(ConsumerRegistered(queue="x"))
            return getattr(interrupted.delivery, name)

    for _ in range(11):
        observer(interrupted)
    telling = threading.Thread(target=observer, args=(MessageDone(delivery=Interrupting(), seconds=0.1),), daemon=True)
    telling.start()
    telling.join(30)
    assert not telling.is_alive()
    assert {row["event"] for row in rows(stream)} == {"message.done", "consumer.registered"}
    assert [row["suppressed"] for row in rows(stream) if "suppressed" in row] == [1]


def test_each_queue_and_each_event_has_ten_of_its_own_and_other_events_are_never_held_back(stream):
    observer = logs.LogObserver("w", "w-1", clock=Clock())
    for _ in range(11):
        observer(done("a"))
        observer(done("b"))
        observer(MessageDead(delivery=delivery(), reason="rejected", detail="d", attempts=1, dead_queue="a.dead"))
        observer(ConsumerRegistered(queue="a"))
    assert len(rows(stream)) == 3 * 10 + 11


# On a terminal


def test_auto_is_the_console_on_a_terminal_and_json_elsewhere():
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        logs.configure(Section(format="auto"), stream)
        logs.logger_for("w", "w-1").info("hello", n=1)
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["n"] == 1


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({}, False, False),
    ],
)
def test_colours_follow_the_terminal_and_the_conventions(environment, terminal, coloured, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    logs.configure(Section(format="console"), stream)
    logs.logger_for("w", "w-1").warning("hello")
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_the_console_says_the_sentence_the_event_and_the_fields_and_prints_a_traceback_as_lines():
    stream = io.StringIO()
    logs.configure(Section(format="console"), stream)
    error = raised(ValueError("bad\x1b[2J"))
    logs.LogObserver("orders", "o-1")(
        MessageRetry(delivery=delivery(), error=error, reason="two words", delay_seconds=2, max_attempts=3)
    )
    first, *stack = stream.getvalue().splitlines()
    assert "warning" in first
    assert "failed, again in 2.0 s: two words [message.retry]" in first
    assert "message_id=m-1 attempt=1" in first
    assert 'reason="two words"' in first
    assert stack[0].strip() == "Traceback (most recent call last):"
    assert stack[-1].strip() == r"ValueError: bad\x1b[2J"


# Where nobody reads


def test_a_closed_stream_and_a_full_disk_are_survived():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for stream in (closed, Full()):
        logs.configure(Section(), stream)
        logs.logger_for("w", "w-1").info("x")


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_a_reader_that_goes_away_does_not_end_the_process(unbuffered):
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from pythia.observability import logs\n"
        "logs.configure(SimpleNamespace(level='info', format='json'))\n"
        "logger = logs.logger_for('w', 'w-1')\n"
        "sys.stdin.read()\n"
        "for n in range(2000): logger.info('line', n=n)\n"
        "print('alive', file=sys.stderr)\n"
    )
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | unbuffered,
    )
    os.close(write)
    os.close(read)
    _, errors = child.communicate("", timeout=60)
    assert errors == "alive\n"
    assert child.returncode == 0


def test_json_is_utf_8_whatever_the_locale():
    code = (
        "from types import SimpleNamespace\n"
        "from pythia.observability import logs\n"
        "logs.configure(SimpleNamespace(level='info', format='json'))\n"
        "print('before')\n"
        "logs.logger_for('w', 'w-1').info('Größe ✓')\n"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, timeout=60).stdout
    before, line = out.splitlines()
    assert before == b"before"
    assert json.loads(line)["event"] == "Größe ✓"


def test_a_line_that_is_taken_in_parts_is_written_whole():
    class Narrow(io.BytesIO):
        def write(self, data):
            return super().write(bytes(data[:7]))

    class Stream(io.StringIO):
        buffer = Narrow()

    logs.configure(Section(), Stream())
    logs.logger_for("w", "w-1").info("a line of more than seven bytes")
    assert json.loads(Stream.buffer.getvalue())["event"] == "a line of more than seven bytes"


def test_lines_go_to_stdout_as_it_is_at_the_time(capsys):
    logs.configure(Section())
    logs.logger_for("w", "w-1").info("here")
    assert json.loads(capsys.readouterr().out)["event"] == "here"


def test_a_users_capture_of_structlog_sees_events_too(stream):
    with structlog.testing.capture_logs() as captured:
        logs.LogObserver("w", "w-1")(ConsumerRegistered(queue="a"))
    assert captured[0]["event"] == "consumer.registered"
    assert rows(stream) == []


def test_an_application_that_set_structlog_up_by_itself_keeps_its_own() -> None:
    before = structlog.get_config()
    try:
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        assert logs.configured_elsewhere()
        logs.configure(Section())
        assert not logs.configured_elsewhere()
        structlog.reset_defaults()
        assert not logs.configured_elsewhere()
    finally:
        structlog.configure(**before)
