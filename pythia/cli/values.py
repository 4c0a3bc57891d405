"""What may stand behind an option: each reader says what is wrong in the user's words."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def port(text: str) -> int:
    """A port; 0 is any that is free."""
    if not (text.isascii() and text.isdecimal()) or int(text) > 65_535:
        raise ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def seconds(text: str) -> float:
    """A length of time, a number of seconds from 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return value


def queue_name(text: str) -> str:
    """A queue's name."""
    if not text.strip():
        raise ArgumentTypeError("a queue has a name")
    return text
