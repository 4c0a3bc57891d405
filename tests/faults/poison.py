"""Messages that always fail, among others that do not."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from tests.acceptance.service_kit import NOTE, Place, until

WORKER = (
    NOTE
    + """
class App(Worker):
    retry = RetryPolicy(max_attempts=5, base_seconds=float(os.environ.get("BASE", "0.05")), jitter=0.0)

    async def process_message(self, message):
        note("begin", message.body["n"], message.attempt)
        await asyncio.sleep(0.005)
        if message.body["bad"]:
            raise LookupError(f"no such order: {message.body['n']}")
        note("end", message.body["n"], message.attempt)
"""
)


@dataclass(frozen=True, slots=True)
class Handled:
    """What the ledger says: how often each message was begun, which came to an end, and when the last of these did."""

    begun: Counter[str]
    ended: Counter[str]
    seconds: float


def bodies(good: int, bad: int) -> list[dict[str, object]]:
    """``bad`` failing ones spread evenly among ``good``."""
    total = good + bad
    places = {round(number * total / bad) for number in range(bad)} if bad else set()
    return [{"n": number, "bad": number in places, "note": "naïve ☂"} for number in range(total)]


def handle(place: Place, good: int, bad: int, *, all_dead: bool = True, **environment: str) -> Handled:
    """Publish, run one worker until the good ones are done, and (``all_dead``) the bad ones dead."""
    place.publish("default", bodies(good, bad))
    ledger = place.directory / "effects"
    with place.running(**environment) as service:
        began = time.monotonic()
        until(lambda: ledger.exists() and ledger.read_bytes().count(b"end ") >= good, "the good ones are done")
        seconds = time.monotonic() - began
        if all_dead:
            until(lambda: place.rows("SELECT count(*) FROM messages") == [(0,)], "the bad ones are dead")
        assert service.stop() == 0
    lines = [line.split() for line in place.ledger()]
    begun = Counter(number for verb, number, _ in lines if verb == "begin")
    return Handled(begun, Counter(number for verb, number, _ in lines if verb == "end"), seconds)
