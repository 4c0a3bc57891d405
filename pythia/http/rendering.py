"""The metrics as they are answered, as seldom made as will do."""

from __future__ import annotations

import time

from pythia.observability.metrics import WorkerCollector, render, wants_openmetrics

_REST = 10  # a rendering is served again for this many times as long as it took


class Rendering:
    """The metrics, rendered for at most about a tenth of the time, however often they are asked for."""

    def __init__(self, collector: WorkerCollector) -> None:
        self._collector = collector
        self._kept: dict[bool, tuple[float, tuple[bytes, str]]] = {}  # by format: (good until, answer)

    def __call__(self, accept: str) -> tuple[bytes, str]:
        began, form = time.perf_counter(), wants_openmetrics(accept)
        kept = self._kept.get(form)
        if kept is not None and began < kept[0]:
            return kept[1]
        answer = render([self._collector], accept)
        ended = time.perf_counter()
        self._kept[form] = (ended + _REST * (ended - began), answer)
        return answer
