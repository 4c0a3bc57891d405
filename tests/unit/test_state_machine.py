"""The two tables of ``pythia.core.state``, held against the real engine, searched for a hole, and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from pythia.broker import Settlement
from pythia.brokers.memory_store import MemoryStore
from pythia.core import starting, state, states_page
from pythia.core.state import DELIVERY, FINAL, WORKER, Place, WorkerState, allowed
from pythia.core.tally import KINDS
from pythia.errors import LifecycleError
from tests.unit.core_kit import Kit
from tests.unit.life_machine import LifeMachine, Player, Seen
from tests.unit.state_model import Model, search

ROOT = Path(__file__).resolve().parents[2]
DISPOSE = MemoryStore._dispose
FAULTS = {"crash", "expire", "cancelled", "reply lost", "refused", "stop"}


# The tables.


def test_a_settlement_of_every_kind_has_its_move_and_a_retry_alone_counts():
    out = {move.event: move for move in DELIVERY if move.here is Place.SETTLING and move.fenced}
    assert set(out) == set(KINDS)
    assert [kind for kind in KINDS if out[kind].counts] == ["retry"]


def test_every_place_is_reached_and_every_one_but_an_end_is_left():
    assert {move.there for move in DELIVERY} | {Place.DELAYED} == set(Place)
    assert set(Place) - set(allowed(DELIVERY)) == FINAL - {Place.DEAD}
    assert {move.there for move in WORKER} == set(allowed(WORKER)) == set(WorkerState)


def test_no_event_leads_to_two_places_from_one():
    for table in (WORKER, DELIVERY):
        assert len({(move.here, move.event) for move in table}) == len(table)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_broker_moves_a_message_as_the_table_says(kind):
    (move,) = (move for move in DELIVERY if move.here is Place.SETTLING and move.event == kind)
    store, delivery = _held()
    store.settle(Settlement(delivery, kind, delay=5.0), 0.0)
    row, depth = delivery.token[0], store.depth("q", 0.0)
    where = {Place.READY: depth.ready, Place.DELAYED: depth.delayed, Place.DEAD: depth.dead}
    assert [place for place, count in where.items() if count] == [place for place in where if place is move.there]
    assert row.attempt == 1 + move.counts


def _held():
    from pythia.brokers.memory_store import Holder
    from pythia.message import Envelope

    store, nothing = MemoryStore(), lambda *_: None
    holder = Holder(queue="q", lease=30, max_hold=None, wake=nothing, rearm=nothing, on_lost=nothing)
    store.put("q", Envelope(b"{}", id="m"), 0.0)
    return store, store.take(holder, 1, 0.0)[0]


# The page.


def test_the_page_is_what_the_tables_say():
    assert states_page.main(["--check", "--root", str(ROOT)]) == 0


def test_a_stale_page_is_noticed_and_written_anew(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    assert states_page.main(["--check", "--root", str(tmp_path)]) == 1
    assert "stale" in capsys.readouterr().out
    assert states_page.main(["--root", str(tmp_path)]) == 0
    assert states_page.main(["--check", "--root", str(tmp_path)]) == 0
    for move in (*WORKER, *DELIVERY):
        assert f"    {move.here} --> {move.there}: {move.event}\n" in (tmp_path / "docs" / "states.md").read_text()


# The real engine.


def play(machine: type[LifeMachine], examples: int, *, number: int | None = None) -> Seen:
    """A campaign, the same one for the same number; what it has seen, added to what the machine had seen."""
    campaign = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # shrinking takes minutes here
    )
    run_state_machine_as_test(machine if number is None else seed(number)(machine), settings=campaign)
    return machine.seen


def new_machine(base: type[LifeMachine] = LifeMachine) -> type[LifeMachine]:
    """One that has seen nothing yet."""
    return type("Machine", (base,), {"seen": Seen()})


@pytest.fixture
def quick_start(monkeypatch):
    """A broker that is away at the start is asked again soon: that wait is of real seconds."""
    monkeypatch.setattr(starting, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(starting, "LONGEST_WAIT_SECONDS", 0.002)


@pytest.mark.timeout(180)
def test_a_worker_played_with_at_random_keeps_every_promise_and_every_move_of_the_tables_is_seen(quick_start):
    """It is played with until there is nothing new to be seen: that takes one campaign or two, and may take eight."""
    machine = new_machine()
    for number in range(8):
        if not play(machine, 50, number=number).missing():
            return
    raise AssertionError(f"never seen: {machine.seen.missing()}")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_for_a_long_time_too(quick_start):
    assert not play(new_machine(), 5000).missing()


def test_a_machine_that_never_gets_to_run_is_told_from_one_that_found_nothing(quick_start):
    class NeverRuns(LifeMachine):
        async def _start(self, connect, startup):
            await super()._start("refused", startup)

    missing = play(new_machine(NeverRuns), 3, number=0).missing()
    assert {"state running", "move running → stopping", "event ack"} <= set(missing)


async def test_a_move_that_the_table_lacks_is_one_that_the_runtime_refuses(monkeypatch):
    kit = Kit(Player)
    kit.worker.machine = SimpleNamespace(startup="raises")
    monkeypatch.setattr(state, "MOVES", allowed([move for move in WORKER if move.there is not WorkerState.STARTING]))
    with pytest.raises(LifecycleError, match="initializing cannot become starting"):
        await kit.launch()


def loses(kind):
    """A broker that forgets what is settled so."""

    def dispose(store, row, settlement, now):
        store._remove(row, now) if settlement.kind == kind else DISPOSE(store, row, settlement, now)

    return dispose


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["release", "retry", "defer", "dead_letter"])
def test_a_broker_that_loses_a_message_is_found_out_by_the_machine(quick_start, monkeypatch, kind):
    monkeypatch.setattr(MemoryStore, "_dispose", loses(kind))
    machine = new_machine()
    with pytest.raises((AssertionError, Flaky)):
        for number in range(8):
            play(machine, 50, number=number)


# The search.


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("messages", "faults"), [(2, 2), (3, 1)])
def test_no_order_of_events_loses_a_message_or_gives_it_two_owners_or_miscounts_an_attempt(messages, faults):
    found = search(Model(faults=faults), messages)
    print(f"{messages} messages, {faults} faults: {found.states} states, {found.moves} moves")
    assert found.wrong == {}
    assert found.states > 10_000
    assert found.events >= FAULTS


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nor_does_any_with_three_messages_and_two_faults():
    found = search(Model(faults=2), 3)
    print(f"3 messages, 2 faults: {found.states} states, {found.moves} moves")
    assert found.wrong == {}


def mutant(event: str, **change: object):
    """The table with one thing wrong; without an event, with every fence gone."""
    return [
        replace(move, **change) if move.event == event or (not event and move.fenced) else move for move in DELIVERY
    ]


BROKEN = {
    "without the fence": (mutant("", fenced=False), "the attempt is not 1 + counted failures"),
    "an ack without it": (mutant("ack", fenced=False), "somebody settled what another owns"),
    "a release without it": (mutant("release", fenced=False), "somebody settled what another owns"),
    "a retry without it": (mutant("retry", fenced=False), "the attempt is not 1 + counted failures"),
    "a release that counts": (mutant("release", counts=True), "the attempt is not 1 + counted failures"),
    "a retry that does not": (mutant("retry", counts=False), "the attempt is not 1 + counted failures"),
    "what is delayed stays so": ([m for m in DELIVERY if m.event != "due"], "a message is lost"),
    "what a dead worker had stays its": ([m for m in DELIVERY if m.event != "return"], "a message is lost"),
    "a dead letter that nobody keeps": (mutant("dead_letter", there=Place.LOST), "a message is lost"),
    "what nobody begins": ([m for m in DELIVERY if m.event != "begin"], "a message is lost"),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", BROKEN)
def test_a_table_with_a_hole_is_found_out_with_the_way_that_leads_there(name):
    table, sentence = BROKEN[name]
    found = search(Model(table, faults=2), 1, until_wrong=True)
    told = {text: way for text, way in found.wrong.items() if text.startswith(sentence)}
    assert told, found.wrong
    print(f"{name}: {told}")
    assert all(isinstance(way, list) for way in told.values())
