"""``pythia resume``: a paused worker takes messages again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pythia.cli import admin


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia resume``."""
    admin.add_arguments(parser, "resume")


def main(args: Namespace) -> int:
    """Resume it; 0 when it takes messages again."""
    return admin.tell(args, "resume", "resumed")
