"""``pythia pause``: a running worker takes nothing more, finishes what runs, and gives back the rest."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pythia.cli import admin


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia pause``."""
    admin.add_arguments(parser, "pause")


def main(args: Namespace) -> int:
    """Pause it; 0 when it is paused."""
    return admin.tell(args, "pause", "paused; it takes nothing more until pythia resume, or a restart")
