"""Pythia's contestants: ``pythia.proof.child`` runs them, and its recorder writes what they do."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.work import ATTEMPTS, CONCURRENCY, work
from pythia import Message, RetryPolicy, Worker


class Steady(Worker):
    """Every message succeeds."""

    concurrency = CONCURRENCY

    async def process_message(self, message: Message[Any]) -> None:
        await work(message.body, poison=False)


class Poisoned(Worker):
    """One message in 50 always fails: a dead letter after as many attempts as FastStream is given."""

    concurrency = CONCURRENCY
    retry = RetryPolicy(max_attempts=ATTEMPTS, base_seconds=0.1)

    async def process_message(self, message: Message[Any]) -> None:
        await work(message.body, poison=True)
