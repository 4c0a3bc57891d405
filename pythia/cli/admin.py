"""A word to a running worker, by its admin routes: which worker is meant, and what it answers."""

from __future__ import annotations

import http.client
import json
import socket
from argparse import ArgumentParser, Namespace
from typing import Any
from urllib.parse import urlsplit

from pythia import runtime_file
from pythia.cli import settings
from pythia.cli.failure import CommandError
from pythia.cli.output import print_json, say
from pythia.config import WorkerConfig

_SECONDS = 30.0

_EXAMPLES = """\
examples:
  pythia {verb}                          the one worker of yours on this machine
  pythia {verb} 4711                     the worker with this process id
  pythia {verb} http://10.0.0.7:8080     another machine's; http.admin_token must be set here and there
"""


def add_arguments(parser: ArgumentParser, verb: str) -> None:
    """Which worker: what can be said after ``pythia pause``, ``pythia resume`` and ``pythia reload``."""
    parser.epilog = _EXAMPLES.format(verb=verb)
    parser.add_argument(
        "worker", metavar="PID|URL", nargs="?", help="which; default: the one that runs on this machine"
    )


def tell(args: Namespace, verb: str, done: str) -> int:
    """POST ``/{verb}``; 0 when it was done.

    Raises:
        CommandError: nobody answers (69), or the answer is no (1); which worker is not clear (64).
    """
    url, status, answer = post(args, f"/{verb}")
    if status != 200:
        raise CommandError(f"{url} refused to {verb}: {why(status, answer)}", exit_code=1)
    if args.json:
        print_json(answer)
    else:
        say(f"{url}: {done}")
    return 0


def post(args: Namespace, route: str) -> tuple[str, int, Any]:
    """POST to the worker that ``args.worker`` means: its URL, the status, the answer's JSON (None if it is none).

    Raises:
        CommandError: nobody answers (69); which worker is not clear (64).
    """
    config = settings.read(args)
    url = _url(args.worker, config)
    return url, *_post(url, route, config)


def _url(worker: str | None, config: WorkerConfig) -> str:
    if worker is None:
        return _only_one(config)
    if not worker.isdecimal():
        return worker if "://" in worker else f"http://{worker}"
    url = runtime_file.find(int(worker))
    if url is None:
        known = ", ".join(str(pid) for pid in runtime_file.running()) or "none"
        raise CommandError(f"no worker of yours with an HTTP server has process id {worker} (there are: {known})")
    return url


def _only_one(config: WorkerConfig) -> str:
    running = runtime_file.running()
    if len(running) > 1:
        listed = ", ".join(f"{pid} ({url})" for pid, url in running.items())
        raise CommandError(f"several workers run here; say which: {listed}")
    if running:
        return next(iter(running.values()))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.http.host, config.http.host)  # noqa: S104 - what it listens on
    return f"http://[{host}]:{config.http.port}" if ":" in host else f"http://{host}:{config.http.port}"


def _post(url: str, route: str, config: WorkerConfig) -> tuple[int, Any]:
    token = config.http.admin_token
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    try:
        parts = urlsplit(url)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
        connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
        try:
            connection.request("POST", parts.path.rstrip("/") + route, headers=headers)
            response = connection.getresponse()
            return response.status, _parsed(response.read())
        finally:
            connection.close()
    except (KeyError, ValueError, http.client.InvalidURL) as error:
        raise CommandError(f"{url!r} is neither a process id nor an http:// URL") from error
    except (OSError, http.client.HTTPException, socket.gaierror) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CommandError(f"no answer from {url}: {why}", exit_code=69) from error


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def why(status: int, answer: Any) -> str:
    """What an answer that is no yes says, with advice where there is some."""
    advice = {
        401: "it wants its admin token: set PYTHIA_HTTP__ADMIN_TOKEN here as there",
        404: "no worker's admin routes are there",
    }
    said = answer.get("error") if isinstance(answer, dict) else None
    return advice.get(status) or str(said or f"HTTP {status}")
