"""The judge of a simulated history: it reads events and nothing else, and says what is wrong with them.

lost        confirmed, or acked with an output, and not there; dead, and not among the dead letters
invented    handled, or said on, and published by nobody
duplicated  delivered again, and nothing that happened explains it
reordered   handed out, or begun, before an older one of its key was done with
miscounted  an attempt that is not 1 + the counted failures, or more of them than the policy allows
untrue      settled otherwise than its handler ended
twice       settled again after the broker had answered
unfenced    written by an owner that had lost it;  unowned: asked for by an owner that knew so
late        a handler that began after the stop, or while paused
crowded     more handlers at once than lanes;  overdue: one that ran on beyond its time, uninterrupted
stuck       neither settled nor given back when everything had healed
failed      a worker that ended by itself;  residual: counters that do not add up

Of each finding the first event that shows it is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pythia.core.publishing import derived_id
from pythia.core.sweeper import SWALLOW_GRACE_SECONDS
from pythia.proof.history import Event

FINAL = ("ack", "dead_letter", "drop")
RETURNED = ("retry", "defer", "release")
UNREAD = ("expired", "undecodable", "invalid", "too_large")
CAUSES = ("kill", "cut", "server cancel", "pause", "lost reply", "broker away", "failed receive")
HALTS = ("pause", "blocked loop")
SLACK_SECONDS = 0.05  # the network's longest way, and what the loop's turns take
OVERDUE_SECONDS = 1.0
PAUSING_SECONDS = 0.2
MOST_FINDINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the workers of a simulation were told. None: nothing is known of it, and nothing is asked."""

    queues: Sequence[str]
    handler_timeout: float | None
    max_attempts: int | None
    sink: str | None = None
    dedup: bool = False
    own_keys: bool = False
    batch_wait: float = 0.0  # how long a handler's first message may wait for others


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must not be."""

    verdict: str
    detail: str
    at: float

    def __str__(self) -> str:
        return f"{self.verdict} at {self.at:.4f}: {self.detail}"


@dataclass(slots=True, eq=False)
class _Delivery:
    handed: Event
    began: Event | None = None
    ended: Event | None = None
    spoke: str = ""
    asked: bool = False  # and not answered, or for good
    refused: bool = False
    returned: bool = False
    lost_at: float | None = None


@dataclass(slots=True, eq=False)
class _Row:
    stored: Event
    counted: int = 0
    final: str = ""
    deliveries: list[_Delivery] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Process:
    lanes: int = 0
    stopping: bool = False
    paused_at: float | None = None
    went_on: float = 0.0
    faults: list[Event] = field(default_factory=list)
    running: set[_Delivery] = field(default_factory=set)

    def fault_between(self, since: float, until: float, kinds: Sequence[str]) -> bool:
        return any(since <= fault.at <= until and fault.text in kinds for fault in self.faults)

    def reloaded_before(self, moment: float) -> bool:
        """What fails under a configuration that is rolled back is given back."""
        return self.fault_between(0.0, moment, ("reload",))


def judge(events: Iterable[Event], terms: Terms) -> Sequence[Finding]:
    """What is wrong with a history, the first things first; nothing, if all is well."""
    court = _Court(terms)
    for event in events:
        court.hear(event)
    court.close()
    return court.findings[:MOST_FINDINGS]


class _Court:
    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._rows: dict[int, _Row] = {}
        self._lines: dict[tuple[str, str], list[_Row]] = defaultdict(list)
        self._deliveries: dict[tuple[int, int], _Delivery] = {}
        self._processes: dict[int, _Process] = defaultdict(_Process)
        self._published: dict[str, set[str]] = defaultdict(set)  # id → what the broker said of it
        self._ids: set[str] = set()  # of everything stored
        self._dead: set[str] = set()
        self._left: set[int] = set()
        self.findings: list[Finding] = []

    def hear(self, event: Event) -> None:
        getattr(self, f"_{event.verb}")(event)

    def close(self) -> None:
        """What must be so once all has healed."""
        for id, answers in self._published.items():  # noqa: A001 - the API's word
            if "confirmed" in answers and id not in self._ids:
                self._find("lost", f"{id} was confirmed and never stored")
        for number, row in self._rows.items():
            self._close_row(number, row)

    def _close_row(self, number: int, row: _Row) -> None:
        stored = row.stored
        if stored.text not in self._terms.queues or stored.text == self._terms.sink:
            return  # what handlers say elsewhere: nobody here takes it up
        if self._published.get(stored.id, {"refused"}) == {"refused"}:
            self._find("invented", f"{stored.id} was stored and published by nobody")
        elif not row.final:
            self._find("stuck" if number in self._left else "lost", f"{stored.id} (row {number}) was never done with")
        elif row.final == "dead_letter" and stored.id not in self._dead:
            self._find("lost", f"{stored.id} was dead-lettered and is not among the dead letters")

    # Who is there.

    def _stored(self, event: Event) -> None:
        row = self._rows[event.row] = _Row(event)
        self._ids.add(event.id)
        if event.key:
            self._lines[event.text, event.key].append(row)

    def _said(self, event: Event) -> None:
        self._published[event.id].add(event.text)

    def _lanes(self, event: Event) -> None:
        process = self._processes[event.process]
        process.lanes = max(process.lanes, int(event.text))

    def _stopping(self, event: Event) -> None:
        self._processes[event.process].stopping = True

    def _paused(self, event: Event) -> None:
        self._processes[event.process].paused_at = event.at

    def _resumed(self, event: Event) -> None:
        self._processes[event.process].paused_at = None

    def _wenton(self, event: Event) -> None:
        self._processes[event.process].went_on = event.at

    def _fault(self, event: Event) -> None:
        process = self._processes[event.process]
        process.faults.append(event)
        if event.text == "kill":
            process.running.clear()

    # What becomes of a message.

    def _handed(self, event: Event) -> None:
        row = self._rows[event.row]
        before = row.deliveries[-1] if row.deliveries else None
        if row.final:
            self._find("duplicated", f"{event} after its {row.final}", event.at)
        elif before is not None and not self._gone_back(before, event):
            self._find("duplicated", f"{event}: nothing explains why the delivery before it ended", event.at)
        if event.attempt != 1 + row.counted:
            self._find("miscounted", f"{event}, after {row.counted} counted failures", event.at)
        self._check_order(row, event)
        delivery = self._deliveries[event.row, event.fence] = _Delivery(event)
        row.deliveries.append(delivery)

    def _gone_back(self, before: _Delivery, event: Event) -> bool:
        """Whether something happened that takes a delivery from its owner."""
        process = self._processes[before.handed.process]
        since = before.handed.at - SLACK_SECONDS
        if before.returned or process.fault_between(since, event.at, CAUSES):
            return True
        return before.refused and process.stopping  # a broker that refuses to the last does not hold a stop up

    def _check_order(self, row: _Row, event: Event) -> None:
        for older in self._lines.get((row.stored.text, row.stored.key), ()):
            if older is row:
                return
            if not older.final:
                self._find("reordered", f"{event} before {older.stored.id} of its key was done with", event.at)
                return

    def _began(self, event: Event) -> None:
        delivery, process = self._deliveries[event.row, event.fence], self._processes[event.process]
        if delivery.began is not None:
            self._find("duplicated", f"{event}: a second handler for one delivery", event.at)
        if event.text == "late":
            self._find("late", f"{event} after the stop", event.at)
        if process.paused_at is not None and event.at > process.paused_at + PAUSING_SECONDS + self._terms.batch_wait:
            self._find("late", f"{event} while paused", event.at)
        if event.attempt != delivery.handed.attempt:
            self._find("miscounted", f"{event}: the handler was told another attempt than the broker's", event.at)
        delivery.began = event
        self._check_company(delivery, process)

    def _check_company(self, delivery: _Delivery, process: _Process) -> None:
        """At most as many handlers as lanes, and one of a key; those that were given up are not counted."""
        process.running = {other for other in process.running if self._counts(other, delivery)}
        began = delivery.began
        if began is None:
            return
        for other in process.running:
            if began.key and other.began is not None and other.began.key == began.key:
                self._find("reordered", f"{began} beside {other.began.id} of its key", began.at)
        process.running.add(delivery)
        if len(process.running) > process.lanes:
            self._find("crowded", f"{began}: {len(process.running)} handlers, {process.lanes} lanes", began.at)

    def _counts(self, other: _Delivery, beside: _Delivery) -> bool:
        if other.ended is not None or other.lost_at is not None or other.began is None or beside.began is None:
            return False
        process, timeout = self._processes[other.handed.process], self._terms.handler_timeout
        if process.fault_between(other.handed.at, beside.began.at, CAUSES):
            return False
        if timeout is None:
            return True
        ran = beside.began.at - other.began.at
        return not (ran >= timeout + SWALLOW_GRACE_SECONDS or (other.asked and ran >= timeout))

    def _ended(self, event: Event) -> None:
        delivery = self._deliveries[event.row, event.fence]
        delivery.ended = event
        timeout, began = self._terms.handler_timeout, delivery.began
        self._processes[event.process].running.discard(delivery)
        if timeout is None or began is None or "cancelled" in event.text or delivery.asked:
            return
        process = self._processes[event.process]
        if event.at - began.at > timeout + OVERDUE_SECONDS and not process.fault_between(
            began.at - timeout, event.at, HALTS
        ):
            self._find("overdue", f"{event} after {event.at - began.at:.2f} s", event.at)

    def _spoke(self, event: Event) -> None:
        delivery = self._deliveries[event.row, event.fence]
        delivery.spoke = delivery.spoke or event.text

    def _lost(self, event: Event) -> None:
        delivery = self._deliveries.get((event.row, event.fence))
        if delivery is not None:
            delivery.lost_at = event.at

    # How it is settled.

    def _asked(self, event: Event) -> None:
        delivery, process = self._deliveries[event.row, event.fence], self._processes[event.process]
        if delivery.asked:
            self._find("twice", f"{event}", event.at)
        delivery.asked = True
        if delivery.lost_at is not None and event.at > max(delivery.lost_at, process.went_on) + SLACK_SECONDS:
            self._find("unowned", f"{event}: lost since {delivery.lost_at:.4f}", event.at)
        kind, _, reason = event.text.partition(" ")
        forgiven = kind == "release" and delivery.ended is not None and process.reloaded_before(event.at)
        if why := "" if forgiven else self._contradiction(delivery, kind, reason, event.at):
            self._find("untrue", f"{event}: {why}", event.at)
        self._check_attempts(event, kind, reason)

    def _check_attempts(self, event: Event, kind: str, reason: str) -> None:
        most = self._terms.max_attempts
        if most is None:
            return
        if kind == "retry" and event.attempt >= most:
            self._find("miscounted", f"{event}: the policy allows {most}", event.at)
        if reason == "attempts_exhausted" and event.attempt < most:
            self._find("miscounted", f"{event}: the policy allows {most}", event.at)

    def _contradiction(self, delivery: _Delivery, kind: str, reason: str, at: float) -> str:
        """Why a settlement of this kind is not what the handler's end means; empty if it is."""
        if delivery.spoke:
            return "" if kind in _meant(delivery.spoke) else f"its handler said {delivery.spoke}"
        began, ended = delivery.began, delivery.ended
        if began is None:
            return "" if self._unread(kind, reason) else "no handler has seen it"
        if ended is None or "cancelled" in ended.text:
            until = at if ended is None else ended.at
            return self._interruption(delivery, kind, until - began.at)
        how = ended.text
        return "" if kind in _meant(how) else f"its handler {how}"

    def _unread(self, kind: str, reason: str) -> bool:
        if kind == "defer":
            return self._terms.own_keys or self._terms.dedup
        if kind == "ack":
            return self._terms.dedup
        return kind == "release" or (kind == "dead_letter" and reason in UNREAD)

    def _interruption(self, delivery: _Delivery, kind: str, ran: float) -> str:
        """A handler that has not ended, or was made to: its time was over, or the worker is stopping."""
        timeout = self._terms.handler_timeout
        if kind == "release" and self._processes[delivery.handed.process].stopping:
            return ""
        if kind in ("retry", "dead_letter") and timeout is not None and ran >= timeout - SLACK_SECONDS:
            return ""
        return f"its handler {'ran' if delivery.ended is None else 'was interrupted'} for {ran:.3f} s"

    def _settled(self, event: Event) -> None:
        row, delivery = self._rows[event.row], self._deliveries[event.row, event.fence]
        kind, answer = event.text.split(" ")
        if answer == "refused":
            delivery.asked, delivery.refused = False, True
        if answer != "done":
            return
        if row.final or delivery.returned or delivery.lost_at is not None or row.deliveries[-1] is not delivery:
            self._find("unfenced", f"{event}", event.at)
            return
        delivery.returned = kind in RETURNED
        row.counted += kind == "retry"
        if kind in FINAL:
            row.final = kind
            self._check_output(event, delivery, kind)

    def _check_output(self, event: Event, delivery: _Delivery, kind: str) -> None:
        sink = self._terms.sink
        if sink is None or kind != "ack" or delivery.spoke or delivery.ended is None:
            return
        if derived_id(event.id, sink, 0) not in self._ids:
            self._find("lost", f"{event}: what it returned is not in {sink}", event.at)

    # What is there in the end.

    def _deadletter(self, event: Event) -> None:
        self._dead.add(event.id)

    def _remains(self, event: Event) -> None:
        self._left.add(event.row)

    def _failed(self, event: Event) -> None:
        self._find("failed", f"{event}", event.at)

    def _residual(self, event: Event) -> None:
        self._find("residual", f"{event}", event.at)

    def _find(self, verdict: str, detail: str, at: float = 0.0) -> None:
        self.findings.append(Finding(verdict, detail, at))


def _meant(how: str) -> Sequence[str]:
    """The settlements that the end of a handler, or its own word, may mean."""
    match how:
        case "returned" | "ack":
            return ("ack",)
        case "failed" | "interrupted" | "retry":
            return ("retry", "dead_letter")
        case "rejected" | "dead_letter":
            return ("dead_letter",)
        case "deferred":
            return ("defer",)
        case "dropped":
            return ("drop",)
        case _:
            return ()
