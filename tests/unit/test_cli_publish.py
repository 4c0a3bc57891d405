"""``pythia publish``: every message is checked before the first is sent, and its id is printed once it is confirmed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence

import pytest

from pythia.broker import ConsumeOptions
from pythia.brokers import open_broker
from pythia.cli import main, publish
from pythia.config import set_config_file, set_process_flags
from pythia.errors import PublishError
from pythia.message import Envelope


@pytest.fixture(autouse=True)
def _here(workdir) -> Iterator[None]:
    yield
    set_process_flags({})
    set_config_file(None)


def queued(queue: str = "orders", count: int = 10_000) -> Sequence[Envelope]:
    """What is in the queue."""

    async def read() -> Sequence[Envelope]:
        broker = open_broker("sqlite:///pythia.db")
        await broker.connect()
        try:
            if not (await broker.depth(queue)).ready:
                return ()
            options = ConsumeOptions(prefetch=count, lease=30, max_hold=None, consumer="test")
            async with broker.consume(queue, options) as consumer:
                return [delivery.envelope for delivery in await consumer.receive(count)]
        finally:
            await broker.close()

    return asyncio.run(read())


def bodies() -> list[bytes]:
    return [envelope.body for envelope in queued()]


@pytest.fixture
def stdin(monkeypatch):
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def test_an_argument_is_published_as_it_was_written(capsys):
    assert main(["publish", "orders", ' {"price": 1.50, "big": 12345678901234567890} ']) == 0
    (envelope,) = queued()
    assert capsys.readouterr().out == f"{envelope.id}\n"
    assert envelope.body == b'{"price": 1.50, "big": 12345678901234567890}'
    assert envelope.content_type == "application/json"


def test_all_that_can_be_said_about_a_message(capsys):
    argv = ["publish", "orders", "1", "--id", "order-7", "-H", "tenant=acme", "--header", "note=a=b"]
    assert main([*argv, "--content-type", "application/vnd.shop+json"]) == 0
    (envelope,) = queued()
    assert (capsys.readouterr().out, envelope.id) == ("order-7\n", "order-7")
    assert dict(envelope.headers) == {"tenant": "acme", "note": "a=b"}
    assert envelope.content_type == "application/vnd.shop+json"


def test_a_delayed_message_is_not_ready_yet(capsys):
    assert main(["publish", "orders", "1", "--delay", "3600"]) == 0
    main(["queues", "--json"])
    row = json.loads(capsys.readouterr().out.partition("\n")[2])["queues"][0]
    assert (row["ready"], row["delayed"]) == (0, 1)


def test_a_file_is_one_message_or_one_a_line(workdir):
    (workdir / "one.json").write_text('\ufeff{\n  "a": 1\n}\n')
    (workdir / "many.ndjson").write_bytes(b'{"a": 1}\r\n\n  \n2\n"three"')
    assert main(["publish", "orders", "--file", "one.json"]) == 0
    assert bodies() == [b'{\n  "a": 1\n}']
    assert main(["publish", "orders", "--file", "many.ndjson", "--lines"]) == 0
    assert bodies()[1:] == [b'{"a": 1}', b"2", b'"three"']


@pytest.mark.parametrize("how", [["-"], ["--file", "-"]])
def test_standard_input_is_read(stdin, how):
    stdin(b"1\n2\n3\n")
    assert main(["publish", "orders", *how, "--lines"]) == 0
    assert bodies() == [b"1", b"2", b"3"]


def test_a_pipe_given_as_a_file_is_read(workdir):
    ours, theirs = os.pipe()
    os.write(theirs, b"1\n2\n")
    os.close(theirs)
    assert main(["publish", "orders", "--lines", "--file", f"/dev/fd/{ours}"]) == 0
    os.close(ours)
    assert bodies() == [b"1", b"2"]


def test_another_content_type_goes_as_it_is(workdir):
    (workdir / "raw").write_bytes(b"\xff not json \n")
    assert main(["publish", "orders", "hello {", "--content-type", "text/plain"]) == 0
    assert main(["publish", "orders", "--file", "raw", "--content-type", "application/octet-stream"]) == 0
    assert [(e.body, e.content_type) for e in queued()] == [
        (b"hello {", "text/plain"),
        (b"\xff not json \n", "application/octet-stream"),
    ]


def test_count_publishes_it_so_often_with_ids_of_their_own(capsys):
    assert main(["publish", "orders", "1", "-n", "1201"]) == 0
    printed = capsys.readouterr().out.split()
    assert len(set(printed)) == 1201
    assert [envelope.id for envelope in queued()] == printed


def test_json_names_the_ids(capsys):
    assert main(["publish", "orders", "1", "--json"]) == 0
    (envelope,) = queued()
    assert json.loads(capsys.readouterr().out) == {"queue": "orders", "published": 1, "ids": [envelope.id]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1\n2\nhello\n", "line 3: column 1: Expecting value"),
        (b'1\n{"a": }\n', "line 2: column 7: Expecting value"),
        (b"1\n\xff\n", "line 2: byte 1 is not UTF-8"),
        (b"1\nNaN\n", "line 2: NaN is not a JSON number"),
        (b"1\n" + b"[" * 100_000 + b"\n", "line 2: it is nested too deep"),
        (b"1 2\n", "line 1: column 3: Extra data"),
        (b"{'a': 1}\n", "line 1: column 2: Expecting property name"),
    ],
)
def test_what_is_not_json_is_65_says_where_and_nothing_is_published(stdin, capsys, content, said):
    stdin(b"0\n" * 2000 + content)
    assert main(["publish", "orders", "-", "--lines"]) == 65
    told = capsys.readouterr()
    number = int(said.split()[1].rstrip(":"))
    assert said.replace(f"line {number}", f"not JSON: standard input, line {2000 + number}") in told.err
    assert "nothing was published" in told.err
    assert told.out == ""
    assert queued() == ()


def test_a_line_within_one_message_is_counted_too(capsys):
    assert main(["publish", "orders", '{\n "a": 1,\n x}']) == 65
    assert "the argument, line 3: column 2" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_no_message_at_all_is_65(stdin, content):
    stdin(content)
    assert main(["publish", "orders", "-", "--lines"]) == 65
    assert queued() == ()


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ([], 64, "what to publish?"),
        (["1", "--file", "f"], 64, "not both"),
        (["1", "--id", "x", "--count", "2"], 64, "--id names one message"),
        (["-", "--id", "x", "--lines"], 64, "--id names one message"),
        (["-", "--lines", "--count", "2"], 64, "--count repeats one message"),
        (["1", "-H", "tenant"], 64, "-H takes key=value, not 'tenant'"),
        (["--file", "nosuch"], 65, "cannot read nosuch: No such file or directory"),
        (["--file", "."], 65, "cannot read .: Is a directory"),
    ],
)
def test_a_command_that_cannot_be_meant_is_one_line(argv, code, said, capsys):
    assert main(["publish", "orders", *argv]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_what_was_confirmed_before_a_failure_is_printed(capsys, monkeypatch):
    publisher = publish.Publisher
    original = publisher.publish_many
    flights: list[int] = []

    async def failing(self, queue, some, **options):
        flights.append(len(some))
        if len(flights) == 2:
            raise PublishError("refused", queue=queue, id="x", in_doubt=False)
        return await original(self, queue, some, **options)

    monkeypatch.setattr(publisher, "publish_many", failing)
    assert main(["publish", "orders", "1", "--count", "700", "--json"]) == 70
    assert json.loads(capsys.readouterr().out)["published"] == 500
    assert len(queued()) == 500
