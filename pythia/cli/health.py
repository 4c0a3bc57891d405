"""``pythia health``: one question to a running worker, exit 0 or 1, never another.

It runs every few seconds in a container, so it speaks HTTP over a bare socket and imports neither asyncio nor a library.
"""

from __future__ import annotations

import json
import os
import socket
from argparse import Namespace
from urllib.parse import urlsplit

from pythia.cli.failure import CommandError
from pythia.cli.parser import Parser

TYPE_CHECKING = False  # see pythia.cli.parser
if TYPE_CHECKING:
    from typing import Any

_SECONDS = 5.0  # for the whole answer: connect, and each read
_MOST_BYTES = 1024 * 1024
_CONFIG_FILE = "config/pythia.toml"

_EXAMPLES = """\
examples:
  pythia health                    ready to be sent work?
  pythia health --live             worth keeping? for HEALTHCHECK and liveness probes
  pythia health --url http://10.0.0.7:8080

Without --url it asks where http.host and http.port of environment or configuration file say, else 127.0.0.1:8080.
"""


def add_arguments(parser: Parser) -> None:
    """What can be said after ``pythia health``."""
    parser.epilog = _EXAMPLES
    parser.usage_exit_code = 1
    parser.set_defaults(most_exit_code=1)
    parser.set_defaults(route="/readyz")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--live", dest="route", action="store_const", const="/livez", help="is it worth keeping?")
    which.add_argument("--ready", dest="route", action="store_const", const="/readyz", help="can it work? the default")
    parser.add_argument("--url", metavar="U", help="where the worker's HTTP server is; a path in it is asked as it is")


def main(args: Namespace) -> int:
    """Ask, print the answer; 0 if it is yes, else 1."""
    url = args.url or _default_url(args.config)
    try:
        status, body = _get(url, args.route)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return _unreachable(args, f"no answer from {url}: {why}")
    answer = _parsed(body)
    if args.json:
        print(
            json.dumps(answer if answer is not None else {"ok": status == 200, "state": None, "reasons": []}, indent=2)
        )
    else:
        print(_sentence(args.route, status, answer))
    return 0 if status == 200 else 1


def _unreachable(args: Namespace, detail: str) -> int:
    if args.json:
        print(
            json.dumps({"ok": False, "state": None, "reasons": [{"code": "unreachable", "detail": detail}]}, indent=2)
        )
        return 1
    raise CommandError(detail, exit_code=1)


def _sentence(route: str, status: int, answer: dict[str, Any] | None) -> str:
    verb = "live" if route == "/livez" else "ready"
    if answer is None:
        return f"{verb if status == 200 else f'not {verb}'}: HTTP {status}"
    state = answer.get("state", "?")
    reasons = [_reason(reason) for reason in answer.get("reasons", ()) if isinstance(reason, dict)]
    head = f"{verb if status == 200 else f'not {verb}'} ({state})"
    text = f"{head}: {'; '.join(reasons)}" if reasons else head
    return "".join(character if character.isprintable() else " " for character in text)


def _reason(reason: dict[str, Any]) -> str:
    said = [str(reason[key]) for key in ("code", "queue", "detail") if reason.get(key) is not None]
    return " ".join(said[:-1]) + (": " if len(said) > 1 else "") + said[-1] if said else "?"


def _default_url(config_file: str | None) -> str:
    said = _http_section(config_file)
    host = str(os.environ.get("PYTHIA_HTTP__HOST") or said.get("host") or "127.0.0.1")
    port = os.environ.get("PYTHIA_HTTP__PORT") or said.get("port") or 8080
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(host, host)  # noqa: S104 - what the worker listens on
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _http_section(config_file: str | None) -> dict[str, Any]:
    """``[http]`` of the configuration file; what is wrong with the file is the worker's to say."""
    path = config_file or os.environ.get("PYTHIA_CONFIG_FILE") or _CONFIG_FILE
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib takes longer to import than this command to run
        return {}
    import tomllib

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            section = tomllib.load(file).get("http")
    except (OSError, ValueError):
        return {}
    return section if isinstance(section, dict) else {}


def _get(url: str, route: str) -> tuple[int, bytes]:
    """The status and body of a GET.

    Raises:
        OSError: nobody answers. ValueError: the URL, or the answer, cannot be read.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not an http:// URL")
    path = (parts.path if parts.path.strip("/") else route) + (f"?{parts.query}" if parts.query else "")
    request = f"GET {path} HTTP/1.0\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nConnection: close\r\n\r\n"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with _connection(parts.hostname, port, secure=parts.scheme == "https") as connection:
        connection.sendall(request.encode("ascii"))
        return _answer(_read_all(connection))


def _connection(host: str, port: int, *, secure: bool) -> socket.socket:
    address = (
        host.encode() if host.isascii() else host
    )  # a string is looked up by way of a codec, which takes its time to import
    plain = socket.create_connection((address, port), timeout=_SECONDS)  # type: ignore[arg-type]  # bytes will do
    if not secure:
        return plain
    import ssl

    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _read_all(connection: socket.socket) -> bytes:
    chunks, size = [], 0
    while size < _MOST_BYTES and (chunk := connection.recv(65_536)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def _answer(raw: bytes) -> tuple[int, bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(words[1]), body


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
