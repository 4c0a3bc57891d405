"""Pythia under the sampler, from the end of the warm-up to the last message: its figures, and a line of what was seen."""

from __future__ import annotations

import json

from benchmarks.consume import pythia_worker
from benchmarks.consume.sampler import Sampler
from benchmarks.consume.work import Meter


class SampledMeter(Meter):
    """A meter that has a sampler run while it measures."""

    def __init__(self, count: int, workload: str) -> None:
        super().__init__(count, workload)
        self._sampler = Sampler()

    def began(self) -> None:
        self._sampler.start()

    def ended(self) -> None:
        self._sampler.stop()
        print(json.dumps(self._sampler.rows()), flush=True)


if __name__ == "__main__":
    pythia_worker.main(SampledMeter)
