"""The negative controls: what was broken on purpose, the simulation finds; a bug that it does not see fails the test."""

from __future__ import annotations

import pytest

from pythia.proof.simulation import Simulated, simulate
from tests.simulation.mutants import MUTANTS

MOST_SEEDS = 200
TABLE: list[str] = []


def found(name: str) -> Simulated:
    plant, _ = MUTANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        return simulate(None, range(MOST_SEEDS))


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_bug_is_found_and_called_by_its_name(name):
    simulated = found(name)
    row = f"{name:<48} {simulated.seeds:>3} seeds  {simulated.verdict}"
    TABLE.append(row)
    assert not simulated.ok, f"survived {MOST_SEEDS} seeds: {name}"
    assert simulated.verdict in MUTANTS[name][1], "\n".join([row, *simulated.findings])


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """The whole table, once all were hunted."""
    yield
    plugins = request.config.pluginmanager
    reporter, capture = plugins.get_plugin("terminalreporter"), plugins.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        reporter.write_line("")
        for row in sorted(TABLE):
            reporter.write_line(row)


def test_there_are_at_least_twenty_of_them():
    assert len(MUTANTS) >= 20
