"""Breaks things as a schedule says, and notes of each fault when it began, the evidence that it happened, and when it was over.

What cannot be done is an error, and makes the run invalid: a fault that was only meant to be there proves nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from pythia.proof.crew import Crew, Slot, stands_still
from pythia.proof.ledger import Following, Ledger
from pythia.proof.producer import Producer
from pythia.proof.proxy import Proxy
from pythia.proof.schedule import Cause, Kind, Planned

STOPPED_SECONDS = 5.0  # beyond the drain timeout
WORKING_SECONDS = 15.0
BLOCKED_SECONDS = 30.0  # until a message of ours is handled
LATENCY_SECONDS = 0.1
SLOW_BYTES_A_SECOND = 64_000
MOST_BYTES_BEFORE_A_CUT = 3_000
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Shown:
    """That a fault really happened. ``cause``: which repeats it explains, when its kind's is not the one; ``pids``: whom it hit,
    when only the evidence tells."""

    text: str
    cause: Cause | None = None
    pids: tuple[int, ...] = ()


Evidence = Callable[[], Shown | None]  # None: it cannot be shown
Injection = Callable[[Planned], AbstractContextManager[Evidence]]


class Venue(Protocol):
    """A broker that may be broken: what can be done to it, and how. Entering breaks it, leaving mends it."""

    @property
    def kinds(self) -> Sequence[Kind]: ...
    def strike(self, planned: Planned) -> AbstractContextManager[Evidence]: ...


class Nemesis:
    """Carries out a schedule. Each fault has a thread of its own, and waits for those before it at the same place."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        crew: Crew,
        producer: Producer,
        *,
        ledger: Ledger,
        following: Following,
        producer_proxy: Proxy | None,
        venue: Venue | None,
        drain_seconds: float,
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._crew = crew
        self._producer = producer
        self._ledger = ledger
        self._following = following
        self._producer_proxy = producer_proxy
        self._venue = venue
        self._drain_seconds = drain_seconds
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server_busy = threading.Lock()
        self.struck = 0
        self.now: set[str] = set()  # what is broken at the moment
        self._injections: Mapping[str, Injection] = {
            "kill": self._kill,
            "kill-all": self._kill_all,
            "stop": self._stop,
            "freeze": self._freeze,
            "pause": self._freeze,
            "block": self._block,
            "reset": self._cut,
            "close": self._cut,
            "cut-mid-frame": self._cut_mid_frame,
            "half-open": self._blackhole,
            "deaf": self._blackhole,
            "mute": self._blackhole,
            "latency": self._slow,
            "bandwidth": self._slow,
            "slices": self._slow,
            "producer-reset": self._cut,
        }

    def begin(self, planned: Planned) -> None:
        """Let a fault strike; returns at once."""
        thread = threading.Thread(target=self._strike, args=(planned,), name=f"fault {planned.number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def at_work(self) -> bool:
        """Whether anything is broken, or about to be."""
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Mend everything now."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _strike(self, planned: Planned) -> None:
        kind = self._kinds[planned.kind]
        slots = self._slots_of(kind, planned)
        with ExitStack() as places:
            for lock in self._locks(kind, slots):
                places.enter_context(lock)
            self._wait_for_a_victim(kind, planned)
            if self._over.is_set():
                return
            self.struck += 1
            self.now.add(kind.name)
            try:
                self._do(planned, kind, slots)
            except Exception as error:  # noqa: BLE001 - whatever it was, the run is worth nothing
                self._ledger.tell("error", fault=planned.number, text=f"{kind.name}: {error!r}")
            finally:
                self.now.discard(kind.name)

    def _wait_for_a_victim(self, kind: Kind, planned: Planned) -> None:
        """A stop is of a worker that has something to do, a cut one of a connection: not while a worker is being started."""
        match kind.place:
            case "link" | "producer":
                proxy = self._proxy(planned)

                def is_there() -> bool:
                    return proxy.connections > 0

            case "worker" if kind.cause == "stop":
                slot = self._crew.slots[planned.slot]

                def is_there() -> bool:
                    return slot.pid in self._following.last_start

            case _:
                return
        deadline = time.monotonic() + WORKING_SECONDS
        while not is_there() and time.monotonic() < deadline and not self._over.wait(0.05):
            pass

    def _do(self, planned: Planned, kind: Kind, slots: Sequence[Slot]) -> None:
        number, before = planned.number, [len(slot.pids) - 1 for slot in slots]
        pids = [slot.pid for slot in slots]
        self._ledger.tell("began", fault=number, kind=kind.name, cause=kind.cause, pids=pids, destroys=kind.destroys)
        shown: Shown | None = None
        try:
            with self._injection(kind)(planned) as evidence:
                self._over.wait(planned.seconds if kind.place != "message" else 0.0)
                shown = evidence()
                if shown is not None:
                    self._ledger.tell("evidence", fault=number, text=shown.text, cause=shown.cause or kind.cause)
        finally:
            more = [] if shown is None else [*shown.pids]
            hit = [pid for slot, at in zip(slots, before, strict=True) for pid in slot.pids[at:]]
            self._ledger.tell("healed", fault=number, heirs=[slot.pid for slot in slots] + more, pids=hit + more)

    def _injection(self, kind: Kind) -> Injection:
        found = self._injections.get(kind.name)
        if found is not None:
            return found
        assert self._venue is not None, f"nobody can do {kind.name}"
        return self._venue.strike

    def _slots_of(self, kind: Kind, planned: Planned) -> Sequence[Slot]:
        """The workers that it hits."""
        match kind.place:
            case "worker" | "link":
                return [self._crew.slots[planned.slot]]
            case "workers" | "server":
                return self._crew.slots
            case _:
                return []

    def _locks(self, kind: Kind, slots: Sequence[Slot]) -> list[threading.Lock]:
        match kind.place:
            case "worker" | "workers":
                return [slot.busy for slot in slots]
            case "link":
                return [slot.link_busy for slot in slots]
            case "server":
                return [self._server_busy]
            case _:
                return []

    # What happens to processes.

    @contextmanager
    def _kill(self, planned: Planned) -> Iterator[Evidence]:
        with self._killed([self._crew.slots[planned.slot]]) as evidence:
            yield evidence

    @contextmanager
    def _kill_all(self, _planned: Planned) -> Iterator[Evidence]:
        with self._killed(self._crew.slots) as evidence:
            yield evidence

    @contextmanager
    def _killed(self, slots: Sequence[Slot]) -> Iterator[Evidence]:
        codes = {slot.pid: slot.kill() for slot in slots}
        try:
            killed = all(code == -signal.SIGKILL for code in codes.values())
            yield lambda: Shown(f"ended by SIGKILL: {', '.join(map(str, codes))}") if killed else None
        finally:
            for slot in slots:
                slot.start()

    @contextmanager
    def _stop(self, planned: Planned) -> Iterator[Evidence]:
        slot = self._crew.slots[planned.slot]
        slot.signal(signal.SIGTERM)
        try:
            code = slot.ended(self._drain_seconds + STOPPED_SECONDS)
            if code not in (0, 75):
                raise RuntimeError(f"worker {slot.pid} ended with {code} at SIGTERM: {slot.last_words()}")
            yield lambda: Shown(f"worker {slot.pid} ended with {code}", cause="kill" if code == 75 else None)
        finally:
            if not slot.running:
                slot.start()

    @contextmanager
    def _freeze(self, planned: Planned) -> Iterator[Evidence]:
        slot = self._crew.slots[planned.slot]
        slot.signal(signal.SIGSTOP)
        try:
            yield (
                lambda: (
                    Shown(f"worker {slot.pid} stood still for {planned.seconds:.1f} s")
                    if stands_still(slot.pid)
                    else None
                )
            )
        finally:
            slot.signal(signal.SIGCONT)

    @contextmanager
    def _block(self, planned: Planned) -> Iterator[Evidence]:
        name = self._producer.say({"block": planned.seconds}).encode()
        deadline = time.monotonic() + planned.seconds + BLOCKED_SECONDS
        while name not in self._following.over and time.monotonic() < deadline and not self._over.is_set():
            time.sleep(0.05)
        pid, seconds = self._following.run_of(name)
        long_enough = seconds >= 0.9 * planned.seconds
        yield lambda: Shown(f"worker {pid} was blocked for {seconds:.1f} s", pids=(pid,)) if long_enough else None

    # What happens to connections.

    def _proxy(self, planned: Planned) -> Proxy:
        of_the_producer = self._kinds[planned.kind].place == "producer"
        proxy = self._producer_proxy if of_the_producer else self._crew.slots[planned.slot].proxy
        assert proxy is not None
        return proxy

    @contextmanager
    def _cut(self, planned: Planned) -> Iterator[Evidence]:
        proxy = self._proxy(planned)
        count = proxy.cut("fin" if planned.kind == "close" else "rst")
        yield lambda: Shown(f"{count} connections ended") if count else None

    @contextmanager
    def _cut_mid_frame(self, planned: Planned) -> Iterator[Evidence]:
        proxy, before = self._proxy(planned), self._proxy(planned).cuts
        after = 1 + int(planned.chance * MOST_BYTES_BEFORE_A_CUT)
        proxy.cut_after(after)
        try:
            with contextlib.suppress(TimeoutError):
                proxy.wait_for(lambda proxy: proxy.cuts > before, CLOSE_SECONDS)
            yield (
                lambda: (
                    Shown(f"{proxy.cuts - before} connections ended after {after} bytes")
                    if proxy.cuts > before
                    else None
                )
            )
        finally:
            proxy.heal()

    @contextmanager
    def _blackhole(self, planned: Planned) -> Iterator[Evidence]:
        proxy = self._proxy(planned)
        match planned.kind:
            case "deaf":
                proxy.blackhole("down")
            case "mute":
                proxy.blackhole("up")
            case _:
                proxy.blackhole()
        open_then = proxy.connections
        try:
            yield lambda: Shown(f"{open_then} connections open, {proxy.held} bytes held back") if proxy.held else None
        finally:
            proxy.heal()

    @contextmanager
    def _slow(self, planned: Planned) -> Iterator[Evidence]:
        proxy, before = self._proxy(planned), sum(self._proxy(planned).bytes.values())
        match planned.kind:
            case "latency":
                proxy.delay(LATENCY_SECONDS)
            case "bandwidth":
                proxy.slow(bytes_a_second=SLOW_BYTES_A_SECOND)
            case _:
                proxy.slow(slices=1)
        try:
            yield lambda: Shown(f"{passed} bytes passed so") if (passed := sum(proxy.bytes.values()) - before) else None
        finally:
            proxy.heal()
