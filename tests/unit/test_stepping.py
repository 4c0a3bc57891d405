"""A handler's steps, whatever it is that is called a handler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pythia.core.context import current
from pythia.core.stepping import drive

HANDLED = SimpleNamespace(delivery="one")


async def test_a_call_that_ends_by_itself_has_not_returned():
    shift = SimpleNamespace(stepping=None)

    def handler(_message):
        raise StopIteration("it would pass for a value")

    with pytest.raises(RuntimeError, match="StopIteration"):
        await drive(handler, "message", HANDLED, shift)
    assert shift.stepping is None


async def test_it_is_named_from_its_call_on_and_its_context_is_its_own():
    shift, seen = SimpleNamespace(stepping=None), []

    async def value():
        return current.get(None)

    def handler(_message):
        seen.append(shift.stepping)
        return value()

    assert await drive(handler, "message", HANDLED, shift) is HANDLED
    assert (seen, shift.stepping, current.get(None)) == (["one"], None, None)
