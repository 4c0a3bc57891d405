"""A message that kills its process is found out and set aside; those beside it are not, and a kill from outside blames nobody."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.acceptance.service_kit import NOTE, Place, Service, until
from tests.faults.venues import RabbitVenue, venue_of

MESSAGES, KILLER = 64, 41
MOST_DEATHS = 3

WORKER = (
    (
        NOTE
        + """
import ctypes
from pythia.core import lastwords

KILLER, TOGETHER = "m<killer>", <together>

def out_of_memory():
    '''What the kernel does: it counts, and kills.'''
    kills = int(open("vmstat").read().split()[1]) if os.path.exists("vmstat") else 0
    open("vmstat", "w").write(f"oom_kill {kills + 1}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

class Counting(lastwords.OomRecord):
    def __init__(self):
        super().__init__()
        self._host, self._group = lastwords.Path("vmstat"), None

WAYS = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(1),
    "abort": os.abort,
    "out-of-memory": out_of_memory,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
if os.environ["WAY"] in ("out-of-memory", "kill"):
    from pythia.core import suspects
    suspects.OomRecord = Counting

def begun():
    return len({line.split()[1] for line in open("effects") if line.startswith("begin ")})

class App(Worker):
    queue = "work"
    concurrency = TOGETHER
    retry = RetryPolicy(base_seconds=0.1)

    async def process_message(self, message):
        note("begin", message.id, os.getpid())
        if message.id == KILLER:
            while begun() < TOGETHER:
                await asyncio.sleep(0.01)
            open("struck", "w").close()
            WAYS[os.environ["WAY"]]()
        while not os.path.exists("struck"):
            await asyncio.sleep(0.01)
        note("end", message.id, os.getpid())
"""
    )
    .replace("<killer>", str(KILLER))
    .replace("<together>", str(MESSAGES))
)

KILLED = (
    NOTE
    + """
class App(Worker):
    queue = "work"
    concurrency = 8

    async def process_message(self, message):
        note("begin", message.id, os.getpid())
        await asyncio.sleep(0.05)
        note("end", message.id, os.getpid())
"""
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path, WORKER)
    place.environment |= {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHIA_LEASE_SECONDS": "2",
        "PYTHIA_PREFETCH": str(MESSAGES),
    }
    return place


def publish(place: Place) -> list[str]:
    names = [f"m{number}" for number in range(MESSAGES)]
    for name in names:
        place.publish_bytes("work", b"{}", id=name)
    return names


class Supervisor:
    """Starts the next process whenever one has died, as systemd or Kubernetes do."""

    def __init__(self, place: Place, way: str, processes: int = 1) -> None:
        self._place = place
        self._way = way
        self.alive: list[Service] = []
        self.died: list[Service] = []
        for _ in range(processes):
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for service in self.alive:
            service.kill()

    def _start(self) -> None:
        self.alive.append(self._place.start(WAY=self._way))

    @property
    def buried(self) -> list[dict[str, Any]]:
        return [line for service in (*self.died, *self.alive) for line in service.events("message.dead")]

    def run(self) -> None:
        """Until all messages but one are done and that one is dead."""
        until(self._over, "one is dead and the others are done", deadline=100)

    def _over(self) -> bool:
        for service in [service for service in self.alive if service.process.poll() is not None]:
            service.ended()
            self.alive.remove(service)
            self.died.append(service)
            assert len(self.died) <= MOST_DEATHS, "one killer cost more processes than was said"
            self._start()
        return len(set(ended(self._place))) >= MESSAGES - 1 and bool(self.buried)


def ended(place: Place) -> list[str]:
    return [line.split()[1] for line in place.ledger() if line.startswith("end ")]


def check(place: Place, supervisor: Supervisor, names: list[str], cause: str) -> None:
    """That the killer, and nobody else, was set aside, the others were done once each, and nothing is left behind."""
    assert sorted(ended(place)) == sorted(set(names) - {f"m{KILLER}"}), "the others are done once each"
    (buried,) = supervisor.buried
    assert (buried["message_id"], buried["reason"]) == (f"m{KILLER}", "poison")
    assert cause in buried["detail"]
    (letter,) = place.dead("work")
    assert (letter["id"], letter["reason"], letter["attempts"]) == (f"m{KILLER}", "poison", 1)
    assert [service.stop() for service in supervisor.alive] == [0] * len(supervisor.alive)
    state = Path(place.environment["XDG_STATE_HOME"]) / "pythia"
    assert sorted(path.name for path in state.rglob("*")) == ["lock"]


@pytest.mark.parametrize(
    ("way", "cause", "code"),
    [
        ("segfault", "Segmentation fault", -signal.SIGSEGV),
        ("exit", "os._exit(1)", 1),
        ("abort", "Aborted", -signal.SIGABRT),
        ("out-of-memory", "out of memory", -signal.SIGKILL),
    ],
)
def test_of_64_in_flight_the_one_that_kills_the_process_is_set_aside_and_the_others_are_done(place, way, cause, code):
    names = publish(place)
    with Supervisor(place, way) as supervisor:
        supervisor.run()
        assert [service.process.returncode for service in supervisor.died] == [code] * MOST_DEATHS
        check(place, supervisor, names, cause)


@pytest.mark.parametrize("name", ["redis-stream", "redis-list", "rabbitmq"])
def test_so_it_is_on_every_broker_that_keeps_messages(place, name):
    with venue_of(name) as venue:
        place.url = venue.url
        if isinstance(venue, RabbitVenue):
            venue.declare("work")  # publishing makes none
        names = publish(place)
        with Supervisor(place, "segfault") as supervisor:
            supervisor.run()
            check(place, supervisor, names, "Segmentation fault")


def test_another_process_of_the_host_hears_of_a_death_before_it_handles_what_was_in_the_dead_ones_hands(place):
    """It has not been started since; and the killer takes none of its messages along."""
    names = publish(place)
    with Supervisor(place, "segfault", processes=2) as supervisor:
        supervisor.run()
        check(place, supervisor, names, "Segmentation fault")


def test_a_handler_that_kills_its_own_process_with_sigkill_is_taken_for_a_kill_from_outside(place):
    """Nobody can tell them apart: that is said in the guarantees, and nobody is blamed."""
    publish(place)
    for _ in range(MOST_DEATHS + 1):
        service = place.start(WAY="kill")
        assert service.ended() == -signal.SIGKILL
        assert not service.events("message.dead")
        assert not service.events("worker.notice")
    assert place.dead("work") == []


def kills(place: Place, count: int, seed: int) -> None:
    """SIGKILL from outside, again and again, in mid-work: nothing is dead-lettered, nothing is suspected, nothing is lost."""
    chance, names = random.Random(seed), [f"m{number}" for number in range(count * 8)]
    for name in names:
        place.publish_bytes("work", b"{}", id=name)
    for _ in range(count):
        service, had = place.start(), len(place.ledger())
        until(lambda had=had: len(place.ledger()) > had, "it is at work")
        time.sleep(chance.uniform(0.0, 0.1))  # the moment of the kill
        service.kill()
        assert not service.events("worker.notice"), "somebody is suspected"
        assert not service.events("message.dead")
    with place.running() as last:
        until(lambda: set(ended(place)) == set(names), "all are done", deadline=120)
        until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "and settled")
        assert last.stop() == 0
    assert place.dead("work") == []


def test_twenty_kills_from_outside_blame_nobody(place):
    (place.directory / "app.py").write_text(KILLED)
    kills(place, 20, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_two_hundred_kills_from_outside_blame_nobody(place):
    (place.directory / "app.py").write_text(KILLED)
    kills(place, 200, seed=2)
