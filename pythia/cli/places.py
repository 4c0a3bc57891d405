"""Whether two URLs name one place: a queue moved onto itself would go round for ever."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

# scheme: (what it speaks, its port, the port that the same server has without TLS)
_SERVERS = {
    "amqp": ("amqp", 5672, 5672),
    "amqps": ("amqp", 5671, 5672),
    "redis": ("redis", 6379, 6379),
    "rediss": ("redis", 6379, 6379),
}


def same_place(one: str, other: str) -> bool:
    """Whether both are one file, or one virtual host or database of one server, whatever the user, spelling or mode.

    A server that is reached by two addresses that have nothing in common (a proxy) is not recognised.
    """
    if one == other:
        return True
    if is_file(one) or is_file(other):
        return is_file(one) and is_file(other) and _same_file(file_of(one), file_of(other))
    return _inside(one) == _inside(other) and bool(_doors(one) & _doors(other))


def is_file(url: str) -> bool:
    """Whether it names a queue file."""
    return url.startswith("sqlite:")


def file_of(url: str) -> Path:
    """The queue file of a URL."""
    return Path(unquote(url.partition(":///")[2]))


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _inside(url: str) -> tuple[str, str]:
    """What the server speaks, and the virtual host or the database."""
    parts = urlsplit(url)
    speaks = _SERVERS[parts.scheme][0]
    return speaks, unquote(parts.path[1:]) or {"amqp": "/", "redis": "0"}[speaks]


def _doors(url: str) -> set[tuple[str, int]]:
    """Every address and port behind the host; the host alone where it cannot be looked up."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    _, default, plain = _SERVERS[parts.scheme]
    port = plain if parts.port in (None, default) else parts.port
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        found = set()
    return {(name, port) for name in found | {host}}
