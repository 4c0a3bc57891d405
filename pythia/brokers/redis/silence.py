"""How long a server may say nothing, in the time of an event loop that turns."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Silence:
    """Around what waits for a server: ``TimeoutError`` after ``seconds`` in which nothing was ``heard``.

    The seconds are taken in two halves, and the second begins when the loop notices that the first is over. A handler that
    blocked the loop is thus not taken for a silent server: what came meanwhile is read before the second half has passed. (The
    driver's own time-outs, like asyncio's, end a wait whose answer is there already.)
    """

    __slots__ = ("_half", "_limit", "_loop", "_quiet_halves", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._half = seconds / 2
        self._quiet_halves = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._timer = self._loop.call_later(self._half, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._seconds:g} s") from None

    def heard(self) -> None:
        """An answer came: the seconds begin anew."""
        self._quiet_halves = 0

    def _look(self) -> None:
        self._quiet_halves += 1
        if self._quiet_halves == 2:
            self._limit.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(self._half, self._look)
