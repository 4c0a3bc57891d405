"""Messages that always fail: they hold nobody up, are tried as often as was said, and leave a complete record."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

from tests.acceptance.service_kit import Place
from tests.faults.poison import WORKER, bodies, handle


def test_a_hundred_that_always_fail_among_two_thousand_are_tried_five_times_each_and_leave_complete_records(
    tmp_path: Path,
) -> None:
    """The nineteen hundred others are done once each."""
    place = Place(tmp_path, WORKER)
    handled = handle(place, 1900, 100)
    bad = {str(body["n"]): body for body in bodies(1900, 100) if body["bad"]}
    assert len(bad) == 100
    assert {number: handled.begun[number] for number in bad} == dict.fromkeys(bad, 5)
    assert len(handled.ended) == 1900
    assert set(handled.ended.values()) == {1}
    assert {handled.begun[number] for number in handled.ended} == {1}

    letters = place.dead()
    assert len(letters) == 100
    for letter in letters:
        number = letter["error"]["message"].removeprefix("no such order: ")
        assert bad.pop(number)
        assert (letter["reason"], letter["attempts"]) == ("attempts_exhausted", 5)
        assert letter["error"]["type"] == "LookupError"
        assert letter["worker"] == "app"
        assert letter["worker_id"].startswith("app-")
        assert letter["origin_queue"] == "default"
        assert letter["content_type"] == "application/json"
        published, first_seen, dead = (moment(letter[key]) for key in ("published_at", "first_seen_at", "dead_at"))
        assert published <= first_seen < dead
    assert not bad


def test_one_dead_letter_is_shown_with_body_headers_and_traceback(tmp_path: Path) -> None:
    place = Place(tmp_path, WORKER)
    sent = place.command(
        "publish", "default", '{"n": 7, "bad": true, "note": "naïve ☂"}', "-H", "tenant=acme", "--id", "o-7"
    )
    assert sent.stdout == "o-7\n"
    assert place.run_to_the_end("--burst", PYTHIA_RETRY__MAX_ATTEMPTS="1")[0] == 0
    done = place.command("dead", "show", "default", "o-7", "--json")
    assert done.returncode == 0, done.stderr
    letter = json.loads(done.stdout)
    letter = letter["items"][0] if "items" in letter else letter
    assert letter["body"] == {"n": 7, "bad": True, "note": "naïve ☂"}
    assert letter["headers"]["tenant"] == "acme"
    assert letter["body_bytes"] == len('{"n": 7, "bad": true, "note": "naïve ☂"}'.encode())
    assert letter["attempts"] == 1
    traceback = letter["error"]["traceback"]
    assert "app.py" in traceback
    assert "in process_message" in traceback
    assert traceback.rstrip().endswith("LookupError: no such order: 7")


def moment(text: str) -> datetime:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text), (
        f"{text} is not RFC 3339 in UTC with milliseconds"
    )
    return datetime.fromisoformat(text)
