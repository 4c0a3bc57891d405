"""The routes: what each answers, in JSON but for the metrics, and who may ask.

Nothing here waits for the worker's event loop. Whoever can reach the port is an attacker: admin routes want the token or,
without one, a caller on this machine that no web page sent; errors say what was wrong with the request and no more.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pythia.config import WorkerConfig, redacted
from pythia.core.events import Observer, TaskFailed
from pythia.core.reloading import Reloaded
from pythia.core.status import Status
from pythia.errors import PythiaError
from pythia.observability import health
from pythia.observability.health import Probe

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]
Render = Callable[[str], tuple[bytes, str]]  # of the metrics: Accept → (body, content type)

RELOAD_SECONDS = 25.0  # a worker that starts reloads when it runs, and a new connection takes its time

_BODY_BYTES = 4096  # no route reads one
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "pythia",
    "X-Content-Type-Options": "nosniff",
}
_ROUTES = {
    "GET /livez": "worth keeping? (also /healthz)",
    "GET /readyz": "worth sending work to?",
    "GET /startupz": "started?",
    "GET /health": "everything that is known",
    "GET /metrics": "Prometheus metrics",
    "GET /config": "the effective configuration, secrets masked (admin)",
    "POST /reload": "read the configuration again and apply it; ?plan=1: only tell what would change (admin)",
    "POST /pause": "take nothing more (admin)",
    "POST /resume": "take messages again (admin)",
}


class Control(Protocol):
    """What the admin routes can do to a worker; all of it from any thread, without waiting for its loop."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def reload(self) -> Future[Reloaded]: ...
    def planned(self) -> Reloaded: ...  # reads files


class Configured(Protocol):
    """Whose token it is that admin routes want."""

    @property
    def config(self) -> WorkerConfig: ...


def make_app(status: Status, control: Control, render: Render, emit: Observer) -> web.Application:
    """The application; ``emit`` hears of what a route could not do for a defect of ours."""
    app = guarded(status, emit)
    for path, probe in (
        ("/livez", health.live),
        ("/healthz", health.live),
        ("/readyz", health.ready),
        ("/startupz", health.startup),
    ):
        app.router.add_get(path, _probe(probe, status))
    app.router.add_get("/health", _answering(lambda: health.health(status)))
    app.router.add_get("/metrics", _metrics(render))
    app.router.add_get("/config", _answering(lambda: redacted(status.config)))
    app.router.add_post("/reload", _reloading(control, status))
    app.router.add_post("/pause", _acting(control.pause, status, paused=True))
    app.router.add_post("/resume", _acting(control.resume, status, paused=False))
    return app


def guarded(owner: Configured, emit: Observer) -> web.Application:
    """An application without routes but for the index, which guards those that are marked as admin's."""
    app = web.Application(middlewares=[_errors_as_json(emit), _admin_only(owner)], client_max_size=_BODY_BYTES)
    app.router.add_get("/", _index)
    app.on_response_prepare.append(_dress)
    return app


def as_json(body: Mapping[str, Any], code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """What every route but the probes' text answers with."""
    text = json.dumps(body, ensure_ascii=False, indent=1) + "\n"
    data = text.encode("utf-8", "backslashreplace")
    return web.Response(body=data, status=code, headers=headers, content_type="application/json", charset="utf-8")


def _probe(probe: Callable[[Status, float], Probe], status: Status) -> Route:
    async def answer(_request: web.Request) -> web.Response:
        found = probe(status, time.monotonic())
        return as_json(found.to_json(), 200 if found.ok else 503)

    return answer


def _answering(read: Callable[[], Mapping[str, Any]]) -> Route:
    async def answer(_request: web.Request) -> web.Response:
        return as_json(read())

    return answer


def _metrics(render: Render) -> Route:
    async def answer(request: web.Request) -> web.Response:
        body, content_type = render(",".join(request.headers.getall("Accept", [])))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return answer


def _acting(act: Callable[[], None], status: Status, *, paused: bool) -> Route:
    async def answer(_request: web.Request) -> web.Response:
        try:
            act()
        except PythiaError as error:
            return as_json({"error": str(error)}, 409)
        return as_json({"paused": paused, "state": str(status.state)})

    return answer


def _reloading(control: Control, status: Status) -> Route:
    async def answer(request: web.Request) -> web.Response:
        if request.query.get("plan") in {"1", "true"}:
            planned = await asyncio.to_thread(control.planned)
            return as_json(planned.to_json(), 409 if planned.result == "refused" else 200)
        asked = asyncio.wrap_future(control.reload())
        try:
            async with asyncio.timeout(RELOAD_SECONDS):
                reloaded = await asyncio.shield(asked)
        except TimeoutError:
            error = f"not done within {RELOAD_SECONDS:g} s; it goes on: /health and the log will tell"
            return as_json({"error": error, "state": str(status.state)}, 202)
        return as_json(reloaded.to_json(), 200 if reloaded.result == "applied" else 409)

    return answer


async def _index(_request: web.Request) -> web.Response:
    width = max(len(route) for route in _ROUTES)
    lines = [f"{route:<{width}}  {what}" for route, what in _ROUTES.items()]
    return web.Response(text="\n".join(["Pythia", "", *lines, ""]))


async def _dress(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _errors_as_json(emit: Observer) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return as_json({"error": f"no route {request.path}", "routes": list(_ROUTES)}, 404)
        except web.HTTPException as refusal:
            kept = {name: refusal.headers[name] for name in ("Allow", "WWW-Authenticate") if name in refusal.headers}
            return as_json({"error": refusal.reason}, refusal.status, kept)
        except Exception as error:  # noqa: BLE001 - the top of this thread: a defect in one route must not end the others
            emit(TaskFailed(where=f"{request.method} {request.path}", error=error))
            return as_json({"error": "internal error; the log says more"}, 500)

    return answer


def _admin_only(owner: Configured) -> Middleware:
    admin = {route.split()[1] for route, what in _ROUTES.items() if what.endswith("(admin)")}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in admin:
            refusal = _refusal(request, owner)
            if refusal is not None:
                return refusal
        return await handler(request)

    return check


def _refusal(request: web.Request, owner: Configured) -> web.Response | None:
    """Why the caller may not; None if he may. The token is read each time, so that a new one holds at once."""
    secret = owner.config.http.admin_token
    if secret is not None:
        return None if _bears(request, secret.get_secret_value()) else _unauthorized()
    if not _is_local(request):
        return as_json(
            {"error": "admin routes answer callers on this machine only; set http.admin_token for others"}, 403
        )
    return None


def _unauthorized() -> web.Response:
    return as_json({"error": "wants Authorization: Bearer TOKEN"}, 401, {"WWW-Authenticate": "Bearer"})


def _bears(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    said = given.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(said, token.encode())


def _is_local(request: web.Request) -> bool:
    """A caller on this machine, asking for this machine by name, and not a browser in the name of some page.

    A page of another site can make a browser send a POST here (it then names its ``Origin``), and a name that it owns can
    point to 127.0.0.1 (it is then the ``Host``).
    """
    origin = request.headers.get("Origin")
    asked = [f"//{request.headers.get('Host', '')}", *([] if origin is None else [origin])]
    return _is_loopback(request.remote) and all(_is_loopback(_host(url)) for url in asked)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
