"""All negative controls of the suite: not one survives, and each is found as what it is."""

from __future__ import annotations

import pytest

from tests.mutants import rows

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FEWEST = 20


def test_no_mutant_survives() -> None:
    table = list(rows())
    print(*table, sep="\n")
    assert len(table) >= FEWEST
    assert [str(row) for row in table if not row.named] == []
