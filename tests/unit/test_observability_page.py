"""The page that an operator reads when paged names every event, with its level."""

from __future__ import annotations

import re
from pathlib import Path

from pythia.core import events

PAGE = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


def told() -> dict[str, str]:
    """Event name → level, as the page's table has them."""
    return dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| (debug|info|warning|error) \|", PAGE.read_text(), re.MULTILINE))


def emitted() -> dict[str, str]:
    """Event name → level, as the core has them."""
    classes = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, events.Event)]
    return {cls.name: cls.level for cls in classes if hasattr(cls, "name")}


def test_every_event_is_on_the_page_with_its_level_and_no_other_is() -> None:
    assert told() == emitted()
