"""A reload while there is work: whatever stands in the file, no message is lost or doubled, and the process goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.service_kit import Place, Service, until
from tests.faults import probes
from tests.faults.probes import QUEUE

BLOCKS = (
    probes.HANDLER
    + """
class App(Worker):
    async def process_message(self, message):
        note("start", message)
        while isinstance(message.body, str) and not os.path.exists(message.body):
            time.sleep(0.01)  # the loop stands still
        note("end", message)
"""
)
GOOD = f'queue = "{QUEUE}"\nconcurrency = 3\n'


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "worker.toml").write_text(GOOD)
    return Place(tmp_path, probes.WORKER)


@contextmanager
def started(place: Place) -> Iterator[Service]:
    """Running with its file, and stopped well."""
    with place.running("--port", "0", "--config", str(place.directory / "worker.toml")) as service:
        probes.handles(place, deadline=30.0)
        yield service
        assert service.stop() == 0
        assert "Traceback" not in "".join(service.text)


@pytest.fixture
def service(place: Place) -> Iterator[Service]:
    with started(place) as service:
        yield service


def applied(service: Service) -> int:
    generation = service.health()["config"]["generation"]
    assert isinstance(generation, int)
    return generation


def reload(service: Service) -> None:
    service.signal(signal.SIGUSR1)


def _removed(file: Path) -> None:
    file.unlink()


def _a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _a_link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def _written(data: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(data)

    return write


BAD: dict[str, Callable[[Path], None]] = {
    "half written": _written(GOOD.encode() + b"\n[retry\nbase_"),
    "a syntax error": _written(b"queue = = 3"),
    "an unknown key": _written(GOOD.encode() + b"concurency = 5\n"),
    "a wrong type": _written(GOOD.encode().replace(b"= 3", b'= "many"')),
    "out of range": _written(GOOD.encode().replace(b"= 3", b"= -3")),
    "binary": _written(bytes(range(256)) * 40),
    "nested without end": _written(b"a = " + b"[" * 100_000),
    "too large": _written(GOOD.encode() + b"#" * 100_000_000),
    "removed": _removed,
    "a directory": _a_directory,
    "a pipe that nobody writes to": _a_pipe,
    "a link to itself": _a_link_to_itself,
    "an endless device": lambda file: (file.unlink(), file.symlink_to("/dev/zero"))[1],
}


def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_in_one_line(place: Place, service: Service) -> None:
    file = place.directory / "worker.toml"
    for number, (name, spoil) in enumerate(BAD.items(), 1):
        spoil(file)
        reload(service)
        refused = service.wait_for("config.refused", count=number)[-1]
        assert refused["generation"] == 1, name
        assert "\n" not in refused["message"], name
        assert len(refused["message"]) < 1000, name
        assert probes.is_ready(service), name
        assert probes.metric(service, "pythia_config_last_reload_successful") == 0
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_text(GOOD)
    probes.handles(place, deadline=30.0)
    file.write_text(GOOD.replace("= 3", "= 4"))
    reload(service)
    service.wait_for("config.applied")
    assert probes.metric(service, "pythia_config_reloads_total", result="refused") == len(BAD)
    assert probes.metric(service, "pythia_config_last_reload_successful") == 1


def test_a_file_that_is_replaced_as_a_config_map_is_read_anew(place: Place) -> None:
    """A directory behind a link behind a link, swapped by a rename; then a file that is older than the one before."""
    home = place.directory / "etc"
    home.mkdir()
    (place.directory / "worker.toml").unlink()
    (place.directory / "worker.toml").symlink_to("etc/..data/worker.toml")
    swap(home, "first", GOOD)
    with started(place) as service:
        swap(home, "second", GOOD.replace("= 3", "= 5"))
        reload(service)
        assert service.wait_for("config.applied")[-1]["changed"] == ["concurrency"]
        older = home / "second" / "other.toml"
        older.write_text(GOOD.replace("= 3", "= 6"))
        os.utime(older, (1, 1))
        older.rename(home / "second" / "worker.toml")
        reload(service)
        assert service.wait_for("config.applied", count=2)[-1]["changed"] == ["concurrency"]
        assert applied(service) == 3


def swap(home: Path, name: str, text: str) -> None:
    """What Kubernetes does when a ConfigMap changes."""
    (home / name).mkdir()
    (home / name / "worker.toml").write_text(text)
    (home / "..new").symlink_to(name)
    (home / "..new").rename(home / "..data")


STORM = """
import os, signal, sys
for _ in range(2000):
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
"""


def test_two_thousand_signals_into_a_blocked_loop_end_with_what_the_file_says_last(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text(GOOD)
    place = Place(tmp_path, BLOCKS)
    with started(place) as service:
        (held,) = place.publish(QUEUE, ["go"])
        until(lambda: held in probes.runs(place), "its loop is blocked")
        for concurrency in (4, 5, 6):
            (tmp_path / "new").write_text(GOOD.replace("= 3", f"= {concurrency}"))
            (tmp_path / "new").rename(tmp_path / "worker.toml")
            subprocess.run([sys.executable, "-c", STORM, str(service.pid)], check=True)
        (tmp_path / "go").touch()
        until(lambda: service.events("config.applied"), "it was read")
        probes.handles(place, deadline=30.0)
        assert [line["changed"] for line in service.events("config.applied")] == [["concurrency"]]
        assert json.loads(service.ask("/config")[1])["concurrency"] == 6, "the last one holds"
        assert probes.runs(place).count(held) == 1


def test_reloads_under_load_and_in_the_middle_of_a_drain_lose_nothing_and_double_nothing(
    place: Place, service: Service
) -> None:
    file, names = place.directory / "worker.toml", [*place.publish(QUEUE, list(range(3000)))]
    levels = ("debug", "info")
    for number in range(12):
        concurrency, prefetch = 1 + number % 5, 10 + number
        text = (
            GOOD.replace("= 3", f"= {concurrency}\nprefetch = {prefetch}") + f'[log]\nlevel = "{levels[number % 2]}"\n'
        )
        (place.directory / "new").write_text(text)
        (place.directory / "new").rename(file)
        reload(service)
        service.wait_for("config.applied", count=number + 1)
    until(lambda: set(names) <= probes.handled(place), "all are handled")
    last = place.publish(QUEUE, ["go"] * 2)
    until(lambda: set(last) <= set(probes.runs(place)), "their handlers wait")
    service.signal(signal.SIGTERM)
    service.wait_for("worker.stopping")
    file.write_text(GOOD)
    for _ in range(20):
        reload(service)
    (place.directory / "go").touch()
    assert service.ended() == 0
    assert set(last) <= probes.handled(place)
    runs = probes.runs(place)
    assert len(runs) == len(set(runs)), "nothing is doubled"
    assert place.rows("SELECT count(*) FROM messages") == [(0,)]
