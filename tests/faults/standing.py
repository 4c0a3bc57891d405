"""A worker that goes on while its server is broken again and again, by one fault after the other: nothing is to be left of any."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tests.acceptance.service_kit import Place, Service, until
from tests.faults import probes
from tests.faults.probes import QUEUE, QUICK
from tests.faults.venues import RabbitVenue, RedisVenue, venue_of

V = TypeVar("V", bound=RabbitVenue | RedisVenue)
HEARTBEAT_SECONDS = 1
HEALED_SECONDS = 10.0  # the promise is five; a machine that does other things beside it needs longer


@dataclass(slots=True)
class Standing(Generic[V]):
    """The worker, the place where it runs, and the server that is broken under it."""

    place: Place
    service: Service
    venue: V

    def survives(
        self, broken: Callable[[Standing[V]], AbstractContextManager[object]], *, forgets: bool = False
    ) -> None:
        """That what was in hand when it broke, and what comes after, is handled once it is over, by the same process.

        ``forgets``: the server has lost what it had, so that what was in hand is nobody's any more.
        """
        started, go = len(self.service.events("worker.starting")), self.place.directory / f"go-{secrets.token_hex(4)}"
        held = self.place.publish(QUEUE, [go.name] * 2)
        until(lambda: set(held) <= set(probes.runs(self.place)), "two messages are in hand")
        with broken(self):
            go.touch()
        probes.handles(self.place, deadline=HEALED_SECONDS)
        until(lambda: probes.is_ready(self.service), "ready again", deadline=HEALED_SECONDS)
        if not forgets:
            until(lambda: set(held) <= probes.handled(self.place), "what was in hand is done")
        until(lambda: not self.venue.left(QUEUE), "everything is settled")
        assert max(probes.runs(self.place).count(name) for name in held) <= 2
        assert len(self.service.events("worker.starting")) == started
        assert "Traceback" not in "".join(self.service.text)

    def until_noticed(self, *codes: str) -> None:
        """Readiness says so, for one of these reasons."""
        until(lambda: probes.says(self.service, *codes), f"readiness tells one of {codes}", deadline=HEALED_SECONDS)


@contextmanager
def standing(name: str, folder: Path, kind: type[V], **settings: str) -> Iterator[Standing[V]]:
    """Running and consuming inside; it must stop well at the end."""
    with venue_of(name) as venue:
        assert isinstance(venue, kind)
        place = probes.place_of(folder, venue.url)
        quick = QUICK | {"PYTHIA_BROKER__HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS)} | settings
        with place.running("--port", "0", **quick) as service:
            probes.handles(place)
            yield Standing(place, service, venue)
            assert service.stop() == 0
