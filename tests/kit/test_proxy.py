"""The proxy does to a connection what a network does, and nothing when it is told nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator

import pytest

from tests.kit.proxy import Proxy

DEADLINE = 10.0


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """An echo."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
def proxy(port):
    with Proxy("127.0.0.1", port) as proxy:
        yield proxy


@pytest.fixture
async def dial():
    """Connects to a proxy; closes what it opened."""
    writers = []

    async def dial(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        return reader, writer

    yield dial
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def soon(wanted):
    async with asyncio.timeout(DEADLINE):
        return await wanted


async def say(link, text: bytes) -> None:
    link[1].write(text)
    await link[1].drain()


async def answered(link, text: bytes) -> None:
    await say(link, text)
    assert await soon(link[0].readexactly(len(text))) == text


async def test_everything_passes_in_order_and_is_counted(proxy, dial):
    link = await dial(proxy)
    data = bytes(range(256)) * 8192
    sending = asyncio.create_task(say(link, data))
    assert await soon(link[0].readexactly(len(data))) == data
    await sending
    assert proxy.bytes == {"up": len(data), "down": len(data)}
    assert (proxy.accepted, proxy.connections) == (1, 1)


async def test_an_end_of_one_side_is_passed_on(proxy, dial):
    reader, writer = await dial(proxy)
    writer.write(b"bye")
    writer.write_eof()
    assert await soon(reader.read()) == b"bye"


async def test_a_reset_is_a_reset_and_a_fin_an_end(proxy, dial):
    link = await dial(proxy)
    await answered(link, b"1")
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        await soon(link[0].read())
    link = await dial(proxy)
    await answered(link, b"2")
    assert proxy.cut("fin") == 1
    assert await soon(link[0].read()) == b""
    assert proxy.connections == 0
    await answered(await dial(proxy), b"3")


async def test_a_black_hole_hides_what_is_sent_until_it_heals(proxy, dial):
    link = await dial(proxy)
    await answered(link, b"1")
    proxy.blackhole()
    await say(link, b"2")
    reading = asyncio.create_task(link[0].read(1))
    assert (await asyncio.wait((reading,), timeout=0.2))[0] == set()
    assert proxy.bytes == {"up": 1, "down": 1}
    proxy.heal()
    assert await soon(reading) == b"2"


async def test_a_black_hole_of_one_direction_hides_the_answer_alone(proxy, dial):
    link = await dial(proxy)
    await answered(link, b"1")
    proxy.blackhole("down")
    await say(link, b"2")
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.bytes["up"] == 2)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await soon(link[0].read())
    assert proxy.bytes == {"up": 2, "down": 1}


async def test_a_connection_into_a_black_hole_hears_nothing(proxy, dial):
    proxy.blackhole()
    link = await dial(proxy)
    await say(link, b"1")
    reading = asyncio.create_task(link[0].read(1))
    assert (await asyncio.wait((reading,), timeout=0.2))[0] == set()
    proxy.heal()
    assert await soon(reading) == b"1"


async def test_refused_connections_are_refused_and_open_ones_go_on(proxy, dial):
    link = await dial(proxy)
    await answered(link, b"1")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy)
    await answered(link, b"2")
    proxy.heal()
    await answered(await dial(proxy), b"3")


async def test_a_delay_holds_each_chunk_back_and_keeps_their_order(proxy, dial):
    link = await dial(proxy)
    await answered(link, b"1")
    proxy.delay(0.2)
    started = time.monotonic()
    for number in range(20):
        await say(link, b"%02d" % number)
    assert await soon(link[0].readexactly(40)) == b"".join(b"%02d" % number for number in range(20))
    assert time.monotonic() - started >= 0.4  # there and back; a limit of the rate would have taken 20 times as long


async def test_it_works_while_the_loop_of_the_test_is_blocked(proxy):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with Proxy("127.0.0.1", server.getsockname()[1]) as other:
            with socket.create_connection(("127.0.0.1", other.port), DEADLINE) as client:
                client.sendall(b"blocked")
                accepted, _ = server.accept()
                with accepted:
                    assert accepted.recv(7) == b"blocked"


def test_a_proxy_that_ends_leaves_no_connection_open_that_has_only_just_come():
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        for _ in range(20):
            with contextlib.ExitStack() as clients:
                with Proxy("127.0.0.1", server.getsockname()[1]) as proxy:
                    for _ in range(5):
                        clients.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
                gc.collect()  # an open transport would complain, and complaints are failures


async def test_a_server_that_is_away_closes_the_connection(dial):
    with Proxy("127.0.0.1", 1) as proxy:
        with pytest.raises(ConnectionResetError):  # at the first read, or as early as in the middle of connecting
            reader, _ = await dial(proxy)
            await soon(reader.read())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://guest:p%40ss@localhost:5672/%2f?heartbeat=1", "amqp://guest:p%40ss@127.0.0.1:{}/%2f?heartbeat=1"),
        ("redis://localhost/0?mode=list", "redis://127.0.0.1:{}/0?mode=list"),
    ],
)
async def test_a_url_is_led_through_it(proxy, url: str, expected: str):
    assert proxy.url(url) == expected.format(proxy.port)
