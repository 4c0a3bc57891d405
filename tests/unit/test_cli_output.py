"""What commands print: aligned where nobody looks, drawn on a terminal, and never steered by a message."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress

import pytest

from pythia.cli import output
from pythia.cli.failure import CommandError
from tests.unit.cli_kit import COMMAND, environment

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")
ARGS = Namespace(no_color=False, yes=False)


def test_a_plain_table_is_aligned_and_numbers_are_set_right():
    lines = list(output.aligned(("QUEUE", "READY", "OLDEST"), [("orders", 7, None), ("o", 1200, "4.2 s")]))
    assert lines == [
        "QUEUE   READY  OLDEST",
        "orders      7  -",
        "o        1200  4.2 s",
    ]


def test_a_table_without_rows_is_its_head():
    assert list(output.aligned(("A", "B"), [])) == ["A  B"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("bidi \u202e", r"bidi \u202e"),
        ("c1 \x9b2J", r"c1 \x9b2J"),
        ("return \r", r"return \r"),
        ("kept\n\ttoo é", "kept\n\ttoo é"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text, shown):
    assert output.plain(text) == shown


def test_a_cell_stays_on_its_line():
    assert list(output.aligned(("E",), [("a\nb\x1b[2J",)]))[1] == r"a b\x1b[2J"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-3, "0.0 s"), (4.21, "4.2 s"), (60, "1 min"), (3600, "1.0 h"), (90_000, "1.0 d")],
)
def test_a_duration_is_short(seconds, text):
    assert output.duration(seconds) == text


def test_a_time_is_rfc_3339_utc_with_milliseconds():
    assert output.stamp(1_763_805_600.0) == "2025-11-22T10:00:00.000Z"
    assert output.stamp(None) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "goes_on"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_person_at_the_terminal_is_asked(monkeypatch, answer, goes_on):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    if goes_on:
        output.ask(ARGS, "Delete?")
        return
    with pytest.raises(CommandError, match="nothing done") as raised:
        output.ask(ARGS, "Delete?")
    assert raised.value.exit_code == 1


def test_a_script_and_yes_are_not_asked(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    output.ask(ARGS, "Delete?")
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    output.ask(Namespace(no_color=False, yes=True), "Delete?")


def on_a_terminal(*args: str, cwd: object) -> str:
    """What ``pythia ARGS`` writes to a terminal."""
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm-256color")
    env.pop("NO_COLOR", None)
    child = subprocess.Popen([*COMMAND, *args], cwd=str(cwd), env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    with suppress(OSError):  # the other side closed
        while chunk := os.read(ours, 65_536):
            told += chunk
    os.close(ours)
    assert child.wait(60) == 0, told.decode()
    return told.decode()


def test_on_a_terminal_a_table_is_drawn_and_cells_are_no_markup(tmp_path):
    on_a_terminal("publish", "[red]orders", "1", cwd=tmp_path)
    told = on_a_terminal("queues", cwd=tmp_path)
    assert "─" in told
    assert "[red]orders" in told


def test_long_work_shows_a_bar_on_a_terminal_without_colours_if_asked(tmp_path):
    command = ("publish", "orders", "1", "--count", "2000")
    told = on_a_terminal(*command, cwd=tmp_path)
    assert "publishing to orders" in told
    assert "/2000" in told
    assert COLOUR.search(told)
    assert not COLOUR.search(on_a_terminal(*command, "--no-color", cwd=tmp_path))


def test_without_a_terminal_there_is_no_bar(capsys):
    with output.progress(ARGS, "working", 100_000) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
