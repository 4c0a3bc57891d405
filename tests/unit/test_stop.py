"""The request to stop: a coroutine object that nobody has to await."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from concurrent.futures import Future

import pytest

from pythia.core.stop import StopRequest


def request(*, inside: bool = False) -> tuple[StopRequest, Future[None]]:
    done: Future[None] = Future()
    return StopRequest(done, lambda: inside), done


async def test_it_waits_until_stopped_however_it_is_awaited():
    for await_it in (
        asyncio.ensure_future,
        asyncio.create_task,
        asyncio.gather,
        lambda r: asyncio.wait_for(r, 5),
    ):
        asked, done = request()
        waiting = asyncio.ensure_future(await_it(asked))
        await asyncio.sleep(0)
        assert not waiting.done()
        done.set_result(None)
        await asyncio.wait_for(waiting, 5)


async def test_it_can_be_awaited_more_than_once():
    asked, done = request()
    done.set_result(None)
    await asked
    await asked


async def test_who_is_part_of_what_is_stopped_does_not_wait():
    asked, _ = request(inside=True)
    await asyncio.wait_for(asyncio.create_task(asked), 5)


async def test_cancelling_the_wait_takes_nothing_back():
    asked, done = request()
    waiting = asyncio.create_task(asked)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not done.cancelled()
    done.set_result(None)


async def test_a_task_of_it_can_be_cancelled_before_its_first_step():
    asked, _ = request()
    waiting = asyncio.create_task(asked)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_nobody_complains_when_it_is_dropped():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked, _ = request()
        assert asyncio.iscoroutine(asked)
        assert inspect.isawaitable(asked)
        asked.close()
        del asked
        gc.collect()
