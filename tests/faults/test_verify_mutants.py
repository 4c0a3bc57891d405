"""Workers that are broken on purpose, under the real engine of ``pythia verify``: each must be found out, and as what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pythia.proof.checker import Verdict
from tests.faults.mutants import CONTROL, MUTANTS, run_all

SHORT = [name for name, mutant in MUTANTS.items() if not mutant.long]
LONG = [name for name, mutant in MUTANTS.items() if mutant.long]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Verdict]:
    """Of those that are not long, and of the control; they run beside each other."""
    return verdicts_of([CONTROL, *SHORT], tmp_path_factory)


@pytest.fixture(scope="module")
def verdicts_of_the_long(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Verdict]:
    return verdicts_of(LONG, tmp_path_factory)


def verdicts_of(names: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Verdict]:
    folder = tmp_path_factory.mktemp("mutants")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_all(folder, names)


def check(name: str, verdict: Verdict) -> None:
    mutant = MUTANTS[name]
    print(f"{name}: {verdict}")
    assert (verdict.word, verdict.invalid) == ("FAIL", []), verdict
    assert verdict.flaws[mutant.flaw], dict(verdict.flaws)
    if not mutant.endless:
        assert (verdict.flaws["left"], verdict.flaws["late"]) == ([], []), "what is lost is not merely late"


def test_the_worker_without_a_mutation_passes(verdicts: Mapping[str, Verdict]) -> None:
    verdict = verdicts[CONTROL]
    assert (verdict.word, verdict.invalid) == ("PASS", []), verdict.flaws
    assert verdict.faults.keys() == {"kill-all", "stop", "pause"}
    assert verdict.counts["confirmed"] > 200
    assert verdict.counts["dead"] > 20


@pytest.mark.parametrize("name", SHORT)
def test_a_mutant_is_found_out(name: str, verdicts: Mapping[str, Verdict]) -> None:
    check(name, verdicts[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG)
def test_a_mutant_that_takes_longer_is_found_out(name: str, verdicts_of_the_long: Mapping[str, Verdict]) -> None:
    check(name, verdicts_of_the_long[name])
