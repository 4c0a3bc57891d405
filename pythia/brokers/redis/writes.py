"""Things to write: several of them, in different keys, by one script, all or none."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pythia.brokers.redis import fields, keys
from pythia.brokers.redis.fields import Fields
from pythia.brokers.redis.script import Command, Word, script
from pythia.errors import PublishError
from pythia.message import Envelope

_PUT = script("put", "clock", "writes")


@dataclass(frozen=True, slots=True)
class Write:
    """``words``: the fields of an entry; one payload; a delay in milliseconds and a member."""

    kind: Literal["stream", "list", "delayed"]
    key: str
    words: Sequence[bytes]


Putting = Callable[[str, Fields, float], Write]
"""How a message is put into a queue, after so many seconds: ``entry`` or ``payload``."""


def entry(queue: str, words: Fields, delay: float = 0.0) -> Write:
    """A message of a stream."""
    words = fields.bounded(words)
    return Write("stream", queue, words) if delay <= 0 else later(queue, fields.pack(words), delay)


def payload(queue: str, words: Fields, delay: float = 0.0) -> Write:
    """A message of a list, in an envelope of ours."""
    wrapped = fields.wrap(fields.born(words, time.time() + max(0.0, delay)))
    return Write("list", queue, [wrapped]) if delay <= 0 else later(queue, wrapped, delay)


def later(queue: str, content: bytes, delay: float) -> Write:
    """Keep ``content`` (packed fields, or a payload) for ``delay`` seconds by the server's clock, rounded up."""
    return Write("delayed", keys.delayed(queue), [b"%d" % math.ceil(delay * 1000), os.urandom(16) + content])


def said(queue: str, envelope: Envelope) -> Fields:
    """The fields of a message for ``queue``.

    Raises:
        PublishError: a value that cannot be written down.
    """
    try:
        return fields.fields_of(envelope)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PublishError(
            f"a message for queue {queue!r} cannot be written down: {error}",
            queue=queue,
            id=envelope.id,
            in_doubt=False,
        ) from error


def put(write: Write) -> Command:
    """The command that writes one target; it answers an error or something else."""
    match write.kind:
        case "stream":
            return ("XADD", write.key, "*", *write.words)
        case "list":
            return ("LPUSH", write.key, *write.words)
        case "delayed":
            return _PUT([write.key], *described([write], 0))


def described(writes: Sequence[Write], keys_before: int) -> list[Word]:
    """Targets as the arguments of a script, whose keys follow ``keys_before`` others."""
    arguments: list[Word] = [len(writes)]
    for number, write in enumerate(writes, start=keys_before + 1):
        arguments += (number, write.kind, len(write.words), *write.words)
    return arguments
