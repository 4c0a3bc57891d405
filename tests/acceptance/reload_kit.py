"""A service whose configuration is a file, replaced the way operators replace it, and reloaded by signal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.service_kit import NOTE, PYTHIA, Place, Service, until

APP = (
    NOTE
    + """
class App(Worker):
    async def process_message(self, message):
        await asyncio.sleep(SECONDS)
        note(message.body, message.attempt)
"""
)


class Reloadable(Place):
    """``write`` replaces ``config/pythia.toml`` by rename; the broker's URL is written last, if it is not in the text."""

    def __init__(
        self, directory: Path, seconds: float = 0.0, url: str | None = None, module: str | None = None
    ) -> None:
        super().__init__(directory, APP.replace("SECONDS", str(seconds)) if module is None else module)
        self.url = self.url if url is None else url
        self.config = directory / "config" / "pythia.toml"
        self.config.parent.mkdir()

    def write(self, text: str = "", url: str | None = None, broker: str = "") -> None:
        draft = self.config.with_suffix(".draft")
        draft.write_text(f"{text}\n[broker]\nurl = '{self.url if url is None else url}'\n{broker}\n")
        draft.replace(self.config)

    @contextmanager
    def served(self, **environment: str) -> Iterator[Service]:
        """``pythia run`` with its probes, by the file alone; consuming inside, killed at the end if it is still there."""
        process = subprocess.Popen(
            [*PYTHIA, "run", "app:App", "--log-format", "json", "--port", "0"],
            cwd=self.directory,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        service = Service(process)
        try:
            service.wait_for("consumer.registered")
            yield service
        finally:
            service.kill()


def outcomes(service: Service) -> list[dict[str, Any]]:
    """The log's lines about reloads, in order."""
    return [line for line in list(service.lines) if str(line.get("event", "")).startswith("config.")]


def reload(service: Service) -> dict[str, Any]:
    """SIGUSR1, and the one line that it makes."""
    before = len(outcomes(service))
    service.signal(signal.SIGUSR1)
    until(lambda: len(outcomes(service)) > before, "a line about the reload")
    return outcomes(service)[before]
