"""The catalogue of faults names tests that are there, and the page says what the catalogue says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults import catalogue, document

ROOT = Path(__file__).resolve().parents[2]
LEAST_SHOWN = 90


def test_every_fault_is_shown_by_tests_that_are_there_or_has_a_reason_why_not() -> None:
    faults = catalogue.read()
    assert [flaw for fault in faults for flaw in fault.flaws()] == []
    assert sum(bool(fault.shown) for fault in faults) >= LEAST_SHOWN
    assert set(document.TITLES) == {fault.area for fault in faults}


def test_every_kind_that_pythia_verify_breaks_is_in_it() -> None:
    assert {kind for fault in catalogue.read() for kind in fault.verify} == catalogue.KINDS


def test_every_test_of_a_server_that_is_broken_is_named_by_a_fault() -> None:
    """Who writes another finds that it belongs here, too."""
    named = {(one.file, one.function) for fault in catalogue.read() for one in fault.shown}
    for file in ("test_redis_servers", "test_rabbitmq_servers", "test_vanishing", "test_stops", "test_mischief"):
        functions = catalogue._functions(catalogue.TESTS / f"faults/{file}.py")
        assert {(f"faults/{file}.py", function) for function in functions} <= named


@pytest.mark.parametrize(
    ("row", "flaw"),
    [
        ('shown = ["faults/test_stops.py::that_nobody_wrote"]\nhow = "x"\nmust = "x"', "no test"),
        ('shown = ["faults/test_nowhere.py::x"]\nhow = "x"\nmust = "x"', "no test"),
        ('how = "x"\nmust = "x"', "a reason"),
        ('missing = "x"\nshown = ["faults/test_catalogue.py::the_page_says_what_the_catalogue_says"]', "a reason"),
        ('shown = ["faults/test_catalogue.py::the_page_says_what_the_catalogue_says"]', "what must come"),
        ('missing = "x"\nverify = ["earthquake"]', "'earthquake'"),
    ],
)
def test_a_row_with_a_flaw_is_found(row: str, flaw: str) -> None:
    (fault,) = catalogue.read(f'[redis.x]\nbroken = "x"\n{row}\n')
    assert flaw in "; ".join(fault.flaws())


def test_what_is_left_to_the_soak_is_said() -> None:
    soak = Counter(one.is_soak for fault in catalogue.read() for one in fault.shown)
    assert soak[False] > soak[True] > 0
    assert "*(soak)*" in document.page(catalogue.read())


def test_the_page_says_what_the_catalogue_says() -> None:
    assert document.main(["--check", "--root", str(ROOT)]) == 0


def test_a_stale_page_is_noticed_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(tmp_path)]
    assert document.main(["--check", *where]) == 1
    assert "stale" in capsys.readouterr().out
    assert document.main(where) == 0
    assert document.main(["--check", *where]) == 0
