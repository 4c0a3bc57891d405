"""The report tells the verdict first, escapes what others wrote, and needs nothing but itself; the proxy does what a fault says."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pythia.config import WorkerConfig
from pythia.proof.checker import judge, read
from pythia.proof.proxy import Proxy
from pythia.proof.report import write_reports
from pythia.proof.run import Plan, Result

FACTS = {
    "seed": 7,
    "schedule": "dense",
    "target": "shop:<b>Worker</b>",
    "broker": "sqlite",
    "server_version": None,
    "workers": 2,
    "lease_seconds": 5.0,
    "recovery_seconds": 10.0,
    "slack_seconds": 0.0,
    "keys": "queue",
    "kinds": {"kill": "SIGKILL"},
}


def report(folder: Path, *, lost: bool = False) -> tuple[dict, str]:
    history = folder / "history"
    history.mkdir()
    (history / "run.json").write_text(json.dumps(FACTS))
    (history / "producer-1.log").write_text("intent <i>a</i> - 0 d 1.0\nconfirmed <i>a</i> 1.1\n")
    rows = [
        {"what": "began", "t": 1.2, "fault": 0, "kind": "kill", "cause": "kill", "pids": [5]},
        {"what": "evidence", "t": 1.2, "fault": 0, "text": "<script>"},
        {"what": "healed", "t": 1.3, "fault": 0, "heirs": []},
        {"what": "over", "t": 3.0},
    ]
    (history / "nemesis-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not lost:
        (history / "handler-5.log").write_text("started 0 <i>a</i> 1 d 1.15\nfinished 0 1.18\nsettled 0 ack 1.19\n")
    plan = Plan(url="sqlite:///q.db", folder=folder, config=WorkerConfig())
    document = write_reports(plan, Result(verdict=judge(read(history)), facts=FACTS, seconds=10.0))
    return document, (folder / "report.html").read_text()


class Tags(HTMLParser):
    """Collects the elements of a page, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_pass_is_said_first_and_the_page_is_whole(tmp_path: Path):
    document, page = report(tmp_path)
    assert (document["verdict"], document["faults"], document["confirmed"]) == ("PASS", {"kill": 1}, 1)
    assert json.loads((tmp_path / "report.json").read_text()) == document
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "i", "b"} & set(tags.seen), "what others wrote is shown, not obeyed"
    assert page.index('class="verdict PASS"') < page.index("<svg") < page.index("<table")


def test_what_is_lost_is_named(tmp_path: Path):
    document, page = report(tmp_path, lost=True)
    assert document["flaws"] == {"lost": ["<i>a</i>"]}
    assert "Lost: 1" in page
    assert "&lt;i&gt;a&lt;/i&gt;" in page


@pytest.fixture
async def proxy():
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def dial(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_sliced_bytes_all_arrive_in_order(proxy: Proxy):
    reader, writer = await dial(proxy)
    proxy.slow(slices=1)
    writer.write(bytes(range(256)))
    async with asyncio.timeout(10):
        assert await reader.readexactly(256) == bytes(range(256))
    writer.close()


async def test_no_more_than_the_rate_passes(proxy: Proxy):
    reader, writer = await dial(proxy)
    proxy.slow(bytes_a_second=10_000)
    began = asyncio.get_running_loop().time()
    writer.write(b"x" * 5_000)
    async with asyncio.timeout(10):
        await reader.readexactly(5_000)
    assert asyncio.get_running_loop().time() - began > 0.3
    writer.close()


async def test_a_connection_is_cut_in_the_middle_after_so_many_bytes(proxy: Proxy):
    reader, writer = await dial(proxy)
    proxy.cut_after(150)  # 100 there, 50 back
    writer.write(b"x" * 100)
    arrived = 0
    async with asyncio.timeout(10):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while True:
                arrived += len(await reader.readexactly(1))
    assert arrived <= 50
    assert proxy.cuts == 1


async def test_what_is_held_back_is_counted_and_arrives_when_it_is_healed(proxy: Proxy):
    reader, writer = await dial(proxy)
    proxy.blackhole("down")
    writer.write(b"hello")
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.held == 5)
    proxy.heal()
    async with asyncio.timeout(10):
        assert await reader.readexactly(5) == b"hello"
    assert proxy.held == 0
    writer.close()
