"""Verifies installed files against the digests recorded at their installation; ``pythia demo`` runs it on this environment."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path

from pythia import Message, Reject, RetryPolicy, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFile:
    """A file as its distribution recorded it; ``digest`` is URL-safe base64 without padding."""

    path: str
    algorithm: str
    digest: str
    distribution: str


class IntegrityWorker(Worker):
    """Hashes a file and compares. A changed file is rejected at once; one that cannot be read gets three attempts."""

    queue = "integrity"
    concurrency = 8
    retry = RetryPolicy(max_attempts=3, base_seconds=0.2, give_up_on=(ValueError,))  # ValueError: an unknown algorithm

    async def on_startup(self) -> None:
        self.bytes_hashed = self.metrics.counter("integrity_bytes_total", "Bytes of the files that were hashed")

    async def process_message(self, message: Message[RecordedFile]) -> None:
        file = message.body
        found, size = await asyncio.to_thread(digest_of, Path(file.path), file.algorithm)
        self.bytes_hashed.inc(size)
        if found != file.digest:
            expected = f"its record in {file.distribution} says {file.algorithm}={file.digest}"
            raise Reject(f"{file.path} was changed: {expected}, the file has {file.algorithm}={found}")


def digest_of(path: Path, algorithm: str) -> tuple[str, int]:
    """The digest of a file, written as in a RECORD, and how many bytes it has.

    Raises:
        OSError: it cannot be read. ValueError: there is no such algorithm.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
        return urlsafe_b64encode(digest).decode().rstrip("="), file.tell()
