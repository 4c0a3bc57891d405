"""The queue file against a model of it in Python: whatever is published, claimed, settled, expired or cut short in whatever
order, both hold the same messages, hand out the same ones, and answer the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pythia.broker import Kind, Output, Settled, Settlement
from pythia.brokers.sqlite import dead
from pythia.brokers.sqlite.clock import SqliteClock
from pythia.brokers.sqlite.file import open_file
from pythia.brokers.sqlite.store import Store
from pythia.message import Delivery, Envelope

LEASE = 30.0
KINDS: tuple[Kind, ...] = ("ack", "retry", "defer", "release", "dead_letter", "drop")
FINAL = ("ack", "drop", "dead_letter")


@dataclass(slots=True)
class Row:
    """One message, as it should be."""

    name: str
    key: str | None
    rank: int
    due: float
    attempt: int = 1
    deliveries: int = 0
    fence: int = 0
    owner: int | None = None
    lease_until: float = 0.0


class Model:
    """A list in the order of publishing, and the time."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.dead: list[tuple[str, int]] = []
        self.out: list[str] = []
        self.now = 1_000_000.0

    def is_head(self, row: Row) -> bool:
        return row.key is None or next(one for one in self.rows if one.key == row.key) is row

    def expire(self) -> None:
        for row in self.rows:
            if row.owner is not None and row.lease_until <= self.now:
                row.owner = None

    def ready(self) -> list[Row]:
        free = [row for row in self.rows if row.owner is None and row.due <= self.now and self.is_head(row)]
        return sorted(free, key=lambda row: -row.rank)

    def claim(self, owner: int, limit: int) -> list[Row]:
        self.expire()
        claimed = self.ready()[:limit]
        for row in claimed:
            row.owner, row.lease_until = owner, self.now + LEASE
            row.fence += 1
            row.deliveries += 1
        return claimed

    def owned(self, name: str, token: tuple[int, int, int]) -> Row | None:
        found = [row for row in self.rows if row.name == name]
        return found[0] if found and (found[0].owner, found[0].fence) == token[1:] else None

    def settle(self, row: Row, kind: Kind, delay: float) -> None:
        row.owner = None
        if kind in FINAL:
            self.rows.remove(row)
            if kind == "dead_letter":
                self.dead.append((row.name, row.attempt))
        elif kind != "release":
            row.attempt += kind == "retry"
            row.due = self.now + delay

    def counts(self) -> dict[str, int]:
        held = [row for row in self.rows if row.owner is not None and row.lease_until > self.now]
        waiting = [row for row in self.rows if self._waits(row)]
        return {
            "in_flight": len(held),
            "delayed": len(waiting),
            "ready": len(self.rows) - len(held) - len(waiting),
            "dead": len(self.dead),
        }

    def _waits(self, row: Row) -> bool:
        """It is delayed, or stands behind one of its key that is."""
        head = row if row.key is None else next(one for one in self.rows if one.key == row.key)
        return head.owner is None and head.due > self.now


class QueueFile(RuleBasedStateMachine):
    """Each rule is one transaction. ``crash`` is one that is never committed, by a process that is not there any more."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pythia-model-"))
        self.model = Model()
        self.clock = SqliteClock(time=self._now, boottime=self._now, boot="one", virtual=True)
        self.published = 0
        self.handed: list[Delivery] = []
        self._open()

    def _now(self) -> float:
        return self.model.now

    def _open(self) -> None:
        self.file = open_file(self.folder / "queue.db", timeout=1.0)
        self.file.connection.execute("PRAGMA synchronous=OFF")  # nobody pulls the plug here
        self.store = Store(self.file.connection, self.clock)

    @initialize()
    def enter(self) -> None:
        self.owner = self._committed(lambda: self.store.enter("q", "c", LEASE))

    def _committed(self, work: Any) -> Any:
        self.file.connection.execute("BEGIN IMMEDIATE")
        result = work()
        self.file.connection.execute("COMMIT")
        return result

    @rule(
        keys=st.lists(st.sampled_from([None, None, "a", "b"]), min_size=1, max_size=4),
        priority=st.sampled_from([None, 0, 0, 5, -1]),
        delay=st.sampled_from([0.0, 0.0, 10.0]),
    )
    def publish(self, keys: Sequence[str | None], priority: int | None, delay: float) -> None:
        names = [f"m{self.published + at}" for at in range(len(keys))]
        self.published += len(keys)
        sent = [
            Envelope(name.encode(), id=name, ordering_key=key, priority=priority)
            for name, key in zip(names, keys, strict=True)
        ]
        self._committed(lambda: self.store.put("q", sent, delay))
        due = self.model.now + delay
        self.model.rows += [Row(name, key, priority or 0, due) for name, key in zip(names, keys, strict=True)]

    @rule(limit=st.integers(1, 5))
    def claim(self, limit: int) -> None:
        def work() -> list[Delivery]:
            self.store.advance()
            return self.store.claim(self.owner, "q", limit, LEASE)

        claimed = self._committed(work)
        expected = self.model.claim(self.owner, limit)
        seen = [(one.envelope.id, one.attempt, one.deliveries, one.token[2]) for one in claimed]
        assert seen == [(row.name, row.attempt, row.deliveries, row.fence) for row in expected]
        self.handed += claimed
        event(f"claimed {min(2, len(claimed))}")

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 10.0, 50.0]))
    def settle(self, data: st.DataObject, delay: float) -> None:
        """Some of what was ever handed out, the latest and the long lost, in one batch, each once."""
        places = data.draw(st.lists(st.integers(0, len(self.handed) - 1), min_size=1, max_size=4, unique=True))
        batch = []
        for place in places:
            kind = data.draw(st.sampled_from(KINDS))
            outputs = [Output("out", Envelope(b"o", id=f"o{place}"))] if data.draw(st.booleans()) else []
            batch.append(Settlement(self.handed[place], kind, delay=delay, outputs=outputs))
        answers = self._committed(lambda: self.store.settle(batch))
        assert answers == [self._settled(settlement) for settlement in batch]

    def _settled(self, settlement: Settlement) -> Settled:
        row = self.model.owned(settlement.delivery.envelope.id, settlement.delivery.token)
        event(f"{settlement.kind}, {'stale' if row is None else 'ours'}")
        if row is None:
            return Settled.STALE
        self.model.settle(row, settlement.kind, settlement.delay)
        self.model.out += [output.envelope.id for output in settlement.outputs]
        return Settled.DONE

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.handed))
        lost = self._committed(lambda: self.store.renew([delivery.token], LEASE))
        row = self.model.owned(delivery.envelope.id, delivery.token)
        assert lost == ([] if row is not None else [delivery.token])
        if row is not None:
            row.lease_until = self.model.now + LEASE

    @rule(seconds=st.sampled_from([1.0, 10.0, LEASE, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds

    @rule()
    def leave(self) -> None:
        self._committed(lambda: self.store.leave(self.owner))
        for row in self.model.rows:
            if row.owner == self.owner:
                row.owner = None
        self.enter()

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """In the middle of a transaction that did everything there is; whoever comes next finds nothing of it."""
        self.file.connection.execute("BEGIN IMMEDIATE")
        self.store.put("q", [Envelope(b"x", id="never")])
        self.store.advance()
        held = self.store.claim(self.owner, "q", 3, LEASE)
        kinds = [data.draw(st.sampled_from(KINDS)) for _ in held]
        self.store.settle([Settlement(delivery, kind) for delivery, kind in zip(held, kinds, strict=True)])
        self.file.connection.close()
        self._open()
        if data.draw(st.booleans()):
            self.enter()

    @invariant()
    def both_hold_the_same(self) -> None:
        depth = self.store.depth("q")
        found = {name: getattr(depth, name) for name in ("ready", "in_flight", "delayed", "dead")}
        assert found == self.model.counts()
        letters = dead.listed(self.file.connection, "q", 10_000, None)
        assert [(letter.envelope.id, letter.attempts) for letter in letters] == self.model.dead
        rows = self.file.connection.execute("SELECT id FROM messages WHERE queue = 'out' ORDER BY seq")
        assert [name for (name,) in rows] == self.model.out

    def teardown(self) -> None:
        assert self.file.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        self.file.connection.close()
        shutil.rmtree(self.folder)


def _settings(examples: int, steps: int, **more: Any) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks, **more
    )


def test_a_queue_file_does_what_its_model_does() -> None:
    run_state_machine_as_test(QueueFile, settings=_settings(100, 25))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_queue_file_does_what_its_model_does_ten_thousand_times() -> None:
    run_state_machine_as_test(QueueFile, settings=_settings(10_000, 60))


def test_a_file_that_forgets_to_count_an_attempt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.settle

    def forgetful(store: Store, batch: Sequence[Settlement]) -> list[Settled]:
        kinds: dict[Kind, Kind] = {"retry": "defer"}
        return real(store, [Settlement(s.delivery, kinds.get(s.kind, s.kind), s.delay, None, s.outputs) for s in batch])

    monkeypatch.setattr(Store, "settle", forgetful)
    with pytest.raises(AssertionError):
        # The first example that finds it is the last; one in two hundred does.
        run_state_machine_as_test(QueueFile, settings=_settings(20_000, 25, phases=[Phase.generate]))
