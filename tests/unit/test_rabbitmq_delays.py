"""Any delay waits as long as it says, to within a unit, in at most 24 objects of the broker, and no queue sees it twice."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from pythia.brokers.rabbitmq import delays


def waited(way: delays.Route) -> tuple[float, list[str]]:
    """What the broker does with a message that goes this way: seconds until it comes out, and the queues it was in."""
    seconds, queues, exchange = 0.0, [], way.exchange
    while exchange != delays.RETURN:
        number = int(exchange.rsplit(".", 1)[1])
        matching = [
            digit for digit in "01" if fnmatchcase(way.routing_key, delays.binding(number, digit).replace("*", "?"))
        ]
        assert len(matching) == 1, "an exchange either holds a message or passes it down"
        if matching == ["1"]:
            queues.append(exchange)
            seconds += delays.UNIT_SECONDS * 2**number
        exchange = delays.below(number)
    return seconds, queues


@given(st.floats(min_value=0.001, max_value=delays.REACH_SECONDS))
def test_a_delay_is_never_shorter_and_at_most_a_unit_longer(delay):
    seconds, queues = waited(delays.route(delay))
    assert delay - 1e-6 <= seconds <= delay + delays.UNIT_SECONDS
    assert len(queues) == len(set(queues)), "the server drops what comes to a queue of ours for the second time"


@given(st.floats(min_value=delays.REACH_SECONDS + 0.001, max_value=10 * 86_400))
def test_a_long_delay_waits_for_a_part_of_it_and_is_done_in_few_parts(delay):
    parts = 0
    while delay > delays.REACH_SECONDS:
        way = delays.route(delay)
        assert way.exchange == ""
        part = next(seconds for seconds in delays.COARSE_SECONDS if way.routing_key == delays.coarse(seconds))
        assert part <= delay
        delay -= part
        parts += 1
    assert parts <= 10 * 86_400 / 7680 + 16


def test_there_are_at_most_24_objects_for_all_delays_of_a_virtual_host():
    queues = list(delays.every_queue(quorum=True))
    exchanges = [delays.level(number) for number in range(delays.LEVELS)]
    others = [delays.RETURN, delays.UNROUTED, delays.UNROUTED]  # the last is an exchange and a queue
    assert len(queues) + len(exchanges) + len(others) <= 24


def test_what_waits_is_passed_on_at_least_once_and_never_dropped_for_length():
    for arguments in delays.every_queue(quorum=True).values():
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        assert arguments["x-overflow"] == "reject-publish"
        assert "x-expires" not in arguments, "a delay queue that expires takes its messages with it"
    assert all(arguments["x-queue-type"] == "classic" for arguments in delays.every_queue(quorum=False).values())


def test_the_shortest_delay_is_a_unit_and_the_longest_of_the_levels_is_all_of_them():
    assert waited(delays.route(1e-9))[0] == delays.UNIT_SECONDS
    seconds, queues = waited(delays.route(delays.REACH_SECONDS))
    assert math.isclose(seconds, delays.REACH_SECONDS)
    assert len(queues) == delays.LEVELS
