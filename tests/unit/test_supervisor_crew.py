"""The supervisor's state machine, with processes that are none and a clock that is set by hand."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from pythia.core.events import Event, ProcessCrashLoop, ProcessDied, ProcessStarted
from pythia.supervisor.channel import Line, Wire
from pythia.supervisor.crew import Crew
from pythia.supervisor.order import Common, Order, Post


class Puppet:
    """A process that does what the test says."""

    def __init__(self, pid: int, order: Order) -> None:
        self.pid, self.order, self.code = pid, order, None
        self.signals: list[int] = []
        ours, theirs = socket.socketpair()
        self.wire, self.line, self._theirs = Wire(ours), Line(theirs), theirs

    def poll(self) -> int | None:
        return self.code

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def runs(self, worker: str = "w") -> None:
        self.line.say({"hello": {"worker": worker, "drain_timeout_seconds": 10}})
        self.line.say({"running": True})

    def ends(self, code: int) -> None:
        self.code = code
        self._theirs.close()

    def answers(self, **said: Any) -> None:
        """The next question."""
        self._theirs.settimeout(5)
        payload = self.line.read()
        assert payload is not None
        self.line.say({"id": json.loads(payload)["id"], **said})


class Stage:
    """A crew and everything around it."""

    def __init__(self, *posts: Post, **options: Any) -> None:
        self.now = 100.0
        self.puppets: list[Puppet] = []
        self.events: list[Event] = []
        self.crew = Crew(
            posts or (Post(key="a", target="m:A", processes=2),),
            options.pop("common", Common()),
            drain_seconds=5.0,
            emit=self.events.append,
            start=self._start,
            clock=lambda: self.now,
            random=Random(7),
            **options,
        )

    def _start(self, order: Order) -> Puppet:
        self.puppets.append(Puppet(1000 + len(self.puppets), order))
        return self.puppets[-1]

    def step(self, seconds: float = 0.0) -> None:
        """Let so much time pass, and look at everything."""
        self.now += seconds
        for _ in range(3):
            self.crew.submit(lambda: None)
            self.crew.step()

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def over(self) -> bool:
        return self.crew.over


@pytest.fixture
def stage() -> Iterator[Any]:
    made: list[Stage] = []

    def make(*posts: Post, **options: Any) -> Stage:
        made.append(Stage(*posts, **options))
        made[-1].step()
        return made[-1]

    yield make
    for one in made:
        for puppet in one.puppets:
            puppet.wire.close()
            puppet._theirs.close()
        one.crew.close()


def test_each_slot_gets_a_process_and_a_dead_one_is_replaced_after_its_wait(stage) -> None:
    one = stage()
    assert [(event.slot, event.pid) for event in one.told(ProcessStarted)] == [(0, 1000), (1, 1001)]
    one.puppets[1].runs()
    one.step()
    one.puppets[1].ends(-9)
    one.step()
    (died,) = one.told(ProcessDied)
    assert (died.worker, died.slot, died.code_or_signal) == ("w", 1, "SIGKILL")
    one.step(died.restart_in_seconds - 0.01)
    assert len(one.puppets) == 2
    one.step(0.02)
    assert (len(one.puppets), one.puppets[2].order.slot) == (3, 1)


def test_five_quick_deaths_stop_the_others_and_end_with_70(stage) -> None:
    one = stage()
    one.puppets[0].runs()
    for _ in range(5):
        one.puppets[-1].line.say({"failed": "no licence"})
        one.puppets[-1].ends(70)
        one.step()
        one.step(40)
    (loop,) = one.told(ProcessCrashLoop)
    assert (loop.deaths, loop.cause) == (5, "exit 70: no licence")
    assert one.puppets[0].signals[0] == signal.SIGTERM
    assert not one.over
    one.puppets[0].ends(0)
    one.step()
    assert one.over
    assert one.crew.exit_code == 70


def test_what_no_start_heals_is_told_once(stage) -> None:
    one = stage()
    for puppet in one.puppets:
        puppet.line.say({"failed": "there is no module 'm'"})
        puppet.ends(64)
    one.step()
    assert one.over
    assert (one.crew.exit_code, one.crew.error) == (64, "there is no module 'm'")
    assert one.told(ProcessDied) == []


def test_a_stop_is_sigterm_to_all_and_sigkill_after_the_longest_deadline_and_no_earlier(stage) -> None:
    one = stage()
    one.puppets[0].runs()  # it drains for up to ten seconds, the supervisor for five
    one.step()
    one.crew.stop()
    one.step()
    assert [puppet.signals for puppet in one.puppets] == [[signal.SIGTERM, signal.SIGCONT]] * 2
    one.step(7.1)
    assert signal.SIGKILL in one.puppets[1].signals
    assert signal.SIGKILL not in one.puppets[0].signals
    one.step(5.0)
    assert signal.SIGKILL in one.puppets[0].signals
    for puppet in one.puppets:
        puppet.ends(-9)
    one.step()
    assert one.over
    assert one.crew.exit_code == 75


def test_a_second_stop_hurries_and_a_stop_takes_back_what_was_to_start(stage) -> None:
    one = stage()
    one.puppets[1].ends(1)
    one.step()
    one.crew.stop()
    one.crew.stop()
    one.step()
    assert one.puppets[0].signals.count(signal.SIGTERM) == 2
    one.step(60)
    assert len(one.puppets) == 2
    one.puppets[0].ends(0)
    one.step()
    assert one.over
    assert one.crew.exit_code == 0


def test_a_reload_starts_and_drains_to_match_and_leaves_the_others_alone(stage) -> None:
    one = stage(Post(key="a", target="m:A", processes=2), Post(key="b", target="m:B"))
    one.crew.arrange([Post(key="a", target="m:A", processes=3), Post(key="c", target="m:C")])
    one.step()
    assert [puppet.order.post.key for puppet in one.puppets] == ["a", "a", "b", "a", "c"]
    assert [puppet.signals[:1] for puppet in one.puppets] == [[], [], [signal.SIGTERM], [], []]
    one.puppets[2].ends(0)
    one.crew.arrange([Post(key="a", target="m:A", processes=1)])
    one.step()
    assert one.crew.wanted == {"a": 1}
    assert [bool(puppet.signals) for puppet in one.puppets] == [False, True, True, True, True]
    assert len(one.puppets) == 5
    assert one.told(ProcessDied) == []


def test_another_target_under_the_same_name_is_another_process(stage) -> None:
    one = stage(Post(key="a", target="m:A"))
    one.crew.arrange([Post(key="a", target="m:New")])
    one.step()
    assert one.puppets[0].signals[0] == signal.SIGTERM
    assert one.puppets[1].order.post.target == "m:New"


def test_a_burst_ends_when_all_are_done(stage) -> None:
    one = stage(common=Common(burst=True))
    one.puppets[0].ends(0)
    one.step()
    assert not one.over
    one.puppets[1].ends(0)
    one.step()
    assert one.over
    assert (len(one.puppets), one.crew.exit_code) == (2, 0)


def test_one_that_ends_well_unasked_is_replaced_all_the_same(stage) -> None:
    one = stage()
    one.puppets[0].ends(0)
    one.step()
    one.step(1)
    assert len(one.puppets) == 3


def test_while_developing_a_broken_one_waits_for_the_next_change(stage) -> None:
    one = stage(Post(key="a", target="m:A"), developing=True)
    one.puppets[0].ends(64)
    one.step(100)
    assert len(one.puppets) == 1
    assert not one.over
    one.crew.replace_all()
    one.step()
    assert len(one.puppets) == 2


def test_questions_are_answered_by_all_or_late_and_the_dead_are_not_waited_for(stage) -> None:
    one = stage()
    for puppet in one.puppets:
        puppet.runs()
    one.step()
    asked = one.crew.ask("probes", 2.0)
    one.step()
    one.puppets[0].answers(live={"ok": True})
    one.step()
    assert not asked.done()
    one.puppets[1].ends(-9)
    one.step()
    first, second = asked.result(0)
    assert first.answer is not None
    assert (second.stage, second.answer) == ("absent", None)
    late = one.crew.ask("probes", 2.0)
    one.step()
    one.step(2.1)
    assert late.result(0)[0].answer is None


def test_the_last_totals_of_a_dead_process_stay(stage) -> None:
    one = stage(Post(key="a", target="m:A"))
    one.puppets[0].runs()
    one.puppets[0].line.say({"metrics": [["c", "counter", "", [["c_total", {}, 5]]]]})
    one.step()
    one.puppets[0].ends(-9)
    one.step()
    asked = one.crew.totals()
    one.step()
    totals = asked.result(0)
    assert (totals.gone["c"].samples, totals.living) == ({("c_total", ()): 5.0}, [])
    assert totals.restarts == {("w", "exit"): 0, ("w", "signal"): 1}


def test_a_process_that_talks_nonsense_is_killed(stage) -> None:
    one = stage(Post(key="a", target="m:A"))
    one.puppets[0]._theirs.sendall(b"\0\0\0\x02no")
    one.step()
    assert one.puppets[0].signals == [signal.SIGKILL]


def test_a_pause_is_told_to_those_that_start_later(stage) -> None:
    one = stage(Post(key="a", target="m:A"))
    one.crew.pause(paused=True)
    one.puppets[0].ends(-9)
    one.step()
    one.step(1)
    assert [puppet.order.paused for puppet in one.puppets] == [False, True]
