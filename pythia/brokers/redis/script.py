"""Lua scripts, read once from the files in ``lua``.

A script runs by its digest and, where the server does not know it (restarted, flushed), once more by its text, which also
makes it known: SCRIPT LOAD need not be permitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

Word = bytes | str | int | float
Command = tuple[Word, ...]


class Script:
    """One script: what it does and answers stands at the top of its file."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[Word], *arguments: Word) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


_KNOWN: dict[str, Script] = {}


@cache
def script(name: str, *uses: str) -> Script:
    """The script of that name, after those whose functions it uses."""
    folder = resources.files(__package__).joinpath("lua")
    source = "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (*uses, name))
    made = Script(name, source)
    _KNOWN[made.digest] = made
    return made


def by_text(command: Command) -> Command | None:
    """The same call with the script's text instead of its digest; None when it runs none of ours."""
    if command[0] != "EVALSHA" or not isinstance(command[1], str):
        return None
    known = _KNOWN.get(command[1])
    return None if known is None else ("EVAL", known.source, *command[2:])


def millis(seconds: float) -> int:
    """A length of time as scripts take it, 1 at the least."""
    return max(1, int(seconds * 1000))


def keys_of(command: Command) -> Sequence[Word]:
    """The keys that a script's call names."""
    return command[3 : 3 + int(command[2])]
