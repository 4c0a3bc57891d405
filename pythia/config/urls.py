"""Broker and store URLs: which are valid, and how one is shown without its password."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

BROKER_SCHEMES = ("memory", "sqlite", "amqp", "amqps", "redis", "rediss")
STORE_SCHEMES = ("memory", "sqlite", "redis", "rediss")
REDIS_MODES = ("stream", "list", "pubsub")

_MASK = "***"
_FILES = ("memory", "sqlite")  # a path, and nobody to log in as
_SECRET_PARAMETER = re.compile(r"([?&;][^=?&;#]*(?:pass|pwd|secret|token|key)[^=?&;#]*=)", re.IGNORECASE)
_PLAIN_PATH = re.compile(r"[\w./-]+\.db\w*")
_VALUE = re.compile(r"[^&;]*")


def redact_url(url: str) -> str:
    """``url`` with its password, and any query parameter that sounds like one, shown as ``***``.

    Passwords with unescaped ``@``, ``:``, ``/``, ``%`` are masked too. Where a text can be read in two ways the reading
    that hides more is taken: the result is for people, not for connecting.
    """
    parameter = _SECRET_PARAMETER.search(url)
    head, tail = (url[: parameter.start()], url[parameter.start() :]) if parameter else (url, "")
    return _mask_userinfo(head, ambiguous="@" in tail) + _mask_parameters(tail)


def absolute_url(url: str) -> str:
    """``url`` with the path of a file made absolute; every other URL as it is."""
    scheme, _, path = url.partition(":///")
    return f"sqlite:///{Path(path).absolute()}" if scheme == "sqlite" and path else url


def _mask_userinfo(text: str, *, ambiguous: bool) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if scheme in _FILES:
        return text
    userinfo, at, host = rest.rpartition("@")
    if ambiguous:
        userinfo, at, host = rest, "", ""
    user, colon, _password = userinfo.partition(":")
    return f"{scheme}{separator}{user}{colon}{_MASK if colon else ''}{at}{host}"


def _mask_parameters(query: str) -> str:
    masked, position = "", 0
    for parameter in _SECRET_PARAMETER.finditer(query):
        if parameter.start() < position:
            continue
        masked += query[position : parameter.end()] + _MASK
        value = _VALUE.match(query, parameter.end())
        position = value.end() if value else parameter.end()
    return masked + query[position:]


def check_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raise ``ValueError`` with a sentence that quotes nothing secret, unless ``url`` can name a broker or store."""
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("must not contain spaces, line breaks or control characters")
    scheme, separator, rest = url.partition("://")
    if not separator and _PLAIN_PATH.fullmatch(url):
        raise ValueError("must be a URL; for a file: sqlite:///path/to/file.db")
    if not separator:
        raise ValueError(f"must be a URL that begins with {_listed(schemes)}")
    if scheme not in schemes:
        raise ValueError(_unknown_scheme(scheme, schemes))
    match scheme:
        case "memory":
            return
        case "sqlite":
            _check_sqlite(rest)
        case _:
            _check_server(url, redis=scheme.startswith("redis"))


def _listed(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


def _unknown_scheme(scheme: str, schemes: tuple[str, ...]) -> str:
    near = get_close_matches(scheme.lower(), schemes, n=1)
    hint = f"; did you mean {near[0]}://?" if near else ""
    return f"begins with {scheme[:20]}://, which is none of {_listed(schemes)}{hint}"


def _check_sqlite(rest: str) -> None:
    path = rest.partition("?")[0]
    if not path.startswith("/"):
        raise ValueError(
            "needs three slashes before a relative path (sqlite:///pythia.db), four before an absolute one"
        )
    if path[1:].strip("/") == "":
        raise ValueError("names no file: sqlite:///pythia.db is relative, sqlite:////var/lib/pythia.db absolute")
    if path == "/:memory:":
        raise ValueError("cannot keep a queue in memory with sqlite: use memory://")


def _check_server(url: str, *, redis: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(
            "has a host or port that cannot be read; in a password write @ : / ? # as %40 %3A %2F %3F %23"
        ) from None
    if not host:
        raise ValueError("names no host")
    if redis:
        _check_redis_mode(parts)


def _check_redis_mode(parts: SplitResult) -> None:
    for mode in parse_qs(parts.query, keep_blank_values=True).get("mode", ()):
        if mode not in REDIS_MODES:
            raise ValueError(f"has a mode that is none of {', '.join(REDIS_MODES)}")
