"""The metrics and answers of many processes as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from pythia.supervisor import merging, view
from pythia.supervisor.books import Totals
from pythia.supervisor.merging import kept, read
from pythia.supervisor.routes import rendered
from pythia.supervisor.slot import Seen


def said(**samples: float) -> merging.Snapshot:
    """A process that has one counter ``c_total``, a gauge, and what else is given."""
    kinds = {
        "c": ("c", "counter", "c_total"),
        "g": ("g", "gauge", "g"),
        "up": ("pythia_consumer_up", "gauge", "pythia_consumer_up"),
    }
    kinds["depth"] = ("pythia_queue_depth", "gauge", "pythia_queue_depth")
    kinds["odd"] = ("odd", "unknown", "odd")
    return read(
        [[kinds[k][0], kinds[k][1], "", [[kinds[k][2], {"worker": "w"}, value]]] for k, value in samples.items()]
    )


def sample(gone: merging.Snapshot, living: list[merging.Snapshot], name: str) -> float | None:
    found = [s.value for family in merging.merged(gone, living) for s in family.samples if s.name == name]
    return found[0] if found else None


def test_counters_are_summed_and_stay_when_a_process_is_gone() -> None:
    one, other = said(c=3, g=1, odd=2), said(c=4, g=5)
    assert sample(merging.NOTHING, [one, other], "c_total") == 7
    gone = kept(merging.NOTHING, one)
    assert sample(gone, [other], "c_total") == 7
    assert sample(gone, [], "odd") == 2
    assert sample(gone, [other], "g") == 5
    assert sample(kept(gone, other), [], "g") is None


def test_a_yes_is_one_only_if_all_say_so_and_what_all_report_alike_is_not_summed() -> None:
    assert sample(merging.NOTHING, [said(up=1), said(up=0)], "pythia_consumer_up") == 0
    assert sample(merging.NOTHING, [said(up=1), said(up=1)], "pythia_consumer_up") == 1
    assert sample(merging.NOTHING, [said(depth=90), said(depth=80)], "pythia_queue_depth") == 90


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.just("die"), st.integers(0, 50))), max_size=60))
def test_no_sum_ever_goes_backwards_whoever_dies(steps: list[tuple[int, object]]) -> None:
    living: dict[int, float] = {}
    gone, before = merging.NOTHING, 0.0
    for slot, what in steps:
        if what == "die":
            if slot in living:
                gone = kept(gone, said(c=living.pop(slot)))
        else:
            living[slot] = living.get(slot, 0.0) + float(str(what))
        now = sample(gone, [said(c=count) for count in living.values()], "c_total") or 0.0
        assert now >= before
        before = now


def histogram(*buckets: tuple[str, float]) -> merging.Snapshot:
    rows = [["h_bucket", {"worker": "w", "le": le}, count] for le, count in buckets]
    return read(
        [["h", "histogram", "", [*rows, ["h_count", {"worker": "w"}, buckets[-1][1]], ["h_sum", {"worker": "w"}, 1.5]]]]
    )


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_histograms_are_summed_by_bucket_and_rendered_in_order(as_openmetrics: bool) -> None:
    living = [histogram(("0.1", 1), ("+Inf", 2)), histogram(("0.1", 3), ("+Inf", 5))]
    body, _kind = rendered(Totals(merging.NOTHING, living, {("w", "signal"): 2}), as_openmetrics=as_openmetrics)
    lines = [line for line in body.decode().splitlines() if line.startswith("h_")]
    assert [line.rpartition(" ")[2] for line in lines] == ["4.0", "7.0", "7.0", "3.0"]
    parse = openmetrics.text_string_to_metric_families if as_openmetrics else parser.text_string_to_metric_families
    families = {family.name: family for family in parse(body.decode())}
    (restarts,) = families["pythia_process_restarts"].samples
    assert (restarts.labels, restarts.value) == ({"worker": "w", "reason": "signal"}, 2)


def test_of_a_name_that_two_mean_differently_the_first_ones_is_shown() -> None:
    other = read([["c", "gauge", "", [["c", {}, 9]]]])
    assert sample(merging.NOTHING, [said(c=1), other], "c") is None
    assert sample(merging.NOTHING, [said(c=1), other], "c_total") == 1


@pytest.mark.parametrize("said", [None, 3, [1], [["a", "b"]], [["a", "counter", "", [["x", {}, "no number"]]]]])
def test_what_is_no_metric_of_ours_is_refused(said: object) -> None:
    with pytest.raises(ValueError):
        read(said)


# -- probes and health -------------------------------------------------------------------------------------------------

OK = {"ok": True, "state": "running", "reasons": []}


def seen(stage: str = "running", number: int = 0, **answer: object) -> Seen:
    pid = None if stage == "absent" else 100 + number
    return Seen(
        name="w",
        number=number,
        pid=pid,
        stage=stage,
        detail="SIGKILL" if stage == "absent" else "",
        answer=answer or None,
    )  # type: ignore[arg-type]


def test_ready_is_when_every_process_is() -> None:
    no = {"ok": False, "state": "running", "reasons": [{"code": "reconnecting"}]}
    assert view.probe([seen(ready=OK), seen(number=1, ready=OK)], "ready", stopping=False) == OK
    answer = view.probe([seen(ready=OK), seen(number=1, ready=no)], "ready", stopping=False)
    assert (answer["ok"], answer["reasons"]) == (False, [{"code": "reconnecting", "process": 1, "worker": "w"}])


@pytest.mark.parametrize(
    ("stage", "live", "ready", "startup"),
    [("absent", True, False, False), ("starting", True, False, False), ("running", False, False, True)],
)
def test_a_process_that_says_nothing(stage: str, live: bool, ready: bool, startup: bool) -> None:
    answers = [view.probe([seen(stage)], name, stopping=False) for name in ("live", "ready", "startup")]
    assert [answer["ok"] for answer in answers] == [live, ready, startup]
    assert all(answer["reasons"] for answer in answers)


def test_nothing_is_ready_while_it_drains_or_where_nothing_runs() -> None:
    assert view.probe([seen(ready=OK)], "ready", stopping=True)["reasons"] == [{"code": "draining"}]
    assert not view.probe([], "ready", stopping=False)["ok"]


def health(**more: object) -> dict[str, object]:
    consumer = {
        "queue": "q",
        "registered": True,
        "in_flight": 1,
        "buffered": 2,
        "last_delivery_at": None,
        "oldest_in_flight_seconds": 1.0,
    }
    return {
        "status": "ok",
        "worker": "w",
        "worker_id": "w-1",
        "pid": 1,
        "state": "running",
        "guarantee": "at-least-once",
        "broker": {"connected": True},
        "checks": [],
        "messages": {"received": 2, "ack": 1},
        "config": {"generation": 1},
        "consumers": [consumer],
        **more,
    }


def test_health_is_the_worst_of_all_and_their_sums() -> None:
    rows = [seen(health=health()), seen(number=1, health=health(status="degraded", broker={"connected": False}))]
    told = view.health([*rows, seen("absent", 2)], worker_id="s", uptime_seconds=1.0, stopping=False, paused=False)
    assert (told["status"], told["worker"], told["broker"]) == ("degraded", "w", {"connected": False})
    assert told["messages"] == {"received": 4, "ack": 2}
    assert (told["consumers"][0]["in_flight"], told["consumers"][0]["buffered"]) == (2, 4)
    assert [process["pid"] for process in told["processes"]] == [1, 1, None]
    silent = view.health([seen()], worker_id="s", uptime_seconds=1.0, stopping=False, paused=False)
    assert (silent["status"], silent["processes"][0]["detail"]) == ("failed", "does not answer")
