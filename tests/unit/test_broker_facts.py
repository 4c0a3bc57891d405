"""What a worker tells of its broker: the risks at the start, and that it is blocked, once for each change."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pythia.broker import Published, Survey
from pythia.brokers import memory
from pythia.core.events import BrokerBlocked, BrokerUnblocked, Notice, PublishFailed
from pythia.core.publishing import confirm, make_envelope
from pythia.core.worker import Worker
from pythia.errors import BrokerRefused, PublishError, Unsupported
from pythia.observability import health
from tests.unit.core_kit import Kit, running, unavailable, until


class Quick(Worker):
    async def process_message(self, message):
        pass


def surveyed(kit: Kit, answer: Survey | BaseException) -> list[list[str]]:
    """Have the broker answer its survey so; the queues that it is asked about."""
    asked: list[list[str]] = []

    async def survey(queues):
        asked.append(list(queues))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    kit.seam.survey = survey
    return asked


def notices(kit: Kit) -> list[str]:
    return [notice.detail for notice in kit.of(Notice)]


async def test_each_risk_of_the_broker_is_one_line_at_the_start():
    kit = Kit(Quick, queues=("a", "b"))
    asked = surveyed(kit, Survey(offers=["quorum queues"], risks=["queue a drops after 5", "the disk is full at 90 %"]))
    await kit.start()
    assert asked == [["a", "b"]]
    assert notices(kit) == ["queue a drops after 5", "the disk is full at 90 %"]
    await kit.stop()


@pytest.mark.parametrize("error", [unavailable("cut"), BrokerRefused("not permitted")], ids=lambda e: type(e).__name__)
async def test_a_survey_that_fails_is_said_once_and_keeps_nobody_from_working(error):
    kit = Kit(Quick)
    surveyed(kit, error)
    await kit.start()
    assert notices(kit) == [f"the broker could not be looked at: {error}"]
    assert await kit.settled(await kit.publish()) == ["ack"]
    await kit.stop()


async def test_a_survey_that_never_answers_does_not_hold_up_the_start():
    kit = Kit(Quick, broker__connect_timeout_seconds=0.01)

    async def survey(_queues):
        await asyncio.Event().wait()

    kit.seam.survey = survey
    await kit.start()
    assert notices(kit) == ["the broker could not be looked at: no answer within 0.01 s"]
    await kit.stop()


async def test_a_broker_that_delivers_at_most_once_is_said_to_at_the_start_and_in_health(monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, name="p", guarantee="at-most-once"))
    async with running(Quick) as kit:
        (line,) = notices(kit)
        assert line.startswith("p delivers at most once")
        assert health.health(kit.life.status)["guarantee"] == "at-most-once"


async def test_idempotency_keys_without_a_store_for_them_end_the_start_and_not_silently():
    kit = Kit(Quick, dedup__enabled=True)
    kit.seam.idempotency = lambda: None
    with pytest.raises(Unsupported, match=r"dedup\.store_url"):
        await kit.start()
    assert kit.life.exit_code == 78


async def test_a_broker_that_takes_nothing_is_said_once_when_it_begins_and_once_when_it_ends():
    async with running(Quick) as kit:
        why: str | None = None
        kit.life.status.broker_stats = lambda: {"blocked": why}
        why = "memory alarm"
        await until(lambda: kit.of(BrokerBlocked))
        assert [reason.code for reason in health.ready(kit.life.status, kit.life.status.heartbeat).reasons] == [
            "broker_blocked"
        ]
        why = "memory and disk alarm"
        await until(lambda: kit.life.status.broker_blocked == why)
        (blocked,) = kit.of(BrokerBlocked)
        assert blocked.error == "memory alarm"
        assert kit.of(BrokerUnblocked) == []
        why = None
        await until(lambda: kit.of(BrokerUnblocked))
        (unblocked,) = kit.of(BrokerUnblocked)
        assert unblocked.downtime_seconds >= 0
        assert blocked.url == unblocked.url == kit.worker.config.broker.display_url
        assert health.ready(kit.life.status, kit.life.status.heartbeat).ok


class Says(Worker):
    async def process_message(self, message):
        await self.publish("orders.nl.17", {}, exchange="events")


async def test_a_publish_to_an_exchange_is_counted_by_the_exchange(monkeypatch):
    monkeypatch.setattr(memory, "_CAPABILITIES", replace(memory._CAPABILITIES, exchanges=True))
    async with running(Says) as kit:
        one = await kit.publish()
        assert await kit.settled(one) == ["ack"]
        assert kit.life.tally.published == {("events", "confirmed"): 1}  # routing keys may be without number
        kit.faults.publish = lambda queue, _envelope: Published.REFUSED if queue == "orders.nl.17" else None
        await kit.publish()
        await until(lambda: kit.of(PublishFailed))
        assert kit.of(PublishFailed)[0].destination == "events"


class Refusing(memory.MemoryBroker):
    """A broker that answers a publish as it is told to, and says of itself what it is told."""

    def __init__(self, answer: Published, stats: dict[str, str | None], **abilities: bool) -> None:
        super().__init__()
        self.faults.publish = lambda *_: answer
        self._stats, self._abilities = stats, abilities

    @property
    def capabilities(self):
        return replace(super().capabilities, **self._abilities)

    def stats(self):
        return self._stats


@pytest.mark.parametrize(
    ("broker", "words", "code"),
    [
        (Refusing(Published.UNKNOWN, {}), "in doubt: publish it again with the same id", 69),
        (Refusing(Published.REFUSED, {"trouble": "the disk is full"}), "it is not there: the disk is full", 74),
        (Refusing(Published.REFUSED, {"trouble": "alarm", "blocked": "memory alarm"}), ": memory alarm", 69),
        (Refusing(Published.REFUSED, {"trouble": None}), "it is not there", 78),
        (Refusing(Published.REFUSED, {}, exchanges=True), "a queue of that name there (publishing makes none)", 78),
        (Refusing(Published.REFUSED, {}, keeps=False), "nobody listens to it just now", 78),
    ],
    ids=["in doubt", "full", "blocked", "refused", "no queue", "nobody listens"],
)
async def test_a_message_that_was_not_confirmed_says_why_and_ends_a_command_with_the_right_code(broker, words, code):
    await broker.connect()
    with pytest.raises(PublishError) as raised:
        await confirm(broker, "orders", [make_envelope(1, id="m-1")])
    assert str(raised.value).startswith("message m-1 to 'orders' ")
    assert words in str(raised.value)
    assert raised.value.exit_code == code
    assert raised.value.in_doubt is (words.startswith("in doubt"))


async def test_a_message_that_no_queue_behind_an_exchange_takes_says_so():
    broker = Refusing(Published.REFUSED, {}, exchanges=True)
    await broker.connect()
    with pytest.raises(PublishError, match="is a queue bound to it for that key"):
        await confirm(broker, "orders.nl", [make_envelope(1)], exchange="events")
