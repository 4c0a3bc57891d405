"""The one port of a service of many processes: the routes of a worker, answered for all of them.

Each answer is put together from what the processes say at that moment; one that says nothing within two seconds is told of as
such.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Protocol

from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from pythia.config import WorkerConfig
from pythia.core.events import Observer
from pythia.errors import ConfigError
from pythia.http.app import Route, guarded
from pythia.http.app import as_json as answer
from pythia.observability.families import counter, put
from pythia.observability.metrics import wants_openmetrics
from pythia.supervisor import merging, view
from pythia.supervisor.books import Totals
from pythia.supervisor.crew import Crew
from pythia.supervisor.slot import Seen

_REST = 10  # a rendering is served again for this many times as long as it took
_BEAT_LIMIT_SECONDS = 60.0


class Host(Protocol):
    """The supervisor, as the routes need it."""

    crew: Crew
    worker_id: str

    @property
    def config(self) -> WorkerConfig: ...
    def reload(self) -> Future[list[Seen]]: ...
    def planned(self) -> Future[list[Seen]]: ...


def make_app(host: Host, emit: Observer) -> web.Application:
    """The application."""
    app = guarded(host, emit)
    for path, name in (("/livez", "live"), ("/healthz", "live"), ("/readyz", "ready"), ("/startupz", "startup")):
        app.router.add_get(path, _probe(host, name))
    app.router.add_get("/health", _health(host))
    app.router.add_get("/metrics", _Metrics(host.crew))
    app.router.add_get("/config", _config(host))
    app.router.add_post("/pause", _pausing(host, paused=True))
    app.router.add_post("/resume", _pausing(host, paused=False))
    app.router.add_post("/reload", _reload(host))
    return app


def _probe(host: Host, name: str) -> Route:
    async def respond(_request: web.Request) -> web.Response:
        silent = time.monotonic() - host.crew.beat
        if silent >= _BEAT_LIMIT_SECONDS:
            reasons = [{"code": "loop_blocked", "detail": f"the supervisor has not turned for {silent:.0f} s"}]
            return answer({"ok": False, "state": "running", "reasons": reasons}, 503)
        seen = await asyncio.wrap_future(host.crew.ask("probes"))
        found = view.probe(seen, name, stopping=host.crew.stopping)
        return answer(found, 200 if found["ok"] else 503)

    return respond


def _health(host: Host) -> Route:
    async def respond(_request: web.Request) -> web.Response:
        crew = host.crew
        seen = await asyncio.wrap_future(crew.ask("health"))
        up = time.monotonic() - crew.began
        said = view.health(
            seen, worker_id=host.worker_id, uptime_seconds=up, stopping=crew.stopping, paused=crew.paused
        )
        return answer(said)

    return respond


def _config(host: Host) -> Route:
    """One worker: its configuration, as if it ran alone. Several: each one's, by name."""

    async def respond(_request: web.Request) -> web.Response:
        seen = await asyncio.wrap_future(host.crew.ask("config"))
        said = {one.name: one.answer["config"] for one in reversed(seen) if one.answer and "config" in one.answer}
        return answer(next(iter(said.values())) if len(said) == 1 else {"workers": dict(reversed(said.items()))})

    return respond


def _pausing(host: Host, *, paused: bool) -> Route:
    async def respond(_request: web.Request) -> web.Response:
        host.crew.pause(paused=paused)
        seen = await asyncio.wrap_future(host.crew.ask("probes"))
        state = view.probe(seen, "live", stopping=host.crew.stopping)["state"]
        return answer({"paused": paused, "state": state})

    return respond


def _reload(host: Host) -> Route:
    async def respond(request: web.Request) -> web.Response:
        only_plan = request.query.get("plan") in {"1", "true"}
        try:
            seen = await asyncio.wrap_future(host.planned() if only_plan else host.reload())
        except ConfigError as error:
            cause = " ".join(str(error).split())
            return answer(
                {"result": "refused", "generation": None, "cause": cause, "changes": [], "processes": []}, 409
            )
        found = view.reloaded(seen)
        return answer(found, 200 if found["result"] == "applied" else 409)

    return respond


class _Metrics:
    """Rendered for at most about a tenth of the time, however often they are asked for."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._good_until = {True: 0.0, False: 0.0}
        self._body: dict[bool, tuple[bytes, str]] = {}

    async def __call__(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        form, began = wants_openmetrics(accept), time.perf_counter()
        if form not in self._body or began >= self._good_until[form]:
            totals = await asyncio.wrap_future(self._crew.totals())
            self._body[form] = rendered(totals, as_openmetrics=form)
            ended = time.perf_counter()
            self._good_until[form] = ended + _REST * (ended - began)
        body, content_type = self._body[form]
        return web.Response(body=body, headers={"Content-Type": content_type})


def rendered(totals: Totals, *, as_openmetrics: bool) -> tuple[bytes, str]:
    """(body, content type)."""
    families = _Families(_all(totals))
    if as_openmetrics:
        body: bytes = openmetrics.generate_latest(families)  # type: ignore[no-untyped-call]  # it is not annotated
        return body, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(families), CONTENT_TYPE_PLAIN_0_0_4


def _all(totals: Totals) -> Iterator[Metric]:
    yield from merging.merged(totals.gone, [*totals.living, _own()])
    restarts = counter(
        "pythia_process_restarts_total", "Processes that died and were started again, by how they ended."
    )
    for (worker, reason), count in totals.restarts.items():
        put(restarts, {"worker": worker, "reason": reason}, count)
    yield restarts


def _own() -> merging.Snapshot:
    """What the supervisor's own process uses, to be added to what the others use."""
    return merging.read(
        [
            [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
            for family in REGISTRY.collect()
        ]
    )


class _Families:
    """What a renderer of prometheus_client takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
