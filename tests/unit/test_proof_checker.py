"""The judge finds each flaw in a history that has it, and none in one that has none."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pythia.proof import checker
from pythia.proof.checker import Verdict, judge, read
from pythia.proof.ledger import Ledger

PROMISES = {"recovery_seconds": 5.0, "keys": "queue", "slack_seconds": 0.5}


class Book:
    """A history made by hand. Times are what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.promise(**PROMISES)
        self.tell("born", 0.0, pid=1)
        self.tell("born", 0.0, pid=2)
        self._runs = 0

    def promise(self, **facts: object) -> None:
        (self.folder / "run.json").write_text(json.dumps(PROMISES | facts))

    def line(self, file: str, text: str) -> None:
        with (self.folder / file).open("a") as stream:
            stream.write(text + "\n")

    def tell(self, what: str, at: float, **facts: object) -> None:
        self.line("nemesis-9.jsonl", json.dumps({"what": what, "t": at, **facts}))

    def publish(self, name: str, *fates: str, key: str = "-", place: int = 0, at: float = 0.1) -> None:
        self.line("producer-9.log", f"intent {name} {key} {place} d {at}")
        for fate in fates or ("confirmed",):
            self.line("producer-9.log", f"{fate} {name} {at}")

    def run(
        self,
        name: str,
        ending: str = "finished",
        *,
        at: float = 1.0,
        until: float | None = None,
        pid: int = 1,
        attempt: int = 1,
        settled: bool = True,
        digest: str = "d",
    ) -> None:
        self._runs += 1
        number, over = self._runs, at + 0.1 if until is None else until
        self.line(f"handler-{pid}.log", f"started {number} {name} {attempt} {digest} {at}")
        if ending:
            self.line(f"handler-{pid}.log", f"{ending} {number} {over}")
            if settled:
                self.line(f"handler-{pid}.log", f"settled {number} ack {over}")

    def fault(
        self,
        number: int,
        kind: str = "kill",
        cause: str = "kill",
        *,
        at: float,
        healed: float | None = None,
        pids: tuple[int, ...] = (1,),
        heirs: tuple[int, ...] = (),
        evidence: str = "seen",
        destroys: bool = False,
    ) -> None:
        self.tell("began", at, fault=number, kind=kind, cause=cause, pids=pids, destroys=destroys)
        if evidence:
            self.tell("evidence", at, fault=number, text=evidence)
        self.tell("healed", at if healed is None else healed, fault=number, heirs=heirs)

    def verdict(self, *, quiet: float = 2.0) -> Verdict:
        self.tell("quiet", quiet)
        self.tell("over", quiet + 1)
        return judge(read(self.folder))


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


def flaws(verdict: Verdict) -> dict[str, int]:
    return {flaw: len(found) for flaw, found in verdict.flaws.items() if found}


def test_a_history_without_a_flaw_passes(book: Book) -> None:
    for name in "abc":
        book.publish(name)
    book.publish("d", "doubt")  # nobody asks for it
    book.publish("e", "doubt", "confirmed")
    book.publish("f", "refused")
    book.run("a")
    book.run("b", "failed")
    book.run("b", attempt=2, at=1.5, pid=2)
    book.run("c", "rejected")
    book.run("e")
    book.line("broker-9.log", "dead c rejected 1")
    verdict = book.verdict()
    assert (verdict.word, flaws(verdict), verdict.invalid) == ("PASS", {}, [])
    assert (verdict.counts["confirmed"], verdict.counts["in doubt"], verdict.counts["refused"]) == (4, 2, 1)
    assert "lost 0 · invented 0 · order violations 0 · duplicated 0 (all explained)" in str(verdict)


FLAWS: dict[str, Callable[[Book], object]] = {}


def flaw(function: Callable[[Book], object]) -> Callable[[Book], object]:
    FLAWS[function.__name__.replace("_", " ")] = function
    return function


@flaw
def lost(book: Book) -> None:
    book.publish("x")


@flaw
def lost_by_a_failure_that_was_not_retried(book: Book) -> None:
    book.publish("x")
    book.run("x", "failed")


@flaw
def lost_in_the_hands_of_who_was_killed(book: Book) -> None:
    book.publish("x")
    book.run("x", "")
    book.fault(0, at=1.1)


@flaw
def invented(book: Book) -> None:
    book.run("x")


@flaw
def invented_as_a_dead_letter(book: Book) -> None:
    book.line("broker-9.log", "dead x rejected 1")


@flaw
def corrupt(book: Book) -> None:
    book.publish("x")
    book.run("x", digest="other")


@flaw
def ghosts(book: Book) -> None:
    book.publish("x", "refused")
    book.run("x")


@flaw
def unexplained(book: Book) -> None:
    book.publish("x")
    book.run("x")
    book.run("x", at=1.5)


@flaw
def unexplained_although_another_worker_was_killed(book: Book) -> None:
    book.publish("x")
    book.run("x", settled=False)
    book.fault(0, at=1.2, pids=(2,))
    book.run("x", at=1.5)


@flaw
def unexplained_since_it_was_settled_before_the_kill(book: Book) -> None:
    book.publish("x")
    book.run("x", at=1.0)
    book.fault(0, at=1.7)
    book.run("x", at=1.8, pid=2)


@flaw
def unexplained_twice_by_one_kill(book: Book) -> None:
    book.publish("x")
    book.run("x", "")
    book.fault(0, at=1.2)
    book.run("x", at=1.3, pid=2)
    book.run("x", at=1.6, pid=2)


@flaw
def unexplained_by_a_fault_without_evidence(book: Book) -> None:
    book.publish("x")
    book.run("x", settled=False)
    book.fault(0, at=1.2, evidence="")
    book.fault(1, at=1.2, pids=(2,))
    book.run("x", at=1.5, pid=2)


@flaw
def unexplained_by_a_stop_that_let_it_finish(book: Book) -> None:
    book.publish("x")
    book.run("x", settled=False)
    book.fault(0, "stop", "stop", at=1.05, healed=1.2)
    book.run("x", at=1.5, pid=2)


@flaw
def unexplained_by_a_fault_that_explains_nothing(book: Book) -> None:
    book.publish("x")
    book.run("x", settled=False)
    book.fault(0, "pause", "none", at=1.05, healed=1.2)
    book.run("x", at=1.5, pid=2)


@flaw
def unexplained_more_often_than_its_producer_was_in_doubt(book: Book) -> None:
    book.publish("x", "doubt", "confirmed")
    for at in (1.0, 1.2, 1.4):
        book.run("x", at=at)


@flaw
def unexplained_an_attempt_that_nothing_failed_for(book: Book) -> None:
    book.publish("x")
    book.run("x", attempt=2)


@flaw
def unexplained_a_retry_that_comes_twice(book: Book) -> None:
    book.publish("x")
    book.run("x", "failed", at=1.0)
    book.run("x", at=1.3, attempt=2)
    book.run("x", at=1.6, attempt=2)


@flaw
def unexplained_before_the_fault_that_would_have_explained_it(book: Book) -> None:
    book.publish("x")
    book.run("x", "", at=1.0)
    book.run("x", at=1.2, pid=2)
    book.fault(0, at=1.3)


@flaw
def unexplained_by_a_restart_since_it_was_settled_long_before(book: Book) -> None:
    book.publish("x")
    book.run("x", at=1.0)
    book.fault(0, "restart", "broker", at=1.8, pids=(1, 2))
    book.run("x", at=2.2, pid=2)


@flaw
def unexplained_by_a_restart_since_its_retry_had_arrived_long_before(book: Book) -> None:
    book.publish("x")
    book.run("x", "failed", at=0.5)
    book.run("x", at=1.0, attempt=2)
    book.fault(0, "restart", "broker", at=1.8, pids=(1, 2))
    book.run("x", at=2.2, attempt=2, pid=2)


@flaw
def unexplained_by_a_restart_a_retry_that_nothing_failed_for(book: Book) -> None:
    book.publish("x")
    book.run("x", at=1.7)
    book.fault(0, "restart", "broker", at=1.8, pids=(1, 2))
    book.run("x", at=2.2, attempt=2, pid=2)


@flaw
def unexplained_twice_by_one_restart(book: Book) -> None:
    book.publish("x")
    book.run("x", "failed", at=1.0)
    book.fault(0, "restart", "broker", at=1.3, healed=1.8, pids=(1, 2))
    for at in (5.0, 5.3, 5.6):
        book.run("x", at=at, attempt=2, pid=2)


@flaw
def disordered(book: Book) -> None:
    book.publish("x", key="k", place=0)
    book.publish("y", key="k", place=1)
    book.run("y", at=1.0)
    book.run("x", at=1.5)


@flaw
def disordered_while_the_one_before_waits_for_its_retry(book: Book) -> None:
    book.publish("x", key="k", place=0)
    book.publish("y", key="k", place=1)
    book.run("x", "failed", at=1.0)
    book.run("y", at=1.2)
    book.run("x", at=1.5, attempt=2)


@flaw
def disordered_two_at_a_time_in_one_process(book: Book) -> None:
    book.promise(keys="process")
    book.publish("x", key="k", place=0)
    book.publish("y", key="k", place=1)
    book.run("x", at=1.0, until=1.5)
    book.run("y", at=1.2)


@flaw
def not_dead(book: Book) -> None:
    book.publish("x")
    book.run("x", "rejected")


@flaw
def wrongly_dead(book: Book) -> None:
    book.publish("x")
    book.run("x", "")
    book.fault(0, at=1.1)
    book.line("broker-9.log", "dead x poison 1")


@flaw
def left(book: Book) -> None:
    book.line("broker-9.log", "left ready 3")


@flaw
def died(book: Book) -> None:
    book.tell("gone", 1.5, pid=1, alone="ended by itself with 70")


@pytest.mark.parametrize("name", FLAWS)
def test_each_flaw_is_found_and_no_other(book: Book, name: str) -> None:
    book.publish("good")
    book.run("good", at=0.5, pid=2)
    FLAWS[name](book)
    verdict = book.verdict()
    assert verdict.word == "FAIL"
    assert list(flaws(verdict)) == [next(found for found in verdict.flaws if name.startswith(found))]


# Repeats that have their cause.


def test_a_repeat_is_explained_by_the_fault_that_hit_its_holder(book: Book) -> None:
    for name in "abcdef":
        book.publish(name)
    book.run("a", "")  # killed in its handler
    book.run("b", settled=False)  # killed before the broker knew
    book.fault(0, at=1.2, heirs=())
    book.run("a", at=1.3, pid=2)
    book.run("b", at=1.3, pid=2)
    book.run("c", at=1.3, until=9.0, pid=3)  # frozen for longer than its lease
    book.fault(1, "freeze", "lease", at=1.4, healed=8.0, pids=(3,))
    book.run("c", at=7.0, pid=2)
    book.run("d", at=7.0, pid=2)  # another worker got what 3 had fetched ahead …
    book.run("d", at=8.1, pid=3, settled=False)  # … and began before it knew
    book.run("e", at=9.0, pid=4, settled=False)
    book.fault(2, "reset", "connection", at=9.05, pids=(4,))
    book.run("e", at=9.5, pid=2)
    book.run("f", "interrupted", at=9.0, pid=5, settled=False)
    book.fault(3, "stop", "stop", at=9.05, pids=(5,))
    book.run("f", at=9.5, pid=2)
    verdict = book.verdict(quiet=1.0)
    assert (verdict.word, flaws(verdict)) == ("PASS", {})
    assert verdict.duplicated == {"kill": 2, "lease": 2, "connection": 1, "stop": 1}


def test_a_restart_explains_what_was_on_its_way_as_the_server_broke(book: Book) -> None:
    for name in "abcd":
        book.publish(name)
    book.run("a", at=1.2)  # its acknowledgement was sent, and forgotten
    book.run("b", settled=False, at=1.2)  # and this one never left
    book.run("c", "failed", at=1.0)  # waits for its retry, which is being moved
    book.fault(0, "restart", "broker", at=1.5, healed=3.0, pids=(1, 2))
    book.run("a", at=3.1, pid=2)
    book.run("b", at=3.1, pid=2)
    book.run("d", at=3.2, pid=2)  # given to another, while 1 …
    book.run("d", at=3.5, settled=False)  # … did not know yet
    for at in (4.0, 4.5):  # from both of the queues between which it was moved
        book.run("c", at=at, attempt=2, pid=2)
    verdict = book.verdict(quiet=5.0)
    assert (verdict.word, flaws(verdict)) == ("PASS", {})
    assert verdict.duplicated == {"broker": 4}


def test_a_message_that_was_in_doubt_may_be_handled(book: Book) -> None:
    book.publish("x", "doubt")
    book.publish("y")
    book.run("x")
    book.run("y")
    assert (book.verdict().word, flaws(book.verdict())) == ("PASS", {})


def test_a_copy_of_a_publish_in_doubt_is_the_producers(book: Book) -> None:
    book.publish("x", "doubt", "confirmed")
    book.run("x", "failed", at=1.0)
    book.run("x", "failed", at=1.2)
    book.run("x", at=1.4, attempt=2)
    book.run("x", at=1.6, attempt=2)
    verdict = book.verdict()
    assert (verdict.word, verdict.duplicated) == ("PASS", {"producer": 1})


def test_what_was_in_a_queue_that_was_deleted_is_not_lost_but_destroyed(book: Book) -> None:
    book.publish("x", at=1.0)
    book.publish("y", at=3.0)
    book.fault(0, "queue-deleted", "broker", at=2.0, healed=2.5, destroys=True)
    verdict = book.verdict(quiet=4.0)
    assert (verdict.flaws["lost"], verdict.counts["destroyed"]) == (["y"], 1)


# Recovery.


def test_a_worker_that_does_not_come_back_after_a_fault_has_never_recovered(book: Book) -> None:
    book.publish("x")
    book.run("x", at=1.0, pid=2)
    book.fault(0, "reset", "connection", at=2.0, pids=(1, 2), heirs=(1, 2))
    for at in range(3, 20):
        book.publish(f"m{at}")
        book.run(f"m{at}", at=at, pid=2)
    verdict = book.verdict(quiet=20.0)
    assert verdict.word == "FAIL"
    assert verdict.recovery[2] == float("inf")
    assert [text.split(" ")[1] for text in verdict.flaws["late"]] == ["1", "1"]


def test_a_process_that_is_started_anew_has_its_time_from_when_it_is_up(book: Book) -> None:
    book.promise(recovery_seconds=2.0)
    book.publish("x")
    book.publish("y")
    book.run("x", at=0.5, pid=2)
    book.fault(0, at=1.0, heirs=(3, 4))
    for pid, up in ((3, 9.0), (4, 4.0)):
        book.tell("born", 1.0, pid=pid)
        book.line(f"handler-{pid}.log", f"up {up}")
        book.run("x" if pid == 3 else "y", at=10.0, pid=pid)
    verdict = book.verdict(quiet=11.0)
    assert verdict.recoveries == [(0, 3, 1.0), (0, 4, 6.0)]
    assert any("process 4 after fault 0" in text for text in verdict.flaws["late"])
    assert not any("process 3" in text for text in verdict.flaws["late"])


def test_a_handler_that_hangs_is_no_measure_of_how_long_handlers_take(book: Book) -> None:
    book.publish("x")
    book.run("x", at=0.5)
    book.fault(0, at=1.0, healed=1.1, heirs=(2,))
    for number in range(9):
        book.publish(f"m{number}")
        book.run(f"m{number}", "interrupted", at=0.6, until=20.0)
    late = book.verdict(quiet=20.0).flaws["late"]
    assert any("after fault 0" in text for text in late)


def test_no_fault_hides_the_one_before(book: Book) -> None:
    book.publish("x")
    book.run("x", at=0.5, pid=2)
    for number in range(12):  # one every two seconds, each of which has an excuse for the one before
        book.fault(number, "reset", "connection", at=2.0 * number, pids=(1,), heirs=(1,))
        book.publish(f"m{number}")
        book.run(f"m{number}", at=2.0 * number + 1, pid=2)
    verdict = book.verdict(quiet=24.0)
    assert any("did nothing" in text for text in verdict.flaws["late"])


def test_recovery_is_counted_from_the_end_of_the_fault(book: Book) -> None:
    book.publish("x")
    book.publish("y")
    book.run("x", at=1.0, pid=2)
    book.fault(0, "freeze", "lease", at=1.0, healed=7.0, heirs=(1,))
    book.run("y", at=8.5)
    verdict = book.verdict(quiet=9.0)
    assert verdict.recoveries == [(0, 1, 1.5)]


# Runs that prove nothing.


@pytest.mark.parametrize(
    ("why", "spoil"),
    [
        ("fault 0", lambda book: book.tell("error", 1.0, fault=0, text="it could not be done")),
        ("no fault has evidence", lambda book: book.fault(0, at=1.0, evidence="")),
        ("run.json", lambda book: (book.folder / "run.json").unlink()),
        ("producer-9.log", lambda book: book.line("producer-9.log", "confirmed")),
        ("handler-1.log", lambda book: book.line("handler-1.log", "finished 77 1.0")),
    ],
)
def test_a_run_that_was_not_carried_out_as_planned_is_invalid(
    book: Book, why: str, spoil: Callable[[Book], object]
) -> None:
    book.publish("good")
    book.run("good")
    spoil(book)
    verdict = book.verdict()
    assert verdict.word == "INVALID"
    assert any(text.startswith(why) for text in verdict.invalid), verdict.invalid


def test_a_run_that_was_broken_off_or_confirmed_nothing_is_invalid(book: Book) -> None:
    verdict = judge(read(book.folder))
    assert (verdict.word, verdict.invalid) == ("INVALID", ["the run was broken off", "no message was confirmed"])


def test_a_fault_without_evidence_is_not_counted(book: Book) -> None:
    book.publish("x")
    book.run("x")
    book.fault(0, at=1.5, evidence="")
    book.fault(1, at=1.6)
    verdict = book.verdict()
    assert (verdict.faults, verdict.without_evidence, verdict.word) == ({"kill": 1}, {"kill": 1}, "PASS")


def test_a_line_that_its_writer_did_not_live_to_end_is_none(book: Book) -> None:
    book.publish("x")
    book.run("x")
    with (book.folder / "handler-1.log").open("a") as file:
        file.write("started 9 x 1 d")
    assert book.verdict().word == "PASS"


# The judge itself.


def test_a_saved_run_is_judged_again_from_the_command_line(book: Book) -> None:
    book.publish("x")
    book.verdict()
    command = [sys.executable, "-m", "pythia.proof.checker", str(book.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == ["lost: x"]


def test_the_judge_knows_nothing_but_the_standard_library_and_is_short() -> None:
    source = Path(checker.__file__).read_text()
    tree = ast.parse(source)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    code = [line for number, line in enumerate(source.splitlines(), 1) if line.strip() and number not in prose]
    assert len(code) < 300


def test_a_ledgers_line_has_its_time_and_is_read_while_it_is_written(tmp_path: Path) -> None:
    from pythia.proof.ledger import Following

    ledger, following = Ledger(tmp_path, "handler-7.log"), Following(tmp_path)
    ledger.note("started", 0, "a", 1, "d")
    assert (following.look().begun, following.seen) == (1, set())
    ledger.note("failed", 0)
    ledger.note("started", 1, "a", 2, "d")
    ledger.note("finished", 1)
    ledger.note("settled", 1, "ack")
    assert following.look().last_start.keys() == {7}
    assert (following.seen, following.over) == ({b"a"}, {b"a"})
    ledger.close()
