"""``pythia reload``: a running worker reads its configuration again, and applies all that changed, or nothing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from pythia.cli import admin
from pythia.cli.failure import CommandError
from pythia.cli.output import print_json, print_table, say


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia reload``."""
    admin.add_arguments(parser, "reload")


def main(args: Namespace) -> int:
    """Have it reload; 0 when that was applied, 1 when it was refused, with what it would have changed.

    Raises:
        CommandError: nobody answers, or what answers cannot reload.
    """
    url, status, answer = admin.post(args, "/reload")
    if status not in (200, 409) or not isinstance(answer, dict) or "result" not in answer:
        raise CommandError(f"{url} did not reload: {admin.why(status, answer)}", exit_code=1)
    if args.json:
        print_json(answer)
    else:
        tell(args, answer)
        say(f"{url}: {_sentence(answer)}")
    return 0 if answer["result"] == "applied" else 1


def tell(args: Namespace, answer: dict[str, Any]) -> None:
    """The changes of a reload, or of a plan, as a table; nothing when there are none."""
    rows = [[change["key"], change["old"], change["new"], change["class"]] for change in answer["changes"]]
    if rows:
        print_table(args, ("KEY", "OLD", "NEW", "TAKES"), rows)


def _sentence(answer: dict[str, Any]) -> str:
    match answer["result"]:
        case "applied" if not answer["changes"]:
            return f"nothing to change; generation {answer['generation']}"
        case "applied":
            return f"applied as generation {answer['generation']}"
        case "rolled_back":
            return f"rolled back: {answer['cause']}"
    return f"refused, nothing changed: {answer['cause']}"
