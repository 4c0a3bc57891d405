"""What our keys are called. Those of one queue share its slot: a cluster keeps them together."""

from __future__ import annotations

import re

from pythia.brokers.redis.settings import Mode

_TAG = re.compile(r"\{[^}]+\}")  # what Redis hashes instead of the whole key


DEAD = "{{{queue}}}:dead"
"""How dead letters are called, for ``format``; where the queue's name has a tag of its own it is not put in braces again."""


def beside(queue: str, what: str) -> str:
    """The key that keeps ``what`` of a queue, whose messages are in the key of its plain name."""
    first = _TAG.search(queue)
    tagged = first is not None and "{" not in queue[: first.start()]
    return f"{queue}:{what}" if tagged else f"{{{queue}}}:{what}"


def dead(queue: str) -> str:
    """A stream, in every mode."""
    return beside(queue, "dead")


def delayed(queue: str) -> str:
    """A sorted set, by the server's time in milliseconds."""
    return beside(queue, "delayed")


PING = "pythia:ping"
"""A key that is never there."""


def names(mode: Mode) -> str:
    """The set of queues that were ever used in this mode."""
    return f"pythia:queues:{mode}"


def effect(key: str) -> str:
    """Where an idempotency key is remembered."""
    return f"pythia:effect:{key}"


def consumers(queue: str) -> str:
    """A sorted set of a list's consumers, by when they expire unless they show that they live."""
    return beside(queue, "consumers")


def processing(queue: str, consumer: str) -> str:
    """The list of what one consumer of a list holds."""
    return beside(queue, f"processing:{consumer}")
