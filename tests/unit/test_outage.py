"""An outage is one line, a reminder now and then, and an end; not a line for every try."""

from __future__ import annotations

from pythia.core.outage import REMINDER_SECONDS, Outage
from pythia.errors import BrokerRefused, BrokerUnavailable


def test_the_first_failure_is_told_and_those_after_it_once_a_minute():
    outage, lost = Outage(), BrokerUnavailable("away")
    told = [second for second in range(0, 200, 4) if outage.worth_telling(lost, float(second))]
    assert told == [0, 60, 120, 180]


def test_a_failure_of_another_kind_is_told():
    outage = Outage()
    assert outage.worth_telling(BrokerUnavailable("away"), 0.0)
    assert outage.worth_telling(BrokerRefused("who are you?"), 1.0)
    assert not outage.worth_telling(BrokerRefused("who are you?"), 2.0)


def test_an_outage_that_is_over_tells_how_long_it_took_and_the_next_begins_anew():
    outage = Outage()
    assert outage.over(5.0) is None
    outage.worth_telling(BrokerUnavailable("away"), 10.0)
    outage.worth_telling(BrokerUnavailable("away"), 14.0)
    assert outage.over(17.5) == 7.5
    assert outage.worth_telling(BrokerUnavailable("away"), 17.5 + REMINDER_SECONDS / 2)
