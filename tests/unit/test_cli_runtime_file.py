"""A worker is found by its pid as long as it lives, by its own user alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from pythia import runtime_file


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"pythia-{os.getuid()}"


def test_an_announced_process_is_found_until_it_withdraws():
    with runtime_file.announced("http://127.0.0.1:8080"):
        assert runtime_file.find(os.getpid()) == "http://127.0.0.1:8080"
        assert runtime_file.running() == {os.getpid(): "http://127.0.0.1:8080"}
    assert runtime_file.find(os.getpid()) is None
    assert runtime_file.running() == {}
    runtime_file.withdraw()


def test_nothing_announced_is_nothing_found():
    assert runtime_file.find(os.getpid()) is None
    assert runtime_file.running() == {}


def test_only_its_user_may_read_or_write_it(runtime):
    runtime_file.announce("http://127.0.0.1:8080")
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_the_file_of_a_killed_process_is_swept_away(runtime):
    runtime_file.announce("http://127.0.0.1:1")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = runtime / f"{dead.pid}.json"
    left.write_text(json.dumps({"url": "http://127.0.0.1:2", "started": "1"}))
    assert runtime_file.running() == {os.getpid(): "http://127.0.0.1:1"}
    assert not left.exists()


def test_another_process_with_the_same_pid_is_not_taken_for_it(runtime):
    runtime_file.announce("http://127.0.0.1:1")
    mine = runtime / f"{os.getpid()}.json"
    mine.write_text(json.dumps({"url": "http://127.0.0.1:1", "started": "1"}))
    assert runtime_file.find(os.getpid()) is None
    assert not mine.exists()


def test_a_process_of_another_user_counts_as_running(monkeypatch):
    def refused(_pid: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    runtime_file.announce("http://127.0.0.1:1")
    monkeypatch.setattr(os, "kill", refused)
    assert runtime_file.find(os.getpid()) == "http://127.0.0.1:1"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 1}'])
def test_a_damaged_file_is_nothing_found(runtime, text):
    runtime_file.announce("http://127.0.0.1:1")
    (runtime / f"{os.getpid()}.json").write_text(text)
    assert runtime_file.find(os.getpid()) is None


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_directory_that_others_can_write_to_is_not_trusted(runtime, mode):
    runtime_file.announce("http://127.0.0.1:1")
    runtime.chmod(mode)
    assert runtime_file.find(os.getpid()) is None
    assert runtime_file.running() == {}
    assert not runtime_file.announce("http://127.0.0.1:2")


def test_a_link_in_its_place_is_not_trusted(runtime, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    assert not runtime_file.announce("http://127.0.0.1:1")
    assert runtime_file.find(os.getpid()) is None


def test_a_worker_that_cannot_announce_itself_runs_all_the_same(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
    with runtime_file.announced("http://127.0.0.1:1"):
        assert runtime_file.find(os.getpid()) is None
